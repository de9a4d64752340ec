"""CP-SAT and HiGHS under limits: when the caller cancels they end with what they have, and Ctrl-C is left alone."""

import threading

import numpy as np
import pytest
from ortools.sat.python import cp_model
from scipy.optimize import Bounds, LinearConstraint

from formulations.kit.outcome import SolveStatus
from formulations.kit.solver import Limits, MilpAnswer, minimise, run, solver_for, status_of

HOUR = 3600.0
HANG = 60.0
"""Seconds after which a solve that was cancelled counts as hanging; it ends within a second on an idle machine."""


def packing(items: int, bins: int) -> cp_model.CpModel:
    """A model with solutions that are found at once and a proof that takes hours: many items shared out over bins."""
    model, rng = cp_model.CpModel(), np.random.default_rng(0)
    size = rng.integers(10**6, 2 * 10**6, items).tolist()
    on = [[model.new_bool_var("") for _ in range(bins)] for _ in range(items)]
    most = model.new_int_var(0, sum(size), "most")
    for choice in on:
        model.add_exactly_one(choice)
    for held in zip(*on, strict=True):
        model.add(cp_model.LinearExpr.weighted_sum(list(held), size) <= most)
    model.minimize(most)
    return model


class CancelAtFirst(cp_model.CpSolverSolutionCallback):
    """Cancels as soon as there is a solution."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def on_solution_callback(self) -> None:
        """Called by CP-SAT with every better solution."""
        self.asked.set()


def test_cp_sat_cancelled_while_it_searches_keeps_its_solution() -> None:
    listener = CancelAtFirst()
    limits = Limits(seconds=HOUR, cancelled=listener.asked.is_set)
    solver = solver_for(limits)
    assert run(solver, packing(60, 7), limits, listener) is SolveStatus.FEASIBLE
    assert solver.wall_time < HANG


def test_cp_sat_cancelled_before_it_begins_ends_as_without_time() -> None:
    limits = Limits(seconds=HOUR, cancelled=lambda: True)
    solver = solver_for(limits)
    assert run(solver, packing(300, 40), limits) in (SolveStatus.UNKNOWN, SolveStatus.FEASIBLE)
    assert solver.wall_time < HANG


def test_no_watching_thread_is_left_behind_even_by_a_model_that_is_refused() -> None:
    before = threading.active_count()
    model = cp_model.CpModel()
    model.new_int_var(-(1 << 62), 1 << 62, "x")
    model.add(sum(model.new_int_var(-(1 << 61), 1 << 61, "") for _ in range(9)) >= 0)
    limits = Limits(seconds=HOUR)
    with pytest.raises(ValueError, match="invalid"):
        run(solver_for(limits), model, limits)
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="invalid"):
        status_of(cp_model.MODEL_INVALID)


def test_an_interrupt_is_left_to_the_program() -> None:
    assert not solver_for(Limits(seconds=1)).parameters.catch_sigint_signal


def solved(limits: Limits) -> MilpAnswer:
    """The least x + y of whole numbers with 2 x + 2 y >= 3, which is 2."""
    at_least = LinearConstraint(np.array([[2.0, 2.0]]), 3, np.inf)
    return minimise(np.ones(2), [at_least], np.ones(2, dtype=np.int64), Bounds(0, 9), limits)


def test_highs_does_not_begin_once_cancelled() -> None:
    assert solved(Limits(seconds=HOUR)).objective == 2
    answer = solved(Limits(seconds=HOUR, cancelled=lambda: True))
    assert (answer.status, answer.x, answer.objective) == (SolveStatus.UNKNOWN, None, None)
    assert answer.lower_bound == -np.inf
