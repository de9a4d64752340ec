"""Limits, workers and seed of CP-SAT and HiGHS, and what their answers mean."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from ortools.sat.python import cp_model
from scipy.optimize import Bounds, LinearConstraint, milp

from formulations.kit.arrays import Floats, Ints
from formulations.kit.clock import Clock, never
from formulations.kit.outcome import SolveStatus

STATUSES = {
    cp_model.OPTIMAL: SolveStatus.OPTIMAL,
    cp_model.FEASIBLE: SolveStatus.FEASIBLE,
    cp_model.INFEASIBLE: SolveStatus.INFEASIBLE,
    cp_model.UNKNOWN: SolveStatus.UNKNOWN,
}


LEAST_SECONDS = 0.01  # a solver without any time is a fault for some, and "no limit" for others
LOOK_SECONDS = 0.05  # between two looks at whether the caller cancelled: a quarter of the .2 s in which solves end


@dataclass(frozen=True)
class Limits:
    """`seconds` of wall clock; `deterministic`, if given, also limits the solver's own work units.

    With a deterministic limit one worker runs, so that the answer depends on the seed alone. `cancelled` is asked all
    the time, by other threads too; once it is true a formulation ends with what it has found, as if time were up.
    CP-SAT and the loops of this package end within .2 s; a run of HiGHS cannot be stopped and ends at its own limit.
    """

    seconds: float
    deterministic: float | None = None
    workers: int = 2
    seed: int = 0
    cancelled: Callable[[], bool] = never

    def clock(self) -> Clock:
        """A clock for these limits that runs from now on."""
        return Clock.start(self.seconds, self.cancelled)


def solver_for(limits: Limits) -> cp_model.CpSolver:
    """A CP-SAT solver with these limits set."""
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(limits.seconds, LEAST_SECONDS)
    solver.parameters.num_workers = limits.workers
    solver.parameters.random_seed = limits.seed
    solver.parameters.catch_sigint_signal = False  # whoever started the process decides what an interrupt does
    if limits.deterministic is not None:
        solver.parameters.num_workers = 1
        solver.parameters.max_deterministic_time = limits.deterministic
    return solver


def run(
    solver: cp_model.CpSolver,
    model: cp_model.CpModel,
    limits: Limits,
    listener: cp_model.CpSolverSolutionCallback | None = None,
) -> SolveStatus:
    """Solve a model by CP-SAT, with a listener to its solutions, and stop soon after the caller cancels.

    Raises ValueError for a model that CP-SAT finds malformed.
    """
    if limits.cancelled():
        solver.parameters.max_time_in_seconds = LEAST_SECONDS
    ended = threading.Event()
    watcher = threading.Thread(target=_stop_if_cancelled, args=(solver, limits.cancelled, ended), daemon=True)
    watcher.start()
    try:
        return status_of(solver.solve(model, listener))
    finally:
        ended.set()
        watcher.join()


def _stop_if_cancelled(solver: cp_model.CpSolver, cancelled: Callable[[], bool], ended: threading.Event) -> None:
    """Look again and again until the solve has ended, as a request to stop before the search has begun is not heard."""
    while not ended.wait(LOOK_SECONDS):
        if cancelled():
            solver.stop_search()


def status_of(code: cp_model.CpSolverStatus) -> SolveStatus:
    """CP-SAT's status in our words. Raises ValueError for a model that CP-SAT finds malformed."""
    if code not in STATUSES:
        raise ValueError("CP-SAT refused the model as invalid")
    return STATUSES[code]


class MilpAnswer(NamedTuple):
    """What HiGHS said: x `[variable]` and objective, None without a solution; a valid lower_bound, -inf if unknown."""

    status: SolveStatus
    x: Floats | None
    objective: float | None
    lower_bound: float
    seconds: float


HIGHS = {0: SolveStatus.OPTIMAL, 1: SolveStatus.UNKNOWN, 2: SolveStatus.INFEASIBLE}


def minimise(
    cost: Floats, constraints: Sequence[LinearConstraint], integral: Ints, bounds: Bounds, limits: Limits
) -> MilpAnswer:
    """Minimise `cost @ x` by HiGHS; integral `[variable]` is 1 for integers and 0 for others.

    HiGHS runs on one core and knows no seed here, so that the answer depends on the model and, where it is reached,
    on the time limit. Where the caller has cancelled it does not begin. Raises ValueError for a model without a lower
    bound.
    """
    if limits.cancelled():
        return MilpAnswer(SolveStatus.UNKNOWN, None, None, -np.inf, 0.0)
    started = time.monotonic()
    options = {"time_limit": max(limits.seconds, LEAST_SECONDS), "mip_rel_gap": 0.0}  # else optimal is only near it
    found = milp(c=cost, constraints=constraints, integrality=integral, bounds=bounds, options=options)
    seconds = time.monotonic() - started
    if found.status not in HIGHS:
        raise ValueError(f"HiGHS refused the model: {found.message}")
    status = HIGHS[found.status]
    if found.x is not None and status is SolveStatus.UNKNOWN:
        status = SolveStatus.FEASIBLE
    bound = found.fun if not np.any(integral) and found.x is not None else found.mip_dual_bound
    lower = -np.inf if bound is None or not np.isfinite(bound) else float(bound)
    if status is SolveStatus.INFEASIBLE:
        lower = np.inf
    return MilpAnswer(status, found.x, found.fun, lower, seconds)
