"""What a formulation answers: a value, a bound and a status that fit together."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

Value = TypeVar("Value")

PROVEN = 1e-6
"""The relative gap below which an objective counts as optimal. It is far above the rounding of sums of floats, and far
below any difference between placements that a user could measure."""


class SolveStatus(StrEnum):
    """How a solve ended: `FEASIBLE` means a solution without a proof, `UNKNOWN` neither a solution nor a proof."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Outcome(Generic[Value]):
    """The result of minimising one formulation.

    `objective` and `lower_bound` are in the formulation's own unit; `runtime` is in seconds. Every formulation says in
    its docstring for which solutions its bound holds.
    Raises ValueError where the status contradicts the value, the objective or the bound.
    """

    value: Value | None
    objective: float | None
    lower_bound: float
    status: SolveStatus
    runtime: float

    def __post_init__(self) -> None:
        solved = self.status in (SolveStatus.OPTIMAL, SolveStatus.FEASIBLE)
        if solved != (self.value is not None) or solved != (self.objective is not None):
            raise ValueError(f"status {self.status} with value {self.value!r}, objective {self.objective}")
        if self.objective is not None and self.lower_bound > self.objective + PROVEN * abs(self.objective):
            raise ValueError(f"lower bound {self.lower_bound} above objective {self.objective}")
        if self.status is SolveStatus.OPTIMAL and self.gap > PROVEN:
            raise ValueError(f"status optimal with a gap of {self.gap}")

    @property
    def gap(self) -> float:
        """Relative distance of the objective to the bound; infinite without a solution."""
        if self.objective is None:
            return math.inf
        if self.objective == self.lower_bound:
            return 0.0
        return (self.objective - self.lower_bound) / max(abs(self.objective), 1e-12)
