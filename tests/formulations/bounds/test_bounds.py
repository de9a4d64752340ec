"""Bounds on peaks, copies and hops hold for all placements and routings of tiny layers."""

from itertools import product

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from formulations.batches.replica_routing import least_peaks
from formulations.bounds.communication import copies_bound, hops_bound
from formulations.bounds.load import any_placement_bound, static_counts_bound
from formulations.bounds.slot_knapsack import least_hull, least_sum

SHAPES = [(2, 1), (2, 2), (3, 1), (3, 2), (4, 1)]
Holders = list[set[int]]
Tokens = list[list[int]]


def placements(experts: int, devices: int, depth: int) -> list[Holders]:
    """All placements with all counts, as the devices of each expert."""
    counts = reference.count_vectors(experts, devices * depth, devices)
    return [holders for count in counts for holders in reference.all_placements(count, devices, depth)]


def least_mean_peak(load: list[list[int]], devices: int, depth: int) -> float:
    """The least mean peak of any placement, where each batch is routed at best."""
    sums = [
        sum(reference.best_split_peak(of_batch, holders) for of_batch in load)
        for holders in placements(len(load[0]), devices, depth)
    ]
    return min(sums) / len(load)


@st.composite
def loads(draw: st.DrawFn) -> tuple[list[list[int]], int, int]:
    """Random loads of up to four batches, devices, and slots of a device."""
    devices, depth = draw(st.sampled_from(SHAPES))
    experts = draw(st.integers(1, min(4, devices * depth)))
    of_batch = st.lists(st.integers(0, 12), min_size=experts, max_size=experts)
    return draw(st.lists(of_batch, min_size=1, max_size=4)), devices, depth


@given(loads())
def test_no_placement_of_all_batches_beats_the_bound_on_their_counts(drawn: tuple[list[list[int]], int, int]) -> None:
    load, devices, depth = drawn
    alone = any_placement_bound(np.array(load), devices, devices * depth)
    found = static_counts_bound(np.array(load), devices, devices * depth)
    assert alone.mean() - 1e-9 <= found <= least_mean_peak(load, devices, depth) + 1e-9


def test_hot_experts_of_different_batches_compete_for_slots() -> None:
    load = np.array([[12, 2, 2], [2, 12, 2], [2, 2, 12]])
    assert any_placement_bound(load, 4, 4).tolist() == [6, 6, 6]  # alone, each batch gives its hot expert two replicas
    assert static_counts_bound(load, 4, 4) == (12 + 12 + 6) / 3
    assert static_counts_bound(load, 6, 6) == 6.0
    assert least_mean_peak(load.tolist(), 4, 1) == 10.0


def test_bounds_of_peaks_that_many_steps_draw_coarsely_stay_below() -> None:
    load = np.array([[1000, 3, 5], [7, 900, 2], [0, 0, 0]])
    found = static_counts_bound(load, 4, 4)
    assert any_placement_bound(load, 4, 4).mean() < found <= least_mean_peak(load.tolist(), 4, 1)


def test_the_bound_of_a_given_placement_is_what_the_best_routing_reaches() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        holders = rng.random((4, 3)) < 0.5
        holders[np.arange(4), rng.integers(3, size=4)] = True
        load = rng.integers(0, 20, (2, 4))
        sets = [set(np.flatnonzero(row).tolist()) for row in holders]
        best = [reference.best_split_peak(of_batch, sets) for of_batch in load.tolist()]
        assert least_peaks(load, holders, "tokens")[0].tolist() == best


def cheapest(token: list[int], holders: Holders, hops: list[int]) -> int:
    """The least sum of hops to the devices that serve a token, over all choices of replicas."""
    return min(sum(hops[device] for device in set(choice)) for choice in product(*(holders[e] for e in token)))


def together_of(tokens: Tokens, experts: int) -> list[list[int]]:
    """How many tokens chose both experts; on the diagonal, how many chose the one."""
    return [[sum(x in token and y in token for token in tokens) for y in range(experts)] for x in range(experts)]


@st.composite
def token_cases(draw: st.DrawFn) -> tuple[list[Tokens], int, int, list[list[int]], int]:
    """Random tokens of each source, devices, slots of a device, hops from each source to each device, and experts."""
    devices, depth = draw(st.sampled_from([(2, 2), (3, 2), (2, 3), (4, 1)]))
    experts = draw(st.integers(2, min(4, devices * depth)))
    sources = draw(st.integers(1, 2))
    token = st.lists(st.integers(0, experts - 1), min_size=1, max_size=min(3, experts), unique=True)
    tokens = draw(st.lists(st.lists(token, max_size=4), min_size=sources, max_size=sources))
    hops = st.lists(st.integers(0, 4), min_size=devices, max_size=devices)
    return tokens, devices, depth, draw(st.lists(hops, min_size=sources, max_size=sources)), experts


@given(token_cases())
def test_no_placement_needs_fewer_copies_or_hops(
    drawn: tuple[list[Tokens], int, int, list[list[int]], int],
) -> None:
    tokens, devices, depth, hops, experts = drawn
    pairs = [(token, far) for source, far in zip(tokens, hops, strict=True) for token in source]
    every = placements(experts, devices, depth)
    together = np.array([together_of(source, experts) for source in tokens])
    fewest_copies = min(sum(cheapest(token, held, [1] * devices) for token, _ in pairs) for held in every)
    assert copies_bound(together.sum(axis=0), devices, depth) <= fewest_copies + 1e-9
    fewest_hops = min(sum(cheapest(token, held, far) for token, far in pairs) for held in every)
    assert hops_bound(together, np.array(hops), depth, devices * depth) <= fewest_hops + 1e-9


def test_bounds_on_copies_and_hops_equal_values_found_by_hand() -> None:
    together = np.array([[2, 2, 0, 0], [2, 2, 0, 0], [0, 0, 3, 3], [0, 0, 3, 3]])
    assert copies_bound(together, 2, 2) == 5.0  # pairs on a device each: one copy of each of five tokens
    assert copies_bound(together, 4, 1) == 10.0  # nobody shares a device
    far = np.array([[0, 1, 2, 3]])
    assert hops_bound(together[None], far, 1, 4) == 0.0  # each expert alone may be at home
    with pytest.raises(ValueError, match="4 experts do not fit in 3 slots"):
        hops_bound(together[None], far[:, :3], 1, 3)


@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 6), st.integers(0, 20), st.booleans())
def test_least_sums_of_hulls_are_below_exact_ones_by_one_step_at_most(
    seed: int, experts: int, counts: int, spare: int, convex: bool
) -> None:
    rng, counts = np.random.default_rng(seed), min(counts, 1 + spare)  # no expert can have more
    falls = rng.integers(0, 50, (counts, experts)).astype(np.float64)
    falls = -np.sort(-falls, axis=0) if convex else falls
    cost = falls.sum(axis=0) - np.concatenate([np.zeros((1, experts)), falls[1:].cumsum(axis=0)])
    number = np.arange(1, counts + 1)
    exact, hulls = least_sum(cost, number, spare), least_hull(cost, number, spare)
    if convex:
        assert np.isclose(exact, hulls)
    assert hulls <= exact + 1e-9
    assert exact <= hulls + (cost[0] - cost[-1]).max() + 1e-9
