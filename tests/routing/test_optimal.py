"""The optimal policy has the least peak that is possible, as three independent ways confirm, and few hops."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from random_layers import SHAPES, WIRINGS, Case, Links, TokensAt, case, cases
from random_problems import cost, random_batches, random_placement
from reference_split import Holders, best_split_peak, fewest_hops, least_feasible, ortools_carries, scipy_carries

from formulations.batches.replica_routing import holders_of, least_peaks, tiles_of
from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.routing.context import LearnedShares, RoutingContext
from optimizer.routing.least_peak import graph, least_peak, mean_peak, scratch_for
from optimizer.routing.policies import POLICIES
from optimizer.routing.unit_times import ease
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import simulate
from optimizer.traces.batches import Batches

MOST_EXPERTS = 10  # up to this many experts, all sets of experts are tried, which doubles with every expert
wirings = st.sampled_from(WIRINGS)
tiles = st.sampled_from([1, 2, 5, 32])


def holders(drawn: Case) -> Holders:
    """The devices that have a replica of each expert."""
    slots = drawn.placement.slots
    return [set(np.flatnonzero((slots == expert).any(axis=1)).tolist()) for expert in range(drawn.model.experts)]


def units(drawn: Case, batch: int, tile: int) -> list[int]:
    """How many units of load each expert has in a batch."""
    return [ceil(pairs / tile) for pairs in drawn.batches.load(drawn.model.experts)[batch].tolist()]


def chosen_by(policy: str, drawn: Case, wiring: tuple[TokensAt, Links], tile: int, relieved: bool = True) -> Ints:
    """The flat slots that a policy chooses; without relief, links are taken to need no time, so none is ever busy."""
    source, context = drawn.network(wiring).source(drawn.batches.source_row), drawn.context(wiring, tile, 8)
    if not relieved:
        context = replace(context, message_us=np.zeros(len(context.network.remote)))
    return POLICIES[policy](drawn.batches.experts, source, context)


def works(drawn: Case, chosen: Ints, tile: int, first: int, further: int) -> list[int]:
    """The longest work of a device in each batch, in the units of first and further."""
    found = []
    for batch in chosen:
        on_device: Counter[int] = Counter()
        for slot, pairs in Counter(batch.ravel().tolist()).items():
            on_device[slot // drawn.mesh.slots_per_device] += first + further * (ceil(pairs / tile) - 1)
        found.append(max(on_device.values()))
    return found


def peaks(drawn: Case, chosen: Ints, tile: int) -> list[int]:
    """The units of the fullest device in each batch."""
    found = []
    for batch in chosen:
        load = Counter(batch.ravel().tolist())
        on_device: Counter[int] = Counter()
        for slot, pairs in load.items():
            on_device[slot // drawn.mesh.slots_per_device] += ceil(pairs / tile)
        found.append(max(on_device.values()))
    return found


def pair_hops(drawn: Case, chosen: Ints, wiring: tuple[TokensAt, Links]) -> list[int]:
    """The hops of each batch, summed over its pairs."""
    network, device = drawn.network(wiring), chosen // drawn.mesh.slots_per_device
    source = network.source(drawn.batches.source_row)
    found: list[int] = network.distance[source[:, :, None], device].sum(axis=(1, 2)).tolist()
    return found


@given(cases(), wirings, tiles)
def test_the_peak_is_the_least_by_every_set_of_experts_and_by_two_flows(
    drawn: Case, wiring: tuple[TokensAt, Links], tile: int
) -> None:
    chosen = chosen_by("optimal", drawn, wiring, tile)
    for batch, peak in enumerate(peaks(drawn, chosen, tile)):
        loads, held = units(drawn, batch, tile), holders(drawn)
        assert peak == least_feasible(ortools_carries, loads, held, drawn.mesh.devices)
        assert peak == least_feasible(scipy_carries, loads, held, drawn.mesh.devices)
        if len(loads) <= MOST_EXPERTS:
            assert peak == best_split_peak(loads, held)


def home() -> Case:
    """A case of ordinary size: 129 experts in 192 slots."""
    rng, model, mesh = np.random.default_rng(1), Model("home", 128, 1, 6), Mesh(8, 8, 3)
    batches, placement = random_batches(rng, 4, 256, model, mesh.rows), random_placement(rng, model.experts, mesh)
    return Case(model, mesh, placement, batches, LearnedShares.nothing(placement, model.experts))


@pytest.mark.parametrize("tile", [1, 8, 32])
def test_the_peak_is_the_least_on_a_large_mesh_too(tile: int) -> None:
    drawn = home()
    held, devices = holders(drawn), drawn.mesh.devices
    for batch, peak in enumerate(peaks(drawn, chosen_by("optimal", drawn, ("row", "rings"), tile), tile)):
        assert peak == least_feasible(ortools_carries, units(drawn, batch, tile), held, devices)
        assert peak == least_feasible(scipy_carries, units(drawn, batch, tile), held, devices)


@given(cases(), wirings, tiles)
def test_no_other_policy_has_a_lower_peak(drawn: Case, wiring: tuple[TokensAt, Links], tile: int) -> None:
    least = peaks(drawn, chosen_by("optimal", drawn, wiring, tile), tile)
    for policy in POLICIES:
        assert all(map(int.__le__, least, peaks(drawn, chosen_by(policy, drawn, wiring, tile), tile)))


@given(cases(), st.integers(0, 10**6), st.integers(1, 40))
def test_the_split_that_least_peak_leaves_reaches_it(drawn: Case, seed: int, most: int) -> None:
    mesh, held = drawn.mesh, holders(drawn)
    start, slot = drawn.placement.replicas(drawn.model.experts)
    replicas = graph(start, slot, mesh.devices, mesh.slots_per_device)
    flow, load = np.full(mesh.slots, 7, dtype=np.int64), np.full(mesh.devices, 7, dtype=np.int64)
    scratch = scratch_for(mesh.devices)
    for number in range(2):  # the same memory is used again
        wanted = np.random.default_rng([seed, number]).integers(most, size=drawn.model.experts)
        peak = least_peak(wanted, replicas, flow, load, scratch)
        assert peak == load.max() == least_feasible(ortools_carries, wanted.tolist(), held, mesh.devices)
        assert (load == flow.reshape(mesh.devices, -1).sum(axis=1)).all()
        assert [flow[slot[a:b]].sum() for a, b in pairwise(start)] == wanted.tolist()
        assert (flow >= 0).all()
        assert mean_peak(load) == ceil(wanted.sum() / mesh.devices) <= peak


@example(case(137, (8, 1), 3, 1), ("row", "rings"), 1)  # units must not move before the peak is known
@example(case(478, (5, 2), 3, 1), ("column", "rings"), 1)  # of equally near replicas the table's must come first
@given(cases(), wirings, tiles)
def test_where_the_peak_does_not_bind_all_tokens_go_to_the_nearest(
    drawn: Case, wiring: tuple[TokensAt, Links], tile: int
) -> None:
    chosen, near = (chosen_by(policy, drawn, wiring, tile, False) for policy in ("optimal", "nearest"))
    least, reached = peaks(drawn, chosen, tile), peaks(drawn, near, tile)
    hops, fewest = pair_hops(drawn, chosen, wiring), pair_hops(drawn, near, wiring)
    for batch in range(2):
        if reached[batch] == least[batch]:
            assert hops[batch] == fewest[batch]
        assert hops[batch] >= fewest[batch]


@given(cases(), wirings)
def test_hops_are_no_fewer_than_the_cheapest_flow_at_this_peak(drawn: Case, wiring: tuple[TokensAt, Links]) -> None:
    for hops, fewest in zip(*hops_and_fewest(drawn, wiring), strict=True):
        assert hops >= fewest


def hops_and_fewest(drawn: Case, wiring: tuple[TokensAt, Links]) -> tuple[list[int], list[int]]:
    """The hops of the policy in each batch, and the fewest hops that a min-cost flow finds at the same peak."""
    chosen, network = chosen_by("optimal", drawn, wiring, 1, False), drawn.network(wiring)
    source, distance = network.source(drawn.batches.source_row), network.distance.tolist()
    fewest = []
    for batch, peak in enumerate(peaks(drawn, chosen, 1)):
        homes, experts = source[batch].tolist(), drawn.batches.experts[batch].tolist()
        pairs = Counter((home, expert) for home, token in zip(homes, experts, strict=True) for expert in token)
        fewest.append(fewest_hops(dict(pairs), holders(drawn), distance, drawn.mesh.devices, peak))
    return pair_hops(drawn, chosen, wiring), fewest


@pytest.mark.parametrize(("replicas", "above"), [(2, 1.002), (None, 1.02)])
def test_hops_are_on_average_near_the_fewest(replicas: int | None, above: float) -> None:
    """Measured over random layers: 0.1 % above the cheapest flow with two replicas, 1.2 % with any number of them."""
    hops = fewest = 0
    for seed in range(90):
        ours, least = hops_and_fewest(case(seed, SHAPES[2 + seed % 6], 3, 1, replicas), ("row", "rings"))
        hops, fewest = hops + sum(ours), fewest + sum(least)
    assert fewest <= hops <= above * fewest


@pytest.mark.parametrize("seed", range(40))
def test_the_peak_is_the_bound_that_the_formulation_proves(seed: int) -> None:
    """The formulation is of the best split for a given placement; it shares no code with the kernels."""
    rng = np.random.default_rng(seed)
    model, mesh = Model("m", 12, 1, 3), Mesh(3, 2, 3)
    placement = random_placement(rng, model.experts, mesh)
    batches = random_batches(rng, 3, 60, model, mesh.rows)
    where, load = holders_of(placement.slots, model.experts), batches.load(model.experts)
    in_tokens = simulate(placement, batches, model, mesh, cost(), Conditions("optimal", "tokens"))
    in_tiles = simulate(placement, batches, model, mesh, cost(), Conditions("optimal", "tiles"))
    assert in_tokens.device_load.max(axis=1).tolist() == least_peaks(load, where, "tokens")[0].tolist()
    assert in_tiles.tiles.tolist() == least_peaks(tiles_of(load, 32), where, "tiles")[0].tolist()


@example(case(1, (1, 4), 2), ("row", "rings"), 2, (3, 1))  # cheap further units must not be opened beyond the peak
@given(cases(), wirings, st.sampled_from([2, 5]), st.sampled_from([(9, 10), (3, 1), (1, 4)]))
def test_where_a_slots_first_unit_differs_work_is_shorter_at_the_same_peak(
    drawn: Case, wiring: tuple[TokensAt, Links], tile: int, unit_ns: tuple[int, int]
) -> None:
    network, plain = drawn.network(wiring), chosen_by("optimal", drawn, wiring, tile)
    context = replace(drawn.context(wiring, tile, 8), unit_ns=unit_ns)
    chosen = POLICIES["optimal"](drawn.batches.experts, network.source(drawn.batches.source_row), context)
    assert (drawn.placement.slots.ravel()[chosen] == drawn.batches.experts).all()
    assert peaks(drawn, chosen, tile) == peaks(drawn, plain, tile)
    pairs = zip(works(drawn, chosen, tile, *unit_ns), works(drawn, plain, tile, *unit_ns), strict=True)
    assert all(eased <= before for eased, before in pairs)


def test_a_second_tile_goes_to_a_slot_that_is_empty_where_that_is_faster() -> None:
    """The 64 tokens of expert 0 are near device 0, where they take two tiles; expert 1 keeps device 1 busy for one."""
    placement = Placement(np.array([[0, 2, -1], [0, 1, -1]]))
    batches = Batches(np.array([[[0]] * 64 + [[1]] * 32]), np.zeros((1, 96), dtype=int))
    network = Network(Mesh(2, 1, 3))
    for unit_ns, first in (((1, 1), 64), ((9, 10), 32)):
        context = RoutingContext.of(placement, Model("m", 3, 0, 1), network, 32, 1, None, unit_ns)
        chosen = POLICIES["optimal"](batches.experts, batches.source_row, context)[0, :, 0]
        assert (chosen == 0).sum() == first


def test_tiles_are_passed_on_over_a_full_device_where_that_is_faster() -> None:
    """Both tiles of expert 0 are near device 0, both of expert 1 near device 1, which has no room until it has passed
    one of them on to device 2."""
    placement = Placement(np.array([[0, -1], [0, 1], [1, -1]]))
    batches = Batches(np.array([[[0]] * 64 + [[1]] * 64]), np.array([[0] * 64 + [1] * 64]))
    network = Network(Mesh(3, 1, 2))
    for unit_ns, tokens in (((10, 9), [64, 0, 64, 0]), ((9, 10), [32, 32, 32, 32])):
        context = RoutingContext.of(placement, Model("m", 2, 0, 1), network, 32, 1, None, unit_ns)
        chosen = POLICIES["optimal"](batches.experts, batches.source_row, context)
        assert np.bincount(chosen.ravel(), minlength=6)[[0, 2, 3, 4]].tolist() == tokens


def test_tiles_are_passed_on_over_a_device_that_works_as_long_as_before() -> None:
    """The first two devices work for 18: three units of a slot and one of another, and two of each. A unit of the first
    device fits on no other but the second, which then has three units in one slot as well and passes another on, to a
    third device that has three slots in use, so that four units take it 17."""
    slots = np.array([[0, 3, 6], [0, 1, 6], [1, 4, 5]])
    start, slot = Placement(slots).replicas(7)
    replicas, flow = graph(start, slot, 3, 3), np.array([3, 1, 0, 2, 2, 0, 1, 1, 1])
    load, work = flow.reshape(3, 3).sum(axis=1), np.zeros(3, dtype=np.int64)
    assert ease(replicas, 4, 4, 5, flow, load, work, scratch_for(3)) == 18
    assert flow.tolist() == [2, 1, 0, 3, 1, 0, 2, 1, 1]
    assert work.tolist() == [13, 18, 17]
    assert load.tolist() == [3, 4, 4]
