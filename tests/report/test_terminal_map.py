"""The map of the mesh for terminals: loads where devices are, within 100 columns, with and without colours."""

import io
import re
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from optimizer.domain.mesh import Mesh
from optimizer.domain.network import Network
from optimizer.report.rendering import WIDTH, print_parts
from optimizer.report.terminal_map import map_parts
from optimizer.simulation.report import SimulationReport


def report(mesh: Mesh, load: Any) -> SimulationReport:
    """A report of which the mean load of each device, `[row, col]`, is known, and no more."""
    pairs = np.array([load, load]).reshape(2, mesh.devices)
    made = object.__new__(SimulationReport)
    known = {"routing": "optimal", "tokens": 8, "network": Network(mesh), "device_load": pairs,
             "dispatch_us": np.zeros(2)}  # fmt: skip
    for name, value in known.items():
        object.__setattr__(made, name, value)
    return made


def shown(reports: dict[int, list[SimulationReport]], **console: Any) -> str:
    out = io.StringIO()
    print_parts(map_parts(reports), Console(file=out, width=WIDTH, highlight=False, **console))
    return out.getvalue()


def test_loads_stand_where_devices_are() -> None:
    text = shown({3: [report(Mesh(2, 3, 1), [[100, 80, 101], [95, 104, 120]])]})
    lines = text.splitlines()
    assert "layer 3" in lines[0]
    rows = [line.split() for line in lines if re.match(r"\d ", line)]
    assert rows == [["0", "100", "80_", "101"], ["1", "95-", "104+", "120#"]]
    assert "Most on device 5 (120.0 pairs), least on device 1 (80.0)." in text.replace("\n", " ")


def test_there_is_a_map_for_each_layer_and_policy() -> None:
    mesh = Mesh(2, 2, 1)
    even = report(mesh, np.ones((2, 2)))
    assert shown({0: [even, even], 1: [even]}).count("Mesh of layer") == 3


@pytest.mark.parametrize(("rows", "cols"), [(16, 8), (8, 16), (64, 19)])
def test_usual_meshes_fit(rows: int, cols: int) -> None:
    load = np.full((rows, cols), 1)
    load[0, 0] = rows * cols  # hundreds of per cent
    assert max(map(len, shown({0: [report(Mesh(rows, cols, 1), load)]}).splitlines())) <= WIDTH


def test_a_mesh_that_is_too_wide_is_said_to_be() -> None:
    text = shown({0: [report(Mesh(64, 32, 1), np.ones((64, 32)))]})
    assert "64x32 devices is too wide" in text
    assert "moeplan report" in text.replace("\n", " ")


def test_colours_are_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = {0: [report(Mesh(1, 2, 1), [[1, 3]])]}
    assert "\x1b[" not in shown(reports)
    coloured = shown(reports, force_terminal=True, color_system="256")
    assert "48;5;" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "48;5;" not in shown(reports, force_terminal=True, color_system="256")
