"""Mesh, model, presets and the cost model, against published figures."""

from pathlib import Path

import numpy as np
import pytest
from builders import cost

from optimizer.errors import InputError
from optimizer.mesh import Mesh
from optimizer.model import Model
from optimizer.presets import load_hardware, load_model, names


@pytest.mark.parametrize(
    ("loads", "microseconds"),
    [((17, 17), 235), ((17, 38), 365), ((38, 38), 495), ((38, 70), 625), ((0, 0), 0), ((0, 1), 117.5)],
)
def test_compute_staircase_reproduces_the_published_examples(loads: tuple[int, int], microseconds: float) -> None:
    assert cost().compute_us(np.array([[loads]])) == [microseconds]


def test_compute_is_that_of_the_slowest_device() -> None:
    assert cost().compute_us(np.array([[[17, 0], [38, 70]], [[1, 0], [0, 0]]])).tolist() == [625, 117.5]


def test_link_time_is_that_of_the_busiest_edge() -> None:
    halves = np.zeros((2, 8, 2, 16), dtype=int)
    halves[1, 3, 1, 7] = 2 * 279
    assert cost().dispatch_us(halves).tolist() == pytest.approx([20.7, 20.7 + 14336 / 100])
    assert cost().combine_us(halves).tolist() == pytest.approx([32.0, 32.0 + 14336 / 100])


def test_a_message_less_saves_its_share_of_the_evenly_used_edges() -> None:
    assert cost().message_ns(Mesh(16, 8, 3)) == round(14336 / 27.9 * 4 / 256)  # 4 hops on average, 256 directed edges
    assert cost().message_ns(Mesh(1, 8, 3)) == 0
    assert cost().message_ns(Mesh(3, 1, 3)) == round(14336 / 27.9 * (2 / 3) / 6)


def test_hops_go_the_short_way_round() -> None:
    mesh = Mesh(16, 8, 3)
    assert [mesh.hops(0, row) for row in (0, 1, 8, 9, 15)] == [0, 1, 8, 7, 1]
    assert (mesh.devices, mesh.slots) == (128, 384)


def test_deepseek_v3_has_58_moe_layers_and_its_shared_expert_comes_last() -> None:
    model = load_model("deepseek-v3")
    assert (model.moe_layers, model.experts, list(model.shared_ids)) == (58, 257, [256])


@pytest.mark.parametrize("text", ["0x8", "8x0", "16", "axb", "-1x8", "", "16x8x3"])
def test_a_mesh_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--mesh"):
        Mesh.parse(text, 3)


@pytest.mark.parametrize("wrong", [(0, 0, 1), (8, -1, 2), (8, 0, 9), (8, 0, 0)])
def test_an_impossible_model_is_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="--"):
        Model("odd", *wrong)


def test_every_preset_loads_and_every_section_has_a_source() -> None:
    assert {load_model(name).name for name in names("models")} == set(names("models"))
    for name in names("hardware"):
        preset = load_hardware(name)
        assert all(part.source for part in (preset.mesh, preset.compute, preset.dispatch, preset.combine))


def test_an_unknown_preset_names_those_that_exist() -> None:
    with pytest.raises(InputError, match=r"--model 'gpt-7'.*deepseek-v3"):
        load_model("gpt-7")
    with pytest.raises(InputError, match=r"--hardware 'abacus'.*tt-wormhole-quad-galaxy"):
        load_hardware("abacus")


OWN = """
[mesh]
source = "mine"
rows = 2
cols = 2
slots_per_device = 4
[compute]
source = "mine"
kind = "tiles"
tile_tokens = 16
first_tile_us = 10
further_tile_us = 5
[dispatch]
source = "mine"
kind = "link"
base_us = 1
bytes_per_token = 1000
gigabytes_per_second = 1
[combine]
source = "mine"
kind = "link"
base_us = 1
bytes_per_token = 1000
gigabytes_per_second = 1
message_per = "expert"
"""


def test_hardware_of_the_users_own_is_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    assert load_hardware(str(path)).compute.tile_tokens == 16


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tile_tokens = 16", "tile_tokens = 0", "compute.tile_tokens"),
        ("further_tile_us = 5", "furthr_tile_us = 5", "compute.further_tile_us|compute.furthr_tile_us"),
        ('source = "mine"\nrows', "rows", "mesh.source"),
        ("[mesh]", "[mesh", "not TOML"),
    ],
)
def test_a_fault_in_a_users_toml_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN.replace(old, new))
    with pytest.raises(InputError, match=said):
        load_hardware(str(path))


def test_a_missing_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_hardware(str(tmp_path / "none.toml"))
