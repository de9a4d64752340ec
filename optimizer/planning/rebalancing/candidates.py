"""The placements that were found for a layer near the one in force, compared by what their figures are to its."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.placement import Placement
from optimizer.planning.rebalancing.relabelling import with_slots_kept


@dataclass(frozen=True, eq=False)
class Candidate:
    """A placement, how many weights devices must load for it, and its figures on what placements are chosen by."""

    placement: Placement
    moves: int
    judged: Floats


@dataclass(eq=False)
class Candidates:
    """All placements that were judged. The first is the one in force.

    judge: gives the figures of a placement; less is better. decisive: the indices of those that decide.
    """

    judge: Callable[[Placement], Floats]
    decisive: Ints
    current: Placement
    found: dict[bytes, Candidate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add(self.current)

    @property
    def first(self) -> Candidate:
        """The candidate that needs no moves: the placement in force, with its figures."""
        return next(iter(self.found.values()))

    def add(self, placement: Placement) -> None:
        """Judge a placement, unless it was judged before, with the experts that stay in their slots."""
        kept = with_slots_kept(self.current, placement)
        if kept.slots.tobytes() not in self.found:
            moves = kept.weights_to_load(self.current)
            self.found[kept.slots.tobytes()] = Candidate(kept, moves, self.judge(kept))

    def value(self, candidate: Candidate) -> float:
        """How a candidate compares with the placement in force, which has 1: the mean ratio of the figures that decide.
        Less is better."""
        return float(np.mean((candidate.judged / self.first.judged)[self.decisive]))

    def best(self, most: int | None) -> Candidate:
        """The best candidate with at most so many weights to load, None for any number; of equally good ones the
        nearest. As all that fit into a budget fit into a larger one, more moves are never worse."""
        near = [each for each in self.found.values() if most is None or each.moves <= most]
        return min(near, key=lambda each: (self.value(each), each.moves))
