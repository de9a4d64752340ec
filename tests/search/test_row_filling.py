"""Filling mesh rows by their formulation is legal, never worse, and finds the optimum of a mesh of one row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import small_problem
from reference import all_placements, best_split_peak, count_vectors

from formulations.kit.solver import Limits
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.moves import MoveRules
from optimizer.search.neighbourhood import fine_peaks, objective
from optimizer.search.row_filling import fill_rows
from optimizer.search.seeds.orders import random_permutation
from optimizer.search.split_state import PARTS

LIMITS = Limits(seconds=20)


@settings(max_examples=8)
@given(st.integers(0, 10**6), st.sampled_from([None, "auto", 1]), st.sampled_from([(3, 2, 3, 9), (2, 3, 2, 8)]))
def test_rows_are_legal_and_never_worse(
    seed: int, replicas: int | str | None, shape: tuple[int, int, int, int]
) -> None:
    rows, cols, slots, routed = shape
    problem, _ = small_problem(seed, rows=rows, cols=cols, slots=slots, routed=routed, replicas=replicas)
    start = random_permutation(problem, np.random.default_rng(seed)).slots.copy()
    spare = [i for i, e in enumerate(start.ravel()) if (start == e).sum() > 1 and not problem.spread[e]][:1]
    start.ravel()[spare] = -1
    rules = MoveRules(problem.spread, cols, most := int((start >= 0).sum()))
    found = fill_rows(Placement(start), problem.load, rules, Limits(seconds=0.3))
    assert found.placement.violations(problem.model.experts, rows * cols, slots) == []
    assert (found.placement.slots >= 0).sum() <= most
    before, after = (objective(fine_peaks(each, problem.load)) for each in (Placement(start), found.placement))
    assert after <= before
    assert (after < before) == (found.changed > 0)
    for expert in np.flatnonzero(problem.spread):
        here, there = ((each.reshape(rows, -1) == expert).sum(axis=1) for each in (start, found.placement.slots))
        assert (here == there).all()


def least_mean(problem: Problem) -> float:
    """The least mean peak of all placements, by brute force, to a fraction of a pair."""
    experts, devices, depth = problem.model.experts, problem.mesh.devices, problem.mesh.slots_per_device
    return min(
        float(np.mean([best_split_peak((batch * PARTS).tolist(), holders) / PARTS for batch in problem.load]))
        for counts in count_vectors(experts, devices * depth, devices)
        for holders in all_placements(counts, devices, depth)
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_only_row_of_a_mesh_is_filled_at_best(seed: int) -> None:
    """It starts with the two hottest experts on one device, so that there is something to win."""
    problem, _ = small_problem(seed, rows=1, cols=3, slots=2, routed=4, shared=0, top_k=2)
    hot = np.argsort(-problem.total_load)
    start = Placement(np.array([[hot[0], hot[1]], [hot[2], -1], [hot[3], -1]]))
    found = fill_rows(start, problem.load, MoveRules.of(problem), LIMITS)
    assert found.changed == len(found.gaps) == 1
    assert fine_peaks(found.placement, problem.load).mean() == pytest.approx(least_mean(problem))
    assert found.gaps[0] < 0.01


def test_without_time_nothing_changes_and_it_is_said() -> None:
    problem, _ = small_problem(1)
    start = random_permutation(problem, np.random.default_rng(0))
    for limits in (Limits(seconds=0), Limits(seconds=60, cancelled=lambda: True)):
        found = fill_rows(start, problem.load, MoveRules.of(problem), limits)
        assert (found.placement.slots == start.slots).all()
        assert "no time" in found.in_words()
