"""What one method made of one instance, as a row of the CSV file of results."""

from pathlib import Path

from pydantic import Field, FiniteFloat, NonNegativeFloat, NonNegativeInt

from formulations.kit.outcome import SolveStatus
from optimizer.experiments.journal import Journal, ResultRow

LadderRun = tuple[str, str, str, str, str, int, float]
"""Family, size, instance, digest, method, seed and limit of a run."""


class LadderRow(ResultRow):
    """What one method made of one instance, in the order of the file's columns.

    version is that of this program, digest that of the instance. limit and seconds are the time allowed and the time
    taken. value is the objective, None where the method found no placement; bound is what the formulation has proven,
    None where nothing is proven; gap is value / bound - 1. status is `optimal` where the value meets the bound.
    """

    version: str
    family: str
    size: str
    instance: str
    digest: str
    method: str
    seed: NonNegativeInt
    limit: FiniteFloat = Field(gt=0)
    value: FiniteFloat | None
    bound: FiniteFloat | None
    status: SolveStatus
    gap: FiniteFloat | None
    seconds: NonNegativeFloat

    @property
    def block(self) -> LadderRun:
        """What was run: a run has one row."""
        return (self.family, self.size, self.instance, self.digest, self.method, self.seed, self.limit)


class LadderJournal(Journal[LadderRow]):
    """The rows of the file that the `output` parameter names."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, LadderRow, "output")

    def row(self, run: LadderRun) -> LadderRow | None:
        """The row of a run, or None if it was not run."""
        return next(iter(self.rows(run)), None)
