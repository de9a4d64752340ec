"""Learned shares are never worse than an even split on the train batches, and the best ones where these are known."""

from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_layers import Case, cases
from reference import Slots, replicas

from formulations.kit.arrays import Ints
from optimizer.domain.placement import Placement
from optimizer.routing.context import LearnedShares, RoutingContext
from optimizer.routing.learned_shares import PARTS, learn_shares
from optimizer.routing.policies import POLICIES
from optimizer.traces.batches import Batches

Shares = list[list[float]]


def summed_peaks(slots: Slots, loads: list[list[int]], value: list[int], share: Shares) -> int:
    """The cost of the dearest device of each batch, summed, if every replica serves its share rounded up."""
    total = 0
    for load in loads:
        cost = [0] * len(slots)
        for expert, pairs in enumerate(load):
            for device, slot in replicas(slots, expert):
                cost[device] += value[ceil(round(share[device][slot] * pairs, 6))]
        total += max(cost)
    return total


def staircase(most: int, tile: int) -> Ints:
    """The cost of a slot by its tokens, `[tokens + 1]`: 100 for each tile begun, and 1 for each token."""
    tokens = np.arange(most + 1)
    return np.where(tokens > 0, 100 * -(-tokens // tile) + tokens, 0)


def drawn_loads(seed: int, drawn: Case, batches: int) -> Ints:
    """Random loads `[batch, expert]`; some experts are idle."""
    rng = np.random.default_rng(seed)
    return rng.integers(-5, 40, (batches, drawn.model.experts)).clip(0).astype(np.int32)


@given(st.integers(0, 10**6), cases(), st.sampled_from([1, 8]))
def test_shares_are_no_worse_than_even_ones_and_sum_to_one(seed: int, drawn: Case, tile: int) -> None:
    load, slots = drawn_loads(seed, drawn, 5), drawn.placement.slots
    value = staircase(40, tile)
    found = learn_shares(drawn.placement, load, value)
    even = LearnedShares.nothing(drawn.placement, drawn.model.experts)
    peaks = [
        summed_peaks(slots.tolist(), load.tolist(), value.tolist(), known.share.tolist()) for known in (found, even)
    ]
    assert peaks[0] <= peaks[1]
    assert (found.share >= 0).all()
    assert (found.share[slots < 0] == 0).all()
    assert [found.share[slots == e].sum() for e in range(drawn.model.experts)] == pytest.approx(
        [1] * drawn.model.experts
    )
    assert found.load.tolist() == load.mean(axis=0).tolist()


@given(st.integers(0, 10**6), cases(replicas=2), st.sampled_from([1, 8]))
def test_no_part_of_a_share_is_better_handed_over(seed: int, drawn: Case, tile: int) -> None:
    """Two batches are few enough for the descent to end before it has made all its sweeps."""
    load, slots = drawn_loads(seed, drawn, 2).tolist(), drawn.placement.slots.tolist()
    value = staircase(40, tile)
    share = learn_shares(drawn.placement, np.array(load, dtype=np.int32), value).share.tolist()
    reached = summed_peaks(slots, load, value.tolist(), share)
    for expert in range(drawn.model.experts):
        there = replicas(slots, expert)
        for giver, taker, part in ((a, b, part) for a in there for b in there if a != b for part in PARTS):
            other = [list(row) for row in share]
            moved = share[giver[0]][giver[1]] * part
            other[giver[0]][giver[1]] -= moved
            other[taker[0]][taker[1]] += moved
            assert summed_peaks(slots, load, value.tolist(), other) >= reached


@given(cases())
def test_weighted_round_robin_costs_no_more_than_the_shares_promise(drawn: Case) -> None:
    """All tokens are of one source: several sources, each of which deals out its own pairs, may round up more."""
    load, slots = drawn.batches.load(drawn.model.experts), drawn.placement.slots.tolist()
    value = staircase(drawn.batches.tokens, 8)
    found = learn_shares(drawn.placement, load, value)
    context = RoutingContext.of(drawn.placement, drawn.model, drawn.network(("row", "rings")), 1, 1, found)
    together = Batches(drawn.batches.experts, np.zeros_like(drawn.batches.source_row))
    chosen = POLICIES["weights"](together.experts, together.source_row, context)
    peaks = 0
    for batch in chosen:
        cost = value[np.bincount(batch.ravel(), minlength=drawn.mesh.slots)]
        peaks += cost.reshape(drawn.mesh.devices, -1).sum(axis=1).max()
    assert peaks <= summed_peaks(slots, load.tolist(), value.tolist(), found.share.tolist())


@pytest.mark.parametrize(("beside", "share"), [(8, 1.0), (4, 0.75), (2, 0.625), (0, 0.5)])
def test_the_replica_beside_a_heavy_expert_is_spared(beside: int, share: float) -> None:
    """Eight pairs are split between devices that serve 0 and `beside` other pairs; equal loads are best."""
    placement = Placement(np.array([[0, -1], [0, 1], [-1, -1], [-1, -1]]))
    found = learn_shares(placement, np.array([[8, beside]] * 3, dtype=np.int32), np.arange(9))
    assert found.share[:2, 0].tolist() == [share, 1 - share]
    assert found.share[1, 1] == 1


def test_shares_are_learned_by_tiles_where_tiles_cost() -> None:
    """Half of six pairs opens a tile on each device; on one device all six cost no more than that half did."""
    placement = Placement(np.array([[0, 2], [0, 1]]))
    load = np.array([[6, 8, 1]] * 2, dtype=np.int32)
    even = summed_peaks(placement.slots.tolist(), load.tolist(), staircase(9, 8).tolist(), [[0.5, 1], [0.5, 1]])
    found = learn_shares(placement, load, staircase(9, 8))
    assert summed_peaks(placement.slots.tolist(), load.tolist(), staircase(9, 8).tolist(), found.share.tolist()) < even
