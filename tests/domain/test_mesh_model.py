"""The mesh and the model's dimensions."""

import pytest

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.presets import load_model
from optimizer.errors import InputError


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
