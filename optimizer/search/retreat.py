"""From a good placement back towards the one that is in force, giving up what is worth least.

This is path relinking (Glover 1997) from the good end: each step brings a device back an expert that it holds in the
placement in force. Of some steps the one that costs least for each weight that need not be loaded is made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from formulations.kit.arrays import Bools, Ints
from optimizer.domain.placement import EMPTY, Placement
from optimizer.search import even_moves, split_moves
from optimizer.search.moves import MoveRules, is_legal, is_new, replacement_of, swap_of
from optimizer.search.split_state import SplitState
from optimizer.search.state import SearchState

TRIES = 24  # steps that are compared; with all of them a walk over 128 devices takes minutes. Not tuned


class Walked(Protocol):
    """A placement that steps are made in, and what they cost."""

    @property
    def slots(self) -> Ints: ...
    @property
    def copies(self) -> Ints: ...

    def change(self, move: int) -> int:
        """What a legal move would add to the objective."""

    def make(self, move: int) -> None:
        """Put the placement where this legal move leads, and keep what the objective follows from up to date."""


@dataclass(frozen=True, eq=False)
class EvenWalk:
    """A walk whose objective is that of even split or of a server's rule."""

    state: SearchState
    scratch: even_moves.Scratch

    @classmethod
    def of(cls, state: SearchState) -> "EvenWalk":
        """A walk that begins at this state."""
        return cls(state, even_moves.scratch_for(state))

    @property
    def slots(self) -> Ints:
        """The placement now, `[device, slot]`."""
        return self.state.slots

    @property
    def copies(self) -> Ints:
        """The replicas of each expert now, `[expert]`."""
        return self.state.copies

    def change(self, move: int) -> int:
        """What a legal move would add to the objective."""
        return even_moves.delta(move, self.state, self.scratch)

    def make(self, move: int) -> None:
        """Make a legal move in the placement and in its loads under even split or the rule."""
        even_moves.apply(move, self.state, self.scratch)


@dataclass(frozen=True, eq=False)
class SplitWalk:
    """A walk whose objective is the sum of the batches' peaks where loads are split as is best."""

    split: SplitState
    trial: SplitState
    touched: split_moves.TouchedSplit

    @classmethod
    def of(cls, split: SplitState) -> "SplitWalk":
        """A walk that begins at this state."""
        return cls(split, split.copy(), split_moves.touched_for(split))

    @property
    def slots(self) -> Ints:
        """The placement now, `[device, slot]`."""
        return self.split.slots

    @property
    def copies(self) -> Ints:
        """The replicas of each expert now, `[expert]`."""
        return self.split.copies

    def change(self, move: int) -> int:
        """What a legal move would add to the objective."""
        change = self._tried(move)
        split_moves.forget(self.split, self.trial, self.touched)
        return change

    def make(self, move: int) -> None:
        """Make a legal move in the placement, and split again the loads that it touches."""
        self._tried(move)
        split_moves.apply(self.split, self.trial, self.touched)

    def _tried(self, move: int) -> int:
        change, _ = split_moves.delta(move, self.split, self.trial, self.touched, 0, 0, np.inf)
        return int(change)


def retreat(walk: Walked, rules: MoveRules, stops: Sequence[int], rng: np.random.Generator) -> Iterator[Placement]:
    """Walk towards the placement in force, and yield where the walk is as soon as no more than so many weights must be
    loaded, for each of the stops, the largest first.

    rules: with `held`, whatever number of weights they allow. The walk ends early where no step is legal, as where a
    slot would have to be emptied.
    """
    nearer = rules._replace(most_loaded=0)  # so far away, legal moves are those that come nearer
    for stop in sorted(stops, reverse=True):
        while _loaded(walk.slots, rules.held) > stop:
            steps = _steps(walk, nearer, rng)
            if not steps:
                return
            walk.make(min(steps, key=lambda step: walk.change(step) / _saved(step, walk.slots, rules.held)))
        yield Placement(walk.slots)


def _loaded(slots: Ints, held: Bools) -> int:
    """How many weights devices must load."""
    return int((~held[np.arange(len(slots))[:, None], np.maximum(slots, 0)] & (slots != EMPTY)).sum())


def _steps(walk: Walked, rules: MoveRules, rng: np.random.Generator) -> list[int]:
    """Some legal moves that bring a device an expert back, in a slot whose expert it must load."""
    found: list[int] = []
    moves = list(_returning(walk.slots, rules.held))
    for place in rng.permutation(len(moves)):
        if is_legal(moves[place], walk.slots, walk.copies, rules):
            found.append(moves[place])
        if len(found) == TRIES:
            break
    return found


def _returning(slots: Ints, held: Bools) -> Iterator[int]:
    """The numbers of all moves that may bring a device back an expert that it lacks: as a further replica, or in
    exchange for one elsewhere."""
    depth, flat = slots.shape[1], slots.ravel()
    for device, experts in enumerate(slots):
        lacking = np.setdiff1d(np.flatnonzero(held[device]), experts)
        for slot in np.flatnonzero((experts != EMPTY) & ~held[device, np.maximum(experts, 0)]):
            place = device * depth + int(slot)
            for expert in lacking.tolist():
                yield replacement_of(place, expert, slots.size, held.shape[1])
                for other in np.flatnonzero(flat == expert).tolist():
                    yield swap_of(place, other, slots.size)


def _saved(move: int, slots: Ints, held: Bools) -> int:
    """How many weights fewer must be loaded after a move of `_returning`."""
    depth, size = slots.shape[1], slots.size
    if move >= size * size:
        return 1
    a, b = divmod(move, size)
    x, y = slots[a // depth, a % depth], slots[b // depth, b % depth]
    before = is_new(a // depth, x, held) + is_new(b // depth, y, held)
    return int(before - is_new(a // depth, y, held) - is_new(b // depth, x, held))
