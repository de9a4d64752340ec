"""Outcomes that contradict themselves cannot be built; bounds are never beaten."""

import math

import numpy as np
import pytest
import reference
from hypothesis import assume, given
from hypothesis import strategies as st

from formulations.bounds.load import any_placement_bound, mean_load_bound, slot_budget_bound
from formulations.kit.outcome import Outcome, SolveStatus


@pytest.mark.parametrize(
    ("value", "objective", "bound", "status"),
    [
        (None, None, 1.0, SolveStatus.OPTIMAL),
        ([1], None, 1.0, SolveStatus.FEASIBLE),
        ([1], 2.0, 1.0, SolveStatus.INFEASIBLE),
        ([1], 2.0, 1.0, SolveStatus.UNKNOWN),
        ([1], 2.0, 3.0, SolveStatus.FEASIBLE),
        ([1], 2.0, 1.0, SolveStatus.OPTIMAL),
    ],
)
def test_contradictions_are_refused(
    value: list[int] | None, objective: float | None, bound: float, status: SolveStatus
) -> None:
    with pytest.raises(ValueError, match=r"status|bound"):
        Outcome(value, objective, bound, status, 0.0)


def test_gap_is_relative_to_the_objective() -> None:
    assert Outcome([1], 10.0, 9.0, SolveStatus.FEASIBLE, 0.0).gap == pytest.approx(0.1)
    assert Outcome(None, None, 9.0, SolveStatus.UNKNOWN, 0.0).gap == math.inf
    assert Outcome([1], 0.0, 0.0, SolveStatus.OPTIMAL, 0.0).gap == 0.0


loads = st.lists(st.integers(0, 9), min_size=1, max_size=4)


@given(loads, st.integers(1, 3), st.integers(1, 2))
def test_no_placement_and_routing_beats_the_bounds(load: list[int], devices: int, depth: int) -> None:
    assume(len(load) <= devices * depth)
    bound = any_placement_bound(np.array([load]), devices, devices * depth)[0]
    for counts in reference.count_vectors(len(load), devices * depth, devices):
        for holders in reference.all_placements(counts, devices, depth):
            assert reference.best_split_peak(load, holders) >= bound


def test_bounds_on_peaks_equal_values_found_by_hand() -> None:
    load = np.array([[40, 8, 8, 8], [1, 1, 1, 1]])
    assert mean_load_bound(load, 4).tolist() == [16, 1]
    assert slot_budget_bound(load, 4).tolist() == [40, 1]
    assert slot_budget_bound(load, 6).tolist() == [14, 1]  # three replicas of the first carry 14, 13, 13
    with pytest.raises(ValueError, match="do not fit"):
        slot_budget_bound(load, 3)
