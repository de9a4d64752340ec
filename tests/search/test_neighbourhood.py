"""Large-neighbourhood search is feasible and no worse at every step, and finds the optimum of small layers."""

import time
from concurrent.futures import Executor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import small_problem
from reference import all_placements, best_split_peak, count_vectors

from formulations.kit.arrays import Floats
from formulations.kit.clock import Clock
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.freeing import WAYS, Freed, Order, View, anywhere, extremes, linked, one_row
from optimizer.search.moves import MoveRules
from optimizer.search.neighbourhood import Neighbourhoods, NeighbourhoodSettings, objective, search_neighbourhoods
from optimizer.search.seeds.greedy import greedy
from optimizer.search.seeds.orders import random_permutation
from optimizer.search.split_state import PARTS, exact_peaks, split_of
from optimizer.search.stop import Deadline, SearchBudget

NEVER = np.inf
FEW_BATCHES = NeighbourhoodSettings(sample=12)  # repairs look at no more batches than there are, twice each


def worth(problem: Problem, placement: Placement, tile: int = 1) -> float:
    """The objective of a placement from exact peaks; tile: tokens of a unit of load."""
    return objective(exact_peaks(placement, -(-problem.load // tile) * PARTS) / PARTS)


@settings(max_examples=12)
@given(
    st.integers(0, 10**6),
    st.sampled_from([None, "auto", 1, 2]),
    st.integers(1, 2),
    st.sampled_from([(3, 2, 3, 9), (1, 6, 2, 5), (4, 3, 3, 24), (5, 1, 2, 5)]),
    st.sampled_from([1, 8]),
)
def test_every_step_is_feasible_and_never_worse(
    seed: int, replicas: int | str | None, shared: int, shape: tuple[int, int, int, int], tile: int
) -> None:
    rows, cols, slots, routed = shape
    problem, _ = small_problem(seed, rows=rows, cols=cols, slots=slots, routed=routed, shared=shared, replicas=replicas)
    rng = np.random.default_rng(seed)
    start = random_permutation(problem, rng).slots.copy()
    spare = [i for i, e in enumerate(start.ravel()) if (start == e).sum() > 1 and not problem.spread[e]][:1]
    start.ravel()[spare] = -1
    search = Neighbourhoods(
        Placement(start),
        -(-problem.load // tile),
        MoveRules(problem.spread, cols, most := int((start >= 0).sum())),
        rng,
        FEW_BATCHES,
    )
    in_rows = [[(start.reshape(rows, -1) == e).sum(axis=1).tolist() for e in np.flatnonzero(problem.spread)]]
    for _ in range(8):
        before = search.objective
        assert search.step(Clock.until(NEVER)) > 0
        placement = search.placement
        assert placement.violations(problem.model.experts, rows * cols, slots) == []
        assert search.objective == worth(problem, placement, tile) <= before
        assert (placement.slots >= 0).sum() <= most
        by_row = placement.slots.reshape(rows, -1)
        assert in_rows == [[(by_row == e).sum(axis=1).tolist() for e in np.flatnonzero(problem.spread)]]
        assert (search.weights > 0).all()


def flow_of(problem: Problem, placement: Placement) -> Floats:
    """Units that each slot serves in each batch, `[batch, device, slot]`."""
    split = split_of(placement, problem.load)
    flow: Floats = split.flow[0].T[: len(problem.load)].reshape(-1, *placement.slots.shape) / split.parts
    return flow


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_freed_devices_are_a_row_with_peaks_that_can_be_reached(seed: int, many: int) -> None:
    """Peaks of the row formulation are those of a routing, so the layer's least ones are no higher."""
    problem, _ = small_problem(seed)
    rng = np.random.default_rng(seed)
    placement = random_permutation(problem, rng)
    flow = flow_of(problem, placement)
    devices = np.sort(rng.permutation(6)[:many])
    freed = Freed.of(placement, devices, problem.spread, problem.load, flow)
    assert freed.row.violations(freed.slots) == []
    assert freed.is_legal(freed.slots)
    assert (freed.filled(placement, freed.slots).slots == placement.slots).all()
    within = freed.row.peaks(freed.slots)
    assert (within >= exact_peaks(placement, problem.load * PARTS) / PARTS - 1 / PARTS).all()
    assert (within <= flow.sum(axis=2).max(axis=1) + 1e-6).all()
    load = freed.row.load.sum(axis=1) + freed.row.fixed.sum(axis=1)
    assert load == pytest.approx(problem.load.sum(axis=1))


def test_replicas_of_spread_experts_are_neither_dropped_nor_doubled() -> None:
    problem, _ = small_problem(0, replicas=6)
    placement = random_permutation(problem, np.random.default_rng(0))
    assert ((placement.slots == 9).sum(axis=1) == 1).all()
    freed = Freed.of(placement, np.array([0, 1]), problem.spread, problem.load, flow_of(problem, placement))
    one, other = freed.pinned, freed.pinned + 1
    assert freed.names[one] == freed.names[other] == 9
    there, here = (freed.slots == one).argmax(), (freed.slots == other).argmax()
    dropped, swapped, together = (freed.slots.copy() for _ in range(3))
    dropped.ravel()[there] = -1
    swapped.ravel()[[there, here]] = other, one
    together.ravel()[here] = freed.slots[0, (freed.slots[0] != one).argmax()]
    together[0, (freed.slots[0] != one).argmax()] = other
    assert [freed.is_legal(slots) for slots in (dropped, swapped, together)] == [False, True, False]


def view(seed: int, rows: int = 4, cols: int = 3) -> View:
    """What an order of devices sees of the greedy placement of a small problem, with random loads."""
    problem, _ = small_problem(seed, rows=rows, cols=cols, routed=24)
    placement = greedy(problem)
    pinned = (placement.slots == 24).any(axis=1)
    return View(
        placement.slots, np.arange(rows * cols) // cols, pinned, np.random.default_rng(seed).random(rows * cols)
    )


@pytest.mark.parametrize("order", [linked, extremes, anywhere])
def test_devices_with_spread_experts_are_left_alone(order: Order) -> None:
    seen = view(1)
    assert 0 < seen.pinned.sum() < 12
    assert sorted(order(seen, np.random.default_rng(0))) == np.flatnonzero(~seen.pinned).tolist()
    assert len(order(seen._replace(pinned=np.ones(12, dtype=np.bool_)), np.random.default_rng(0))) == 0


def test_ways_of_freeing_devices() -> None:
    seen = view(2)._replace(pinned=np.zeros(12, dtype=np.bool_))
    rng = np.random.default_rng(0)
    found = one_row(seen, rng)
    assert sorted(found) == np.flatnonzero(seen.row == seen.row[found[0]]).tolist()
    falling = np.argsort(-seen.load)
    assert extremes(seen, rng)[:4].tolist() == [falling[0], falling[-1], falling[1], falling[-2]]
    order = linked(seen, rng)
    assert order[0] == falling[0]
    for place in range(1, 12):
        before, held = set(seen.slots[order[:place]].ravel()), [set(seen.slots[device]) for device in order[place:]]
        assert before & held[0] or not any(before & other for other in held)
    assert len({way for way, _ in WAYS}) == 4


def best_worth(problem: Problem) -> float:
    """The least objective of all placements, by brute force."""
    experts, devices, depth = problem.model.experts, problem.mesh.devices, problem.mesh.slots_per_device
    found = []
    for counts in count_vectors(experts, devices * depth, devices):
        for holders in all_placements(counts, devices, depth):
            peaks = [best_split_peak((batch * PARTS).tolist(), holders) / PARTS for batch in problem.load]
            found.append(objective(np.array(peaks)))
    return min(found)


@pytest.mark.parametrize("seed", range(3))
def test_small_layers_reach_the_best_of_all_placements(seed: int) -> None:
    problem, _ = small_problem(seed, rows=3, cols=1, slots=2, routed=4, shared=0, top_k=2)
    rng = np.random.default_rng(seed)
    search = Neighbourhoods(random_permutation(problem, rng), problem.load, MoveRules.of(problem), rng, FEW_BATCHES)
    for _ in range(20):
        search.step(Clock.until(NEVER))
    assert search.objective == pytest.approx(best_worth(problem))


def ends(seed: int, iterations: int = 60_000) -> list[list[list[int]]]:
    """The slots of all placements that the search yields with this seed; each has to be better than the one before."""
    problem, _ = small_problem(6, rows=4, cols=3, routed=24, slots=3)
    start = random_permutation(problem, np.random.default_rng(0))
    budget, rng = SearchBudget(Deadline(600), 600, iterations), np.random.default_rng(seed)
    placements = list(search_neighbourhoods(start, problem.load, MoveRules.of(problem), budget, rng))
    assert budget.iterations == 0
    values = [worth(problem, placement) for placement in [start, *placements]]
    assert values == sorted(set(values), reverse=True)
    return [placement.slots.tolist() for placement in placements]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_search_also_in_another_process(another_process: Executor) -> None:
    here = ends(1)
    assert len(here) > 1
    assert here == ends(1) == another_process.submit(ends, 1).result()
    assert ends(2) != here


def test_nothing_is_freed_once_the_time_is_up() -> None:
    problem, _ = small_problem(6)
    budget, rng = SearchBudget(Deadline(60, time.monotonic() - 61), 60), np.random.default_rng(0)
    assert list(search_neighbourhoods(greedy(problem), problem.load, MoveRules.of(problem), budget, rng)) == []


def test_a_layer_with_one_place_comes_to_an_end() -> None:
    problem, _ = small_problem(0, rows=1, cols=1, slots=4, routed=3)
    budget, looks = SearchBudget(Deadline(60), 60, 1000), list[float]()
    rng = np.random.default_rng(0)
    found = search_neighbourhoods(
        greedy(problem), problem.load, MoveRules.of(problem), budget, rng, progress=looks.append
    )
    assert list(found) == []
    assert looks[-1] == 1
