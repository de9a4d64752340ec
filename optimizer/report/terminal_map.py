"""A small map of the mesh for a terminal: the mean load of each device, as a number and, where there are colours, as a
shade."""

from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table

from formulations.kit.arrays import Floats
from optimizer.report.rendering import WIDTH
from optimizer.report.tables import Part, make_table
from optimizer.simulation.report import SimulationReport

SHADES = ("grey23", "grey35", "grey50", "dark_orange3", "red3")
"""Colours of a cell's ground from the lightest load to the heaviest: they grow in lightness up to the mean, and warm
ones, which colour-blind readers tell from grey, are above it."""

ABOVE = (0.9, 0.98, 1.02, 1.1)
"""Device load over the mean of all devices, at which each further shade begins: within 2 % of the mean a device counts
as even. Not tuned."""

MARKS = ("_", "-", " ", "+", "#")
"""What stands behind a number at the same steps, for those who see no colours."""

CELL = 5
"""Columns of a cell: a blank, three digits of per cent, and a mark."""


def map_parts(reports: Mapping[int, Sequence[SimulationReport]]) -> list[Part]:
    """A map of each layer under each policy, or a sentence where the mesh does not fit into `WIDTH` columns."""
    return [part for layer, each in reports.items() for report in each for part in _parts(report, layer)]


def _parts(report: SimulationReport, layer: int) -> list[Part]:
    mesh = report.network.mesh
    most = (WIDTH - CELL) // CELL
    if mesh.cols > most:
        return [
            f"A map of {mesh.rows}x{mesh.cols} devices is too wide for {WIDTH} columns, which hold {most} devices in a "
            "row; `moeplan report` draws meshes of any size."
        ]
    load = report.device_load.mean(axis=0)
    return [_map(report, layer, load), _legend(load)]


def _map(report: SimulationReport, layer: int, load: Floats) -> Table:
    """The devices in rows and columns, as they lie in the mesh, each with its load in per cent of the mean."""
    mesh = report.network.mesh
    title = (
        f"Mesh of layer {layer}, routing {report.routing}: device load in % of the mean, {load.mean():.1f} pairs a "
        f"batch; means over {report.batches} batches of {report.tokens} tokens"
    )
    table = make_table(title, "row", [f"{col:3}" for col in range(mesh.cols)])
    table.box, table.show_edge, table.padding, table.pad_edge = None, False, (0, 0, 0, 1), False
    for column in table.columns[1:]:
        column.justify = "left"  # rich takes the blank away that is the mark of an even load, and moves the number
    for row, shares in enumerate((load / load.mean()).reshape(mesh.rows, mesh.cols)):
        table.add_row(str(row), *map(_cell, shares))
    return table


def _cell(share: float) -> str:
    """A device's load in per cent, with its mark, on the ground of its shade."""
    step = int(np.searchsorted(ABOVE, share, side="right"))
    return f"[white on {SHADES[step]}]{100 * share:3.0f}{MARKS[step]}[/]"


def _legend(load: Floats) -> str:
    """What the marks mean, and which devices have most and least."""
    most, least = int(load.argmax()), int(load.argmin())
    return (
        f"Most on device {most} ({load[most]:.1f} pairs), least on device {least} ({load[least]:.1f}). Marks: # from "
        f"{100 * ABOVE[3]:.0f} % on, + from {100 * ABOVE[2]:.0f} %, - below {100 * ABOVE[1]:.0f} %, _ below "
        f"{100 * ABOVE[0]:.0f} %."
    )
