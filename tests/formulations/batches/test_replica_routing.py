"""Routing of one batch equals brute force over splits and sets of experts, certificates prove it, and kernels agree."""

from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import random_placement
from reference import best_split_peak

from formulations.batches.replica_routing import (
    CriticalSet,
    ReplicaSplit,
    holders_of,
    least_peaks,
    proven_bound,
    route_fractions,
    route_tiles,
    route_tokens,
    tiles_of,
)
from formulations.kit.arrays import Bools, Ints
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits
from optimizer.domain.mesh import Mesh
from optimizer.routing.least_peak import graph, least_peak, scratch_for

LIMITS = Limits(seconds=10)
Drawn = tuple[Ints, Bools]


@st.composite
def layers(draw: st.DrawFn, most: int = 40) -> Drawn:
    """Random loads and holders of up to six experts on up to four devices."""
    experts, devices = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    load = draw(st.lists(st.integers(0, most), min_size=experts, max_size=experts))
    held = st.sets(st.integers(0, devices - 1), min_size=1)
    sets = draw(st.lists(held, min_size=experts, max_size=experts))
    return np.array(load), np.array([[device in each for device in range(devices)] for each in sets])


def sets_of(holders: Bools) -> list[set[int]]:
    """The devices of each expert."""
    return [set(np.flatnonzero(row).tolist()) for row in holders]


def largest_ratio(load: Ints, holders: Bools) -> Fraction:
    """The largest t(S) / |N(S)| over all sets S of experts."""
    held = sets_of(holders)
    chosen = [each for size in range(1, len(load) + 1) for each in combinations(range(len(load)), size)]
    ratios = [Fraction(sum(int(load[e]) for e in each), len(set().union(*(held[e] for e in each)))) for each in chosen]
    return max(ratios)


def solved(outcome: Outcome[ReplicaSplit], units: Ints, holders: Bools) -> ReplicaSplit:
    """The split of an optimal outcome, after every unit has been followed."""
    assert outcome.status is SolveStatus.OPTIMAL
    assert outcome.value is not None
    split = outcome.value.units
    assert (split >= 0).all()
    assert (split[~holders] == 0).all()
    assert split.sum(axis=1) == pytest.approx(units)
    assert outcome.objective == pytest.approx(split.sum(axis=0).max())
    return outcome.value


@given(layers())
def test_whole_tokens_reach_the_least_peak_and_the_certificate_proves_it(drawn: Drawn) -> None:
    load, holders = drawn
    outcome = route_tokens(load, holders)
    split = solved(outcome, load, holders)
    assert outcome.objective == best_split_peak(load.tolist(), sets_of(holders))
    assert ceil(proven_bound(split.critical, load, holders)) == outcome.lower_bound == outcome.objective


@given(layers())
def test_parts_of_tokens_reach_the_largest_ratio(drawn: Drawn) -> None:
    load, holders = drawn
    outcome = route_fractions(load, holders, LIMITS)
    split = solved(outcome, load, holders)
    assert proven_bound(split.critical, load, holders) == split.critical.bound == largest_ratio(load, holders)
    assert outcome.lower_bound == pytest.approx(outcome.objective) == float(split.critical.bound)


