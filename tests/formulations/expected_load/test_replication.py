"""Replica counts by the greedy method equal CP-SAT and brute force, and the model over batches equals brute force."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ortools.sat.python import cp_model
from reference import count_vectors

from formulations.expected_load import replication
from formulations.expected_load.replication import (
    ReplicaBudget,
    counts_for_batches,
    counts_for_loads,
    mean_peak,
    risk_loads,
)
from formulations.kit.arrays import Ints
from formulations.kit.outcome import SolveStatus
from formulations.kit.solver import Limits, MilpAnswer

LIMITS = Limits(seconds=30)


def cp_sat_peak(load: list[int], budget: ReplicaBudget) -> Fraction | None:
    """The least max of load / count by CP-SAT: counts are integers, and count * peak >= load in units of 1 / lcm."""
    scale = math.lcm(*range(1, int(budget.most.max()) + 1))
    model = cp_model.CpModel()
    peak = model.new_int_var(0, scale * max(load), "peak")
    counts = [model.new_int_var(int(a), int(b), "") for a, b in zip(budget.least, budget.most, strict=True)]
    for count, pairs in zip(counts, load, strict=True):
        product = model.new_int_var(0, scale * max(load) * int(budget.most.max()), "")
        model.add_multiplication_equality(product, [count, peak])
        model.add(product >= scale * pairs)
    model.add(sum(counts) == budget.slots)
    model.minimize(peak)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    code = solver.solve(model)
    assert code in (cp_model.OPTIMAL, cp_model.INFEASIBLE)
    return Fraction(round(solver.objective_value), scale) if code == cp_model.OPTIMAL else None


@st.composite
def budgets(draw: st.DrawFn) -> ReplicaBudget:
    """A random budget of up to five experts on up to four devices, which no counts may fit."""
    experts, devices = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    ends = [sorted(draw(st.tuples(*[st.integers(1, devices)] * 2))) for _ in range(experts)]
    least, most = np.array(ends).T
    return ReplicaBudget(draw(st.integers(experts, experts * devices)), least, most)


def allowed(budget: ReplicaBudget) -> list[list[int]]:
    """All counts within the budget."""
    every = count_vectors(len(budget.least), budget.slots, int(budget.most.max()))
    return [counts for counts in every if budget.violations(np.array(counts)) == []]


@given(budgets(), st.data())
def test_greedy_counts_are_optimal(budget: ReplicaBudget, data: st.DataObject) -> None:
    experts = len(budget.least)
    load = data.draw(st.lists(st.integers(0, 60), min_size=experts, max_size=experts))
    outcome = counts_for_loads(np.array(load), budget)
    peaks = [max(Fraction(t, n) for t, n in zip(load, counts, strict=True)) for counts in allowed(budget)]
    best = min(peaks, default=None)
    assert cp_sat_peak(load, budget) == best
    assert (outcome.status is SolveStatus.INFEASIBLE) == (best is None)
    assume(best is not None)
    assert best is not None
    assert outcome.status is SolveStatus.OPTIMAL
    assert outcome.value is not None
    assert budget.violations(outcome.value) == []
    assert max(Fraction(t, int(n)) for t, n in zip(load, outcome.value, strict=True)) == best
    assert outcome.objective == outcome.lower_bound == pytest.approx(float(best))


@given(budgets(), st.data())
def test_counts_for_batches_equal_brute_force(budget: ReplicaBudget, data: st.DataObject) -> None:
    experts = len(budget.least)
    one = st.lists(st.integers(0, 30), min_size=experts, max_size=experts)
    loads = data.draw(st.lists(one, min_size=1, max_size=6))
    outcome = counts_for_batches(np.array(loads), budget, LIMITS)
    means = [mean_of_peaks(loads, counts) for counts in allowed(budget)]
    assert (outcome.status is SolveStatus.INFEASIBLE) == (not means)
    assume(means)
    assert outcome.value is not None
    assert budget.violations(outcome.value) == []
    assert mean_of_peaks(loads, outcome.value.tolist()) == min(means)
    assert outcome.objective == pytest.approx(float(min(means)))
    assert outcome.gap <= 1e-4  # at which HiGHS stops


def mean_of_peaks(loads: list[list[int]], counts: list[int]) -> Fraction:
    """The mean over batches of the largest load / count, exactly."""
    peaks = [max(Fraction(t, int(n)) for t, n in zip(load, counts, strict=True)) for load in loads]
    return sum(peaks, Fraction(0)) / len(peaks)


def hot_loads(batches: int, experts: int) -> Ints:
    """Random pairs `[batch, expert]` of experts that differ log-normally."""
    rng = np.random.default_rng(7)
    return rng.poisson(rng.lognormal(2.5, 0.7, experts), (batches, experts)).astype(np.int64)


def test_the_model_alone_finds_what_exchanges_find_and_its_bound_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    load, budget = hot_loads(12, 30), ReplicaBudget.of(30, 45, 16)
    best = counts_for_batches(load, budget, LIMITS)
    monkeypatch.setattr(replication, "_exchange", lambda load, budget, counts, clock: budget.least + 0)
    with_model = counts_for_batches(load, budget, LIMITS)
    assert with_model.value is not None
    assert budget.violations(with_model.value) == []
    assert best.objective is not None
    assert with_model.objective == pytest.approx(best.objective, rel=1e-4)
    assert best.lower_bound <= best.objective
    assert best.gap <= 1e-4


@pytest.mark.parametrize(
    ("budget", "feasible"),
    [
        (ReplicaBudget.of(3, 4, 2), True),
        (ReplicaBudget.of(3, 2, 2), False),  # fewer slots than experts
        (ReplicaBudget.of(3, 6, 2), True),
        (ReplicaBudget.of(3, 7, 2), False),  # more slots than experts times devices
        (ReplicaBudget.of(3, 5, 4, shared=(2,), rows=3), True),
        (ReplicaBudget.of(3, 4, 4, shared=(2,), rows=3), False),  # the shared expert needs three
        (ReplicaBudget.of(3, 6, 4, most=2), True),
        (ReplicaBudget.of(3, 7, 4, most=2), False),
        (ReplicaBudget.of(2, 4, 2, shared=(1,), rows=3), False),  # more rows than devices
    ],
)
def test_each_constraint_family_has_a_feasible_and_an_infeasible_case(budget: ReplicaBudget, feasible: bool) -> None:
    load = np.array([[5, 9, 4]])[:, : len(budget.least)]
    for outcome in (counts_for_loads(load[0], budget), counts_for_batches(load, budget, LIMITS)):
        assert outcome.status is (SolveStatus.OPTIMAL if feasible else SolveStatus.INFEASIBLE)
        assert (outcome.value is not None) == feasible
        assert outcome.value is None or budget.violations(outcome.value) == []


def test_options_fix_least_and_most() -> None:
    budget = ReplicaBudget.of(4, 12, 6, most=3, shared=(3,), rows=4)
    assert (budget.least.tolist(), budget.most.tolist()) == ([1, 1, 1, 4], [3, 3, 3, 6])
    outcome = counts_for_loads(np.array([90, 9, 9, 1]), budget)
    assert outcome.value is not None
    assert outcome.value.tolist()[0] == 3
    assert budget.violations(np.array([4, 0, 3, 4])) == [
        "expert 1 has 0 replicas, fewer than 1",
        "expert 0 has 4 replicas, more than 3",
        "11 replicas for 12 slots",
    ]
    with pytest.raises(ValueError, match="needs a replica"):
        ReplicaBudget(3, np.array([0, 1]), np.array([2, 2]))


def test_risk_loads_are_mean_plus_deviations() -> None:
    load = np.array([[2, 4], [6, 4]])
    assert risk_loads(load, 0).tolist() == [4, 4]
    assert risk_loads(load, 1.5).tolist() == [7, 4]


def test_counts_of_batches_beat_those_of_means_and_a_hint_is_never_lost() -> None:
    load = np.array([[10, 48], [10, 0], [10, 0], [10, 0], [10, 0]])
    budget = ReplicaBudget.of(2, 3, 2)
    by_mean = counts_for_loads(load.mean(axis=0), budget)
    outcome = counts_for_batches(load, budget, LIMITS)
    assert by_mean.value is not None
    assert outcome.objective is not None
    assert outcome.objective < mean_peak(load, by_mean.value)
    hinted = counts_for_batches(load, budget, Limits(seconds=0), hint=outcome.value)
    assert hinted.objective == outcome.objective


def test_out_of_time_is_feasible_with_a_bound_that_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    load, budget = hot_loads(40, 120), ReplicaBudget.of(120, 180, 60)
    none = MilpAnswer(SolveStatus.UNKNOWN, None, None, -np.inf, 0.0)
    exact = counts_for_batches(load, budget, Limits(seconds=3))
    monkeypatch.setattr(replication, "minimise", lambda *_: none)
    outcome = counts_for_batches(load, budget, Limits(seconds=0.01))
    assert outcome.status is SolveStatus.FEASIBLE
    assert outcome.value is not None
    assert budget.violations(outcome.value) == []
    assert exact.objective is not None
    assert outcome.objective is not None
    assert outcome.lower_bound <= exact.lower_bound <= exact.objective <= outcome.objective
    alone = [counts_for_loads(batch, budget).lower_bound for batch in load]
    assert outcome.lower_bound == pytest.approx(np.mean(alone))
