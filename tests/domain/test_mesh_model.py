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
    with pytest.raises(InputError, match=r"is not a mesh|has no devices") as refused:
        Mesh.parse(text, 3)
    assert refused.value.field == "mesh"


def test_a_device_has_at_least_one_slot() -> None:
    with pytest.raises(InputError, match="0 slots per device") as refused:
        Mesh(2, 2, 0)
    assert refused.value.field == "slots_per_device"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ((0, 0, 1), "routed_experts"),
        ((8, -1, 2), "shared_experts"),
        ((8, 0, 9), "top_k"),
        ((8, 0, 0), "top_k"),
        ((2**16, 1, 8), "routed_experts"),  # ids take two bytes
    ],
)
def test_an_impossible_model_is_refused(wrong: tuple[int, int, int], field: str) -> None:
    with pytest.raises(InputError, match="model odd") as refused:
        Model("odd", *wrong)
    assert refused.value.field == field
