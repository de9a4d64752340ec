"""Ranks of servers as meshes: what divides evenly, and the nearest numbers where something does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.domain.deployment import ExpertRanks, with_shared_beside
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.presets import load_deployment, load_hardware, load_model, names
from optimizer.errors import InputError
from optimizer.routing.servers.abilities import SERVERS

V3 = with_shared_beside(load_model("deepseek-v3"))

SEEN = {
    "deepseek-v3-prefill-ep32": Mesh(4, 8, 9),
    "deepseek-v3-decode-ep144": Mesh(18, 8, 2),
    "deepseek-v3-sglang-ep72": Mesh(9, 8, 4),
    "deepseek-v3-sglang-gb200-ep48": Mesh(12, 4, 6),
    "deepseek-v3-gb200-nvl72": Mesh(18, 4, 4),
    "deepseek-v3-vllm-ep16": Mesh(2, 8, 18),
    "gpt-oss-120b-ep8": Mesh(1, 8, 17),
    "kimi-k2-ep144": Mesh(18, 8, 3),
    "qwen3-235b-ep32": Mesh(4, 8, 5),
}
"""Slots per rank as the sources of the presets state them."""


@pytest.mark.parametrize("name", names("deployments"))
def test_deployments_seen_have_the_slots_that_their_sources_state(name: str) -> None:
    preset = load_deployment(name)
    model = load_model(preset.model)
    held = with_shared_beside(model) if SERVERS[preset.server].shared_beside else model
    assert ExpertRanks(preset.ep_size, preset.redundant_experts, preset.gpus_per_node).mesh(held) == SEEN[name]
    assert load_hardware(preset.hardware).mesh.cols == preset.gpus_per_node


def test_an_unknown_deployment_names_those_there_are() -> None:
    with pytest.raises(InputError, match="deployment 'x' is not known; there are deepseek-v3-decode-ep144") as caught:
        load_deployment("x")
    assert caught.value.field == "deployment"


def test_shared_experts_beside_the_slots_have_no_ids() -> None:
    assert (V3.experts, V3.shared_beside, list(V3.shared_ids)) == (256, 1, [])
    assert with_shared_beside(V3) == V3


def test_ranks_of_less_than_a_node_are_one_row() -> None:
    assert ExpertRanks(4, 0, 8).mesh(Model("m", 8, 0, 2)) == Mesh(1, 4, 2)


@pytest.mark.parametrize(
    ("ranks", "field", "said"),
    [
        ((72, 31, 8), "redundant_experts", "287 slots, which 72 ranks cannot share evenly; take 32 redundant experts|"),
        ((72, 33, 8), "redundant_experts", "take 32 or 104 redundant experts"),
        ((72, 0, 8), "redundant_experts", "256 slots, which 72 ranks cannot share evenly; take 32 redundant experts"),
        ((20, 0, 8), "ep_size", "no whole number of nodes of 8 GPUs; take 16 or 24 ranks, or 5 GPUs per node"),
        ((11, 0, 4), "ep_size", "take 8 or 12 ranks, or 1 GPUs per node"),
        ((0, 0, 8), "ep_size", "0 is too few"),
        ((8, -1, 8), "redundant_experts", "-1 is too few"),
        ((8, 0, 0), "gpus_per_node", "0 is too few"),
    ],
)
def test_what_does_not_divide_is_refused_with_the_nearest_that_does(
    ranks: tuple[int, int, int], field: str, said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        ExpertRanks(*ranks).mesh(V3)
    assert caught.value.field == field


@given(st.integers(1, 200), st.integers(0, 300), st.integers(1, 16), st.integers(1, 300))
def test_every_mesh_has_just_the_ranks_and_the_replicas_and_every_refusal_helps(
    ep_size: int, redundant: int, node: int, experts: int
) -> None:
    """What is taken fits exactly; the first number that a refusal names is taken in its place."""
    model = Model("m", experts, 0, 1)
    try:
        mesh = ExpertRanks(ep_size, redundant, node).mesh(model)
    except InputError as error:
        number = int(str(error).split("; take ")[1].split()[0])
        better = (number, redundant, node) if error.field == "ep_size" else (ep_size, number, node)
        if error.field == "redundant_experts":
            assert ExpertRanks(*better).mesh(model).devices == ep_size
        else:
            assert ExpertRanks(*better).ep_size == number
        return
    assert (mesh.devices, mesh.slots) == (ep_size, experts + redundant)
    assert mesh.cols == min(ep_size, node)
