"""The servers' own rules where small random cases do not reach: long batches, and figures worked out by hand."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import random_placement
from reference import Slots
from reference_routing import ORACLES, Layer
from reference_sglang import static_copies
from reference_traffic import Wires, holders

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.routing.context import RoutingContext
from optimizer.routing.policies import POLICIES
from optimizer.routing.servers import python_random, sglang
from optimizer.traces.batches import Batches

MESH, MODEL = Mesh(3, 1, 4), Model("small", 6, 0, 3)
SLOTS: Slots = [[0, 1, 2, 3], [4, 5, 0, 1], [0, 2, 3, 4]]
"""Expert 0 has three copies, experts 1 to 4 have two, and expert 5 has one."""


def routed(policy: str, experts: Ints, rows: Ints) -> Ints:
    """The flat slots of one batch: experts `[token, k]`, source rows `[token]`."""
    context = RoutingContext.of(Placement(np.array(SLOTS)), MODEL, Network(MESH), 1, 10**6, None)
    batches = Batches(experts[None], rows[None])
    found: Ints = POLICIES[policy](batches.experts, batches.source_row, context)[0]
    return found


@pytest.mark.parametrize(
    "policy", ["even-source", "sglang-static", "sglang-dynamic", "sglang-rows", "vllm", "tensorrt-llm", "vllm-ascend"]
)
def test_long_batches_are_routed_as_the_oracle_does(policy: str, rng: np.random.Generator) -> None:
    """One source has 2,000 tokens and so six blocks of pairs, one has few, and one has none."""
    experts = np.argsort(rng.random((2100, 6)), axis=1)[:, :3]
    rows = (rng.random(2100) < 0.05).astype(np.int64) * 2
    layer = Layer(Wires(3, 1), SLOTS, 1, 10**6, [1.0] * 6, [[1.0] * 4] * 3)
    expected = ORACLES[policy](layer, experts.tolist(), holders(layer.wires, rows.tolist()))
    assert routed(policy, experts, rows).tolist() == [[4 * device + slot for device, slot in each] for each in expected]


def test_vllm_hashes_a_tokens_row_in_its_own_rank() -> None:
    """Rows 0 to 4 give 0, 2654435769, 1013904242, 3668340011 and 2027808484, which modulo 3 is 0, 0, 2, 2, 1."""
    copies = [0, 6, 8]
    experts = np.array([[0, 5, 3]] * 10)
    rows = np.array([1, 0] * 5)
    found = routed("vllm", experts, rows)
    assert found[0::2, 0].tolist() == found[1::2, 0].tolist() == [copies[rank] for rank in (0, 0, 2, 2, 1)]
    assert (found[:, 1] == 5).all()


def test_sglang_without_an_all_to_all_goes_by_the_row_in_the_whole_batch() -> None:
    """Expert 0 has three copies, in slots 0, 6 and 8, and expert 1 two, in slots 1 and 7, whatever source a row has."""
    found = routed("sglang-rows", np.array([[0, 1]] * 5), np.array([2, 0, 1, 1, 0]))
    assert found.tolist() == [[0, 1], [6, 7], [8, 1], [0, 7], [6, 1]]


def test_tensorrt_llm_begins_anew_in_each_block_one_copy_further() -> None:
    """All pairs are of expert 1, whose copies are slots 1 and 7; a block has 1,024 pairs."""
    experts, rows = np.ones((1026, 1), dtype=np.int64), np.zeros(1026, dtype=np.int64)
    found = routed("tensorrt-llm", experts, rows)[:, 0]
    assert found[:3].tolist() == [1, 7, 1]
    assert found[1022:].tolist() == [1, 7, 7, 1]
    assert routed("tensorrt-llm", experts, rows + 1)[:3, 0].tolist() == [7, 1, 7]


def test_vllm_ascend_uses_one_copy_in_a_rank() -> None:
    found = routed("vllm-ascend", np.array([[0, 1, 5]] * 3), np.arange(3))
    assert found.tolist() == [[0, 1, 5], [6, 7, 5], [8, 1, 5]]


def test_sglang_static_walks_over_all_layers_before_and_the_known_ones_as_they_are() -> None:
    """Four layers before this one, one of which is known: what is not known is slot p modulo experts."""
    rng, mesh = np.random.default_rng(3), Mesh(4, 2, 4)
    known, placement = random_placement(rng, 9, mesh), random_placement(rng, 9, mesh)
    tables = []
    for before in ((), (None,) * 4, (None, known, None, None)):
        found = sglang.static_table(*placement.replicas(9), Network(mesh, "device", "nodes"), 4, before)
        slots = [None if each is None else each.slots.tolist() for each in (*before, placement)]
        copies = [static_copies(Wires(4, 2, "device", "nodes"), slots, 9, rank) for rank in range(8)]
        assert found.tolist() == [[4 * device + slot for device, slot in own] for own in copies]
        tables.append(found.tolist())
    assert tables[0] != tables[1] != tables[2]


def test_sglang_prefers_its_own_gpu_then_its_own_node_if_that_narrows() -> None:
    """Two nodes of two GPUs. Copies: expert 0 on all nodes, 1 on the GPUs of node 0, 2 on GPU 3 alone, 3 on both nodes'
    second GPU."""
    slots = np.array([[0, 1], [1, 3], [0, -1], [2, 3]])
    context = RoutingContext.of(
        Placement(slots), Model("m", 4, 0, 1), Network(Mesh(2, 2, 2), "device", "nodes"), 1, 1, None
    )
    near = sglang.near_copy(context.start, context.slot, context.network, 2)
    assert near.tolist() == [[0, 1, 6, 3], [0, 2, 6, 3], [4, -1, 6, 7], [4, -1, 6, 7]]


def test_sglang_static_shares_are_as_unfair_as_its_own_are() -> None:
    """Of 32 ranks on 8 nodes, which have walked over 10 layers, far from half use the first of some experts' two
    copies: as they have near copies of different experts, their generators do not stay in step."""
    rng, mesh, experts = np.random.default_rng(5), Mesh(8, 4, 9), 256
    before = tuple(random_placement(rng, experts, mesh) for _ in range(10))
    start, slot = random_placement(rng, experts, mesh).replicas(experts)
    table = sglang.static_table(start, slot, Network(mesh, "device", "nodes"), 9, before)
    twice = np.flatnonzero(np.diff(start) == 2)
    first = (table[:, twice] == slot[start[twice]]).sum(axis=0)
    assert first.min() <= 12
    assert first.max() >= 20


def test_sglang_dynamic_spreads_pairs_over_copies() -> None:
    """One rank without any copy of the expert, which three other ranks on two other nodes have."""
    slots = np.array([[1], [0], [0], [0]])
    context = RoutingContext.of(
        Placement(slots), Model("m", 2, 0, 1), Network(Mesh(4, 1, 1), "device", "nodes"), 1, 1, None
    )
    batches = Batches(np.zeros((1, 6000, 1), dtype=int), np.zeros((1, 6000), dtype=int))
    found = POLICIES["sglang-dynamic"](batches.experts, batches.source_row, context)
    assert np.bincount(found.ravel(), minlength=4).tolist() == pytest.approx([0, 2000, 2000, 2000], rel=0.05)


def test_split_mix_gives_the_published_numbers() -> None:
    """The first outputs of SplitMix64 from seed 0, as its reference implementation prints them."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [sglang.split_mix(number) for number in range(3)] == [number >> 32 for number in published]


@given(seed=st.integers(0, 2**70), total=st.integers(1, 120), data=st.data())
def test_kernels_draw_what_pythons_random_draws(seed: int, total: int, data: st.DataObject) -> None:
    """Numbers, samples of both of Python's ways to draw them, and shuffled lists, one after another, so that a number
    too many or too few would show."""
    plain, state = random.Random(seed), python_random.generator(seed)
    items = list(range(10, 10 + total))
    for _ in range(8):
        end, count = data.draw(st.integers(1, 2**31)), data.draw(st.integers(0, total))
        assert python_random.below(state, end) == plain.randrange(end)
        into = np.zeros(count, dtype=np.int64)
        python_random.sample(state, np.array(items), count, into)
        assert into.tolist() == plain.sample(items, count)
        mixed, expected = np.array(items), items.copy()
        python_random.shuffle(state, mixed)
        plain.shuffle(expected)
        assert mixed.tolist() == expected
    assert state.tolist() == list(plain.getstate()[1])
