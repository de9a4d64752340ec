"""How planning a layer converged: what its searches passed, and what the first candidates would have come to."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from optimizer.search.trail import Trail

Value = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class Convergence:
    """How planning a layer converged.

    candidates: for each policy, the mean latency in microseconds, on selection batches, of the candidate that would be
    chosen of those judged so far, whenever it changes. searches: of each search and each of its chains the least
    objective so far, in units of its own, by the moves that it had evaluated.
    """

    candidates: tuple[Trail, ...] = ()
    searches: tuple[Trail, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """What a plan file holds; empty lists where nothing was searched."""
        return {
            "candidates": [vars(trail) for trail in self.candidates],
            "searches": [vars(trail) for trail in self.searches],
        }


class _Trail(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    name: str
    after: list[Annotated[int, Field(ge=0)]]
    best: list[Value]
    spent: int = Field(ge=0)


class ConvergenceFile(BaseModel):
    """How a plan file says it."""

    model_config = ConfigDict(extra="ignore", strict=True)
    candidates: list[_Trail] = Field(default_factory=list)
    searches: list[_Trail] = Field(default_factory=list)

    def parsed(self) -> Convergence:
        """What it says; of trails whose lists differ in length, the points that both lists have."""
        return Convergence(tuple(map(_parsed, self.candidates)), tuple(map(_parsed, self.searches)))


def _parsed(found: _Trail) -> Trail:
    points = min(len(found.after), len(found.best))
    return Trail(found.name, found.after[:points], found.best[:points], found.spent)
