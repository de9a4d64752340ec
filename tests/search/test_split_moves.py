"""Moves under optimal split: increments equal what is computed from scratch, and every placement met is valid."""

from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import random_placement, small_problem
from reference_split import best_split_peak

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.moves import MoveRules, is_legal
from optimizer.search.seeds.greedy import greedy
from optimizer.search.seeds.orders import random_permutation
from optimizer.search.split_moves import apply, delta, excess, forget, touched_for
from optimizer.search.split_state import LANES, LEAST_KNOWN, SplitState, exact_peaks, fill, split_of, sweep

NO_LIMIT = np.inf


def lanes(split: SplitState, values: Ints, batches: int) -> Ints:
    """The values `[block, ..., lane]` in the order of batches, `[batch, ...]`."""
    return np.moveaxis(values, -1, 0).reshape(-1, *values.shape[1:-1])[:batches]


def check(split: SplitState, units: Ints, known: Floats | None = None) -> None:
    """Assert that flow, loads, peaks, counts and replicas agree with the slots and with each other; known `[batch,
    expert]`: the loads by which others are split."""
    batches, experts = units.shape
    brought, expected = units * split.parts, units * split.parts
    if known is not None:
        expected = np.maximum(np.rint(known * split.parts), LEAST_KNOWN).astype(np.int64)
    depth = split.slots.shape[1]
    flat = split.slots.ravel()
    flow, load = (lanes(split, values, batches) for values in (split.flow, split.load))
    assert (flow >= 0).all()
    assert (flow[:, flat < 0] == 0).all()
    for expert in range(experts):
        held = split.replicas[expert, : split.copies[expert]]
        assert sorted(held) == np.flatnonzero(flat == expert).tolist()
        assert (split.replicas[expert, split.copies[expert] :] == -1).all()
        assert (flow[:, held].sum(axis=1) == expected[:, expert]).all()
    assert (load == flow.reshape(batches, -1, depth).sum(axis=2)).all()
    if known is not None:
        ratio = np.append(brought / expected, np.zeros((batches, 1)), axis=1).astype(np.float32)[:, flat]
        load = (flow.astype(np.float32) * ratio).astype(np.int32).reshape(batches, -1, depth).sum(axis=2)
        assert (lanes(split, split.served, batches) == load).all()
    assert (lanes(split, split.peak, batches) == load.max(axis=1)).all()


def same(one: SplitState, other: SplitState) -> bool:
    """Whether two states agree in everything."""
    return all(np.array_equal(np.asarray(here), np.asarray(there)) for here, there in zip(one, other, strict=True))


def objective(split: SplitState, usual: int, weight: int) -> int:
    """The objective of all blocks together."""
    return sum(excess(peak, usual, weight) for peak in split.peak)


def rows_of_shared(problem: Problem, slots: Ints) -> list[list[int]]:
    """How many replicas of each shared expert are in each mesh row; slots `[device, slot]`."""
    by_row = slots.reshape(problem.mesh.rows, -1)
    return [(by_row == expert).sum(axis=1).tolist() for expert in problem.model.shared_ids]


