"""Placement with given counts equals brute force, each constraint family binds, and the hint is complete."""

from fractions import Fraction

import numpy as np
import pytest
import reference
from hypothesis import assume, given
from hypothesis import strategies as st
from ortools.sat.python import cp_model

from formulations.expected_load import layer_placement
from formulations.expected_load.layer_placement import LayerInstance, place_replicas
from formulations.kit.outcome import SolveStatus
from formulations.kit.solver import Limits, solver_for, status_of
from optimizer.domain.placement import Placement

LIMITS = Limits(seconds=60, deterministic=20)


def instance(
    load: list[int], count: list[int], rows: int, cols: int, depth: int, spread: tuple[int, ...] = ()
) -> LayerInstance:
    """A layer with these loads, counts and spread experts."""
    mask = np.isin(np.arange(len(load)), spread)
    return LayerInstance(np.array(load), np.array(count), mask, rows, cols, depth)


@given(st.data())
def test_optimum_equals_brute_force_and_its_placement_is_valid(data: st.DataObject) -> None:
    experts = data.draw(st.integers(1, 6))
    devices = data.draw(st.integers(1, 4))
    depth = data.draw(st.integers(1, 3))
    load = data.draw(st.lists(st.integers(0, 40), min_size=experts, max_size=experts))
    count = data.draw(st.lists(st.integers(1, min(devices, 2)), min_size=experts, max_size=experts))
    best = reference.best_expected_peak(load, count, devices, depth)
    outcome = place_replicas(instance(load, count, 1, devices, depth), None, LIMITS)
    assert (outcome.status is SolveStatus.INFEASIBLE) == (best is None)
    assume(best is not None)
    assert best is not None
    assert outcome.status is SolveStatus.OPTIMAL
    assert outcome.value is not None
    placement = Placement(outcome.value)
    assert placement.violations(experts, devices, depth) == []
    assert placement.counts(experts).tolist() == count
    peak = max(sum(Fraction(load[e], count[e]) for e in row if e >= 0) for row in outcome.value.tolist())
    assert peak == best
    assert outcome.objective == outcome.lower_bound == pytest.approx(float(best))
    hinted = place_replicas(instance(load, count, 1, devices, depth), outcome.value, LIMITS)
    assert hinted.objective == outcome.objective  # what breaks the symmetry loses no optimum


@pytest.mark.parametrize(
    ("case", "feasible"),
    [
        (instance([4, 4], [2, 1], 1, 2, 2), True),
        (instance([4, 4], [3, 1], 1, 2, 2), False),  # three replicas, two devices
        (instance([4, 4, 4], [1, 1, 1], 1, 3, 1), True),
        (instance([4, 4, 4, 4], [1, 1, 1, 1], 1, 3, 1), False),  # four replicas, three slots
        (instance([4, 4, 4], [2, 1, 1], 2, 2, 1, spread=(0,)), True),
        (instance([9, 9, 1, 1], [2, 2, 1, 1], 2, 1, 3, spread=(0, 1)), True),
        (instance([9, 9, 1], [2, 2, 1], 2, 1, 2, spread=(0, 1)), False),  # the spread ones fill both rows
    ],
)
def test_each_constraint_family_has_a_feasible_and_an_infeasible_case(case: LayerInstance, feasible: bool) -> None:
    outcome = place_replicas(case, None, LIMITS)
    assert outcome.status is (SolveStatus.OPTIMAL if feasible else SolveStatus.INFEASIBLE)


def test_spread_experts_stand_evenly_in_the_rows() -> None:
    outcome = place_replicas(instance([100, 1, 1, 1, 90, 90], [3, 1, 1, 1, 1, 1], 2, 2, 2, spread=(0,)), None, LIMITS)
    assert outcome.value is not None
    assert sorted((outcome.value.reshape(2, -1) == 0).sum(axis=1).tolist()) == [1, 2]


def test_the_hint_is_complete_and_feasible(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    make = solver_for

    def listening(limits: Limits) -> cp_model.CpSolver:
        solver = make(limits)
        solver.parameters.log_search_progress = True
        solver.parameters.log_to_stdout = False
        solver.log_callback = lines.append
        return solver

    monkeypatch.setattr(layer_placement, "solver_for", listening)
    case = instance([70, 40, 30, 20, 9, 5], [2, 2, 1, 1, 1, 1], 2, 2, 4, spread=(0,))  # too deep for columns
    place_replicas(case, np.array([[0, 1], [2, 3], [0, 1], [4, 5]]), LIMITS)
    assert any("The solution hint is complete and is feasible" in line for line in lines)


def test_shares_stay_exact_until_they_grow_too_large() -> None:
    weight, scale = instance([7, 9], [3, 2], 1, 3, 2).weights()
    assert (weight.tolist(), scale) == ([14, 27], 6.0)
    primes = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47]
    large = instance([10**6] * len(primes), primes, 1, 50, 15)
    weight, scale = large.weights()
    assert weight @ large.count <= layer_placement.LARGEST_TOTAL
    for share, count in zip(weight.tolist(), primes, strict=True):
        assert 0 <= Fraction(10**6, count) - Fraction(share) / Fraction(scale) < Fraction(1, 10**6)  # rounded down


def test_a_time_out_still_has_a_placement_and_a_malformed_model_is_an_error() -> None:
    load = np.random.default_rng(0).integers(100, 120, 31)  # 31 nearly equal loads on 15 devices stay far from the mean
    case = LayerInstance(load, np.ones(31, dtype=np.int64), np.zeros(31, dtype=np.bool_), 5, 3, 4)
    outcome = place_replicas(case, None, Limits(60, deterministic=1e-9))
    assert outcome.status is SolveStatus.FEASIBLE
    assert outcome.value is not None
    assert Placement(outcome.value).violations(31, 15, 4) == []
    with pytest.raises(ValueError, match="invalid"):
        status_of(cp_model.MODEL_INVALID)


def test_a_better_hint_than_what_is_found_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_placement, "ROUNDS", 0)
    case = instance([9, 8, 7, 6, 5, 4], [1] * 6, 1, 3, 2)
    hint = np.array([[0, 5], [1, 4], [2, 3]])
    outcome = place_replicas(case, hint, Limits(60, deterministic=1e-9))
    assert (outcome.status, outcome.objective) == (SolveStatus.OPTIMAL, 13)
    assert outcome.value is hint


def test_columns_prove_most_of_what_regrouping_finds() -> None:
    """The gap is small for greedy counts of small and large experts, and equal work gives equal answers."""
    load = (1000 * np.random.default_rng(3).lognormal(0, 0.6, 32)).astype(np.int64)
    case = LayerInstance(load, greedy_counts(load, 48), np.zeros(32, dtype=np.bool_), 4, 4, 3)
    one, two = (place_replicas(case, None, Limits(60, deterministic=1)) for _ in range(2))
    assert one.gap <= 1e-3
    assert one.value is not None
    assert two.value is not None
    assert np.array_equal(one.value, two.value)
    assert (one.objective, one.lower_bound) == (two.objective, two.lower_bound)


def greedy_counts(load: np.ndarray, slots: int) -> np.ndarray:
    """Replica counts that fill the slots, one more each time for the largest load per replica."""
    counts = np.ones(len(load), dtype=np.int64)
    while counts.sum() < slots:
        counts[np.argmax(load / counts)] += 1
    return counts