def tile_peaks(load: list[int], held: list[set[int]], devices: int, tile: int) -> int:
    """The least peak in whole tiles over every way to share out every token."""
    ways = []
    for tokens, there in zip(load, held, strict=True):
        parts = product(range(tokens + 1), repeat=len(there))
        ways.append([dict(zip(there, part, strict=True)) for part in parts if sum(part) == tokens])
    return min(
        max(sum(-(-each.get(device, 0) // tile) for each in way) for device in range(devices)) for way in product(*ways)
    )


@given(st.data(), st.integers(1, 4))
def test_tiles_reach_the_least_peak_of_every_way_to_share_out_tokens(data: st.DataObject, tile: int) -> None:
    experts, devices = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    load = np.array(data.draw(st.lists(st.integers(0, 6), min_size=experts, max_size=experts)))
    sets = data.draw(
        st.lists(st.sets(st.integers(0, devices - 1), min_size=1, max_size=2), min_size=experts, max_size=experts)
    )
    holders = np.array([[device in each for device in range(devices)] for each in sets])
    outcome = route_tiles(load, holders, tile)
    split = solved(outcome, tiles_of(load, tile), holders)
    assert outcome.objective == tile_peaks(load.tolist(), sets_of(holders), devices, tile)
    assert ceil(proven_bound(split.critical, tiles_of(load, tile), holders)) == outcome.objective
    assert split.critical.unit == "tiles"


@pytest.mark.parametrize("tile", [1, 32])
def test_on_a_large_mesh_it_agrees_with_the_kernels_of_the_optimizer(tile: int) -> None:
    rng, mesh, experts = np.random.default_rng(3), Mesh(8, 8, 3), 129
    placement = random_placement(rng, experts, mesh)
    holders = holders_of(placement.slots, experts)
    load = rng.multinomial(4096, rng.dirichlet(np.ones(experts)), size=12)
    start, slot = placement.replicas(experts)
    replicas, scratch = graph(start, slot, mesh.devices, mesh.slots_per_device), scratch_for(mesh.devices)
    flow, on_device = np.zeros(mesh.slots, dtype=np.int64), np.zeros(mesh.devices, dtype=np.int64)
    units = tiles_of(load, tile)
    peaks, critical = least_peaks(units, holders, "units")
    assert peaks.tolist() == [least_peak(of_batch, replicas, flow, on_device, scratch) for of_batch in units]
    for of_batch, peak, proof in zip(units, peaks, critical, strict=True):
        assert ceil(proven_bound(proof, of_batch, holders)) == peak
        parts = route_fractions(of_batch, holders, LIMITS)
        assert parts.objective is not None
        assert ceil(parts.objective - 1e-6) == peak == route_tokens(of_batch, holders).objective


def test_an_expert_without_a_replica_is_infeasible_only_if_it_has_load() -> None:
    holders = np.array([[True, False], [False, False]])
    for load, feasible in (([5, 0], True), ([5, 1], False)):
        wanted = SolveStatus.OPTIMAL if feasible else SolveStatus.INFEASIBLE
        of = np.array(load)
        outcomes = [route_tokens(of, holders), route_tiles(of, holders, 4), route_fractions(of, holders, LIMITS)]
        assert [outcome.status for outcome in outcomes] == [wanted] * 3
    with pytest.raises(ValueError, match="no replica"):
        least_peaks(np.array([[5, 1]]), holders, "tokens")


def test_nothing_to_serve_has_a_peak_and_a_bound_of_nothing() -> None:
    load, holders = np.zeros(2, dtype=np.int64), np.array([[True, False], [True, True]])
    for outcome in (
        route_tokens(load, holders),
        route_tiles(load, holders, 32),
        route_fractions(load, holders, LIMITS),
    ):
        assert proven_bound(solved(outcome, load, holders).critical, load, holders) == 0 == outcome.objective


def hot_pair() -> Drawn:
    """Experts 7, 19 and 33 share devices 4 and 5 alone; the rest have room everywhere."""
    load, holders = np.full(40, 3), np.ones((40, 8), dtype=np.bool_)
    load[[7, 19, 33]] = 30, 20, 11
    holders[[7, 19, 33]] = np.isin(np.arange(8), [4, 5])
    holders[19, 4] = False
    return load, holders


def test_the_certificate_is_the_smallest_set_and_says_so_in_words() -> None:
    load, holders = hot_pair()
    split = solved(route_tokens(load, holders), load, holders)
    assert split.critical.in_words() == "experts 7, 19, 33 can only use devices 4, 5: 61 tokens over 2"
    assert split.critical.bound == Fraction(61, 2)
    of_parts = solved(route_fractions(load, holders, LIMITS), load, holders)
    assert of_parts.critical == split.critical
    one = CriticalSet((7,), (4,), 61, "tiles")
    assert one.in_words() == "expert 7 can only use device 4: 61 tiles over 1"
    many = CriticalSet(tuple(range(20)), tuple(range(9)), 90, "tokens")
    assert many.in_words() == (
        "experts 0, 1, 2, 3, 4, 5, 6, 7 and 12 more can only use devices 0, 1, 2, 3, 4, 5, 6, 7 and 1 more: "
        "90 tokens over 9"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experts": ()}, "no set of experts"),
        ({"experts": (7, 7, 19)}, "no set of experts"),
        ({"experts": (7, 19, 40)}, "no set of experts"),
        ({"devices": (4,)}, "can use devices"),
        ({"devices": (4, 5, 6)}, "can use devices"),
        ({"experts": (7, 19)}, "have 50 tokens"),
        ({"total": 62}, "have 61 tokens"),
    ],
)
def test_a_wrong_certificate_is_refused(change: dict[str, tuple[int, ...]], message: str) -> None:
    load, holders = hot_pair()
    right = CriticalSet((7, 19, 33), (4, 5), 61, "tokens")
    assert proven_bound(right, load, holders) == Fraction(61, 2)
    with pytest.raises(ValueError, match=message):
        proven_bound(replace(right, **change), load, holders)  # type: ignore[arg-type]


def test_a_time_out_is_unknown_with_the_mean_as_bound() -> None:
    load, holders = hot_pair()
    outcome = route_fractions(load, holders, Limits(0.0))
    assert outcome.status is SolveStatus.UNKNOWN
    assert outcome.lower_bound == load.sum() / 8


def test_loads_too_large_for_a_flow_are_refused() -> None:
    with pytest.raises(ValueError, match="too many for a flow"):
        route_tokens(np.array([2**62, 2**62, 5]), np.ones((3, 2), dtype=np.bool_))


def test_holders_leave_out_empty_slots() -> None:
    slots = np.array([[0, -1], [1, 0], [-1, -1]])
    assert holders_of(slots, 3).tolist() == [[True, True, False], [False, True, False], [False] * 3]