@settings(max_examples=8)
@given(
    st.integers(0, 10**6),
    st.sampled_from([None, "auto", 1, 3]),
    st.sampled_from([None, 2]),
    st.sampled_from([(3, 2, 3, 9), (1, 6, 2, 5), (2, 5, 4, 9), (14, 1, 1, 7)]),
    st.sampled_from([1, 8]),
    st.booleans(),
)
def test_every_step_of_a_thousand_move_walk_is_exact_and_valid(
    seed: int, replicas: int | str | None, extra: int | None, shape: tuple[int, int, int, int], tile: int, hinted: bool
) -> None:
    rows, cols, slots, routed = shape
    problem, _ = small_problem(seed, rows=rows, cols=cols, slots=slots, routed=routed, replicas=replicas, extra=extra)
    units = -(-problem.load // tile)
    rng = np.random.default_rng(seed)
    start = random_permutation(problem, rng).slots.copy()
    spare = [i for i, e in enumerate(start.ravel()) if (start == e).sum() > 1 and not problem.spread[e]][:1]
    start.ravel()[spare] = -1  # an empty slot, so that moves meet one
    known = units * rng.uniform(0, 2, units.shape) if hinted else None
    current = split_of(Placement(start), units, known)
    trial, touched = current.copy(), touched_for(current)
    usual, weight = int(np.median(current.peak)), 3
    shared_rows, made, size = rows_of_shared(problem, start), 0, start.size
    for _ in range(40_000):
        move = int(rng.integers(size * (size + problem.model.experts)))
        if not is_legal(move, current.slots, current.copies, MoveRules.of(problem)):
            continue
        before, worth = current.copy(), objective(current, usual, weight)
        change, accepted = delta(move, current, trial, touched, usual, weight, NO_LIMIT)
        assert accepted
        assert same(current, before)
        if made % 2:
            apply(current, trial, touched)
            assert objective(current, usual, weight) == worth + change
            check(current, units, known)
            assert problem.violations(current.placement()) == []
            if problem.shared_replicas is not None:
                assert rows_of_shared(problem, current.slots) == shared_rows
        else:
            forget(current, trial, touched)
        made += 1
        assert same(current, trial)
        if made == 1000:
            break
    assert made == 1000


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([1, 8]))
def test_after_a_walk_the_split_settles_where_one_from_scratch_does(seed: int, tile: int) -> None:
    problem, _ = small_problem(seed, rows=4, cols=3, routed=20, slots=3)
    units = -(-problem.load // tile)
    rng = np.random.default_rng(seed)
    current = split_of(random_permutation(problem, rng), units)
    trial, touched = current.copy(), touched_for(current)
    for move in rng.integers(current.slots.size * (current.slots.size + 21), size=300):
        if is_legal(move, current.slots, current.copies, MoveRules.of(problem)):
            delta(move, current, trial, touched, 0, 0, NO_LIMIT)
            apply(current, trial, touched)
    peaks = lanes(current, current.peak, len(units)) / current.parts
    exact = exact_peaks(current.placement(), units)
    slack = 1.0  # of a unit: rounding of parts, over as many devices as a chain has
    assert (np.ceil(peaks + slack) >= exact).all()
    sweep(current, 300)
    settled = lanes(current, current.peak, len(units)) / current.parts
    fresh = split_of(current.placement(), units)
    sweep(fresh, 300)
    assert settled == pytest.approx(lanes(fresh, fresh.peak, len(units)) / fresh.parts, abs=0.5)
    assert (np.abs(np.ceil(settled - 0.25) - exact) <= 1).all()


@given(st.integers(0, 10**6), st.integers(2, 9), st.sampled_from([2, 4]))
def test_filling_levels_the_lightest_devices(seed: int, count: int, few: int) -> None:
    rng = np.random.default_rng(seed)
    devices, depth = 10, 2
    flow = rng.integers(0, 500, (devices * depth, LANES)).astype(np.int32)
    load = flow.reshape(devices, depth, LANES).sum(axis=1, dtype=np.int32)
    held = rng.permutation(devices)[:count] * depth + rng.integers(depth, size=count)
    total, base = flow[held].sum(axis=0), load[held // depth] - flow[held]
    work = np.zeros((4, LANES), dtype=np.int32)
    for _ in range(1 if count == 2 else 60):
        fill(flow, load, held[None], 0, count, depth, few, work)
    assert (flow >= 0).all()
    assert (flow[held].sum(axis=0) == total).all()
    assert (load == flow.reshape(devices, depth, LANES).sum(axis=1)).all()
    for lane in range(LANES):
        filled = load[held // depth, lane]
        if 2 < count <= few:  # neighbours are level, unless the fuller of them has nothing to give away
            for a, b in pairwise(zip(filled.tolist(), flow[held, lane].tolist(), strict=True)):
                assert abs(a[0] - b[0]) <= count or max(a, b)[1] == 0
        else:
            level = water_level(base[:, lane].tolist(), int(total[lane]))
            assert np.maximum(base[:, lane], level) == pytest.approx(filled, abs=count)


def water_level(base: list[int], total: int) -> float:
    """The level of this much water over a ground of these heights, by trying every number of wet places."""
    ground = sorted(base)
    for wet in range(1, len(ground) + 1):
        level = (total + sum(ground[:wet])) / wet
        if wet == len(ground) or level <= ground[wet]:
            return level
    raise AssertionError


@given(st.integers(0, 10**6))
def test_exact_peaks_are_the_least(seed: int) -> None:
    rng = np.random.default_rng(seed)
    placement = random_placement(rng, 7, Mesh(2, 2, 3))
    units = rng.integers(0, 30, (3, 7))
    holders = [set(np.flatnonzero((placement.slots == expert).any(axis=1)).tolist()) for expert in range(7)]
    assert exact_peaks(placement, units).tolist() == [ceil(best_split_peak(row.tolist(), holders)) for row in units]


def test_a_hopeless_move_is_given_up_and_leaves_nothing_behind() -> None:
    problem, _ = small_problem(3, rows=4, cols=3, routed=20)
    units = np.tile(problem.load, (60, 1))  # six blocks
    current = split_of(greedy(problem), units)
    trial, touched = current.copy(), touched_for(current)
    given_up, size = 0, current.slots.size
    for move in range(size * (size + 21)):
        if not is_legal(move, current.slots, current.copies, MoveRules.of(problem)):
            continue
        projected, accepted = delta(move, current, trial, touched, 0, 0, -1.0)
        blocks = touched.many[3]
        forget(current, trial, touched)
        change, _ = delta(move, current, trial, touched, 0, 0, NO_LIMIT)
        forget(current, trial, touched)
        whole = blocks == len(current.units)
        assert accepted == (whole and change <= -1)
        assert projected == change if whole else projected > -1
        given_up += not whole
    assert given_up > 100
    assert same(current, trial)


def test_large_batches_are_counted_in_fewer_parts() -> None:
    problem, _ = small_problem(2)
    placement = greedy(problem)
    large = split_of(placement, problem.load.astype(np.int64) << 17)
    assert large.parts < split_of(placement, problem.load).parts
    check(large, problem.load.astype(np.int64) << 17)
