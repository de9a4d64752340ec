"""Slots shared out over layers equal the best of all ways to do it."""

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from formulations.choice.slot_budget import share_budget
from formulations.kit.outcome import SolveStatus

Curves = list[list[int]]


@st.composite
def instances(draw: st.DrawFn) -> tuple[Curves, list[int], int]:
    """Random values of up to four layers, up to four sizes, and a budget from nothing to more than all can use."""
    extra = draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))
    row = st.lists(st.integers(-20, 20), min_size=len(extra), max_size=len(extra))
    return draw(st.lists(row, max_size=4)), extra, draw(st.integers(0, 40))


def sums(curves: Curves, extra: list[int], budget: int) -> list[int]:
    """The sums of values of all choices within the budget."""
    found = []
    for options in product(range(len(extra)), repeat=len(curves)):
        if sum(extra[option] for option in options) <= budget:
            found.append(sum(curve[option] for curve, option in zip(curves, options, strict=True)))
    return found


@given(instances())
def test_no_choice_within_the_budget_is_better(instance: tuple[Curves, list[int], int]) -> None:
    curves, extra, budget = instance
    outcome = share_budget(np.array(curves, dtype=float).reshape(-1, len(extra)), np.array(extra), budget)
    possible = sums(*instance)
    assert (outcome.status is SolveStatus.INFEASIBLE) == (not possible)
    assume(possible)
    assert outcome.status is SolveStatus.OPTIMAL
    assert outcome.value is not None
    assert sum(extra[option] for option in outcome.value) <= budget
    reached = sum(curve[option] for curve, option in zip(curves, outcome.value, strict=True))
    assert reached == outcome.objective == outcome.lower_bound == min(possible)


@given(instances(), st.integers(1, 5))
def test_the_unit_of_slots_does_not_matter(instance: tuple[Curves, list[int], int], unit: int) -> None:
    curves, extra, budget = instance
    value = np.array(curves, dtype=float).reshape(-1, len(extra))
    one, many = (share_budget(value, np.array(extra) * by, budget * by + by - 1) for by in (1, unit))
    assert one.objective == many.objective


def test_slots_go_where_they_help_most_and_not_where_they_do_not() -> None:
    value = np.array([[9.0, 5.0, 4.0], [9.0, 8.0, 1.0], [2.0, 2.0, 2.0]])
    outcome = share_budget(value, np.array([0, 8, 16]), 24)
    assert outcome.value is not None
    assert outcome.value.tolist() == [1, 2, 0]
    assert outcome.objective == 8.0


def test_all_layers_of_a_large_model_are_solved() -> None:
    rng = np.random.default_rng(0)
    value = 1 + np.sort(rng.random((58, 17)), axis=1)[:, ::-1]
    extra = np.arange(17) * 8
    objectives = [share_budget(value, extra, budget).objective for budget in (0, 8, 2048, 58 * 128, 10**9)]
    assert objectives[0] == pytest.approx(value[:, 0].sum())
    assert objectives[1] == pytest.approx(value[:, 0].sum() - (value[:, 0] - value[:, 1]).max())
    assert objectives[3] == objectives[4] == pytest.approx(value[:, -1].sum())
    assert objectives == sorted(objectives, key=lambda total: -(total or 0))


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        share_budget(np.zeros((2, 3)), np.array([0, 8]), 8)
    with pytest.raises(ValueError, match="do not fit together"):
        share_budget(np.zeros((2, 2)), np.array([0, -8]), 8)
