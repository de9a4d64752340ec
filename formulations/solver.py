"""Limits, workers and seed of CP-SAT, and what its answers mean."""

from dataclasses import dataclass

from ortools.sat.python import cp_model

from formulations.outcome import SolveStatus

STATUSES = {
    cp_model.OPTIMAL: SolveStatus.OPTIMAL,
    cp_model.FEASIBLE: SolveStatus.FEASIBLE,
    cp_model.INFEASIBLE: SolveStatus.INFEASIBLE,
    cp_model.UNKNOWN: SolveStatus.UNKNOWN,
}


@dataclass(frozen=True)
class Limits:
    """`seconds` of wall clock; `deterministic`, if given, also limits the solver's own work units.

    With a deterministic limit one worker runs, so that the answer depends on the seed alone.
    """

    seconds: float
    deterministic: float | None = None
    workers: int = 2
    seed: int = 0


def solver_for(limits: Limits) -> cp_model.CpSolver:
    """A CP-SAT solver with these limits set."""
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(limits.seconds, 0.01)
    solver.parameters.num_workers = limits.workers
    solver.parameters.random_seed = limits.seed
    if limits.deterministic is not None:
        solver.parameters.num_workers = 1
        solver.parameters.max_deterministic_time = limits.deterministic
    return solver


def status_of(code: cp_model.CpSolverStatus) -> SolveStatus:
    """CP-SAT's status in our words. Raises ValueError for a model that CP-SAT finds malformed."""
    if code not in STATUSES:
        raise ValueError("CP-SAT refused the model as invalid")
    return STATUSES[code]
