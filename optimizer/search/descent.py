"""Descent under even split: make every move that lowers the objective, until none does."""

from dataclasses import dataclass

import numpy as np

from formulations.kit.kernels import kernel
from optimizer.search.even_moves import Scratch, apply, delta, scratch_for
from optimizer.search.moves import MoveRules, is_legal
from optimizer.search.state import SearchState


@dataclass(frozen=True)
class DescentProgress:
    """How many moves a run evaluated and made; `at_optimum` tells that no move improves any more."""

    evaluated: int
    made: int
    at_optimum: bool


class Descent:
    """First-improvement descent over all swaps and replacements, in a seeded pseudo-random order."""

    def __init__(self, state: SearchState, rules: MoveRules, rng: np.random.Generator) -> None:
        self.state = state
        self._rules = rules
        self._scratch = scratch_for(state)
        size = state.slots.size
        self._moves = size * (size + len(state.copies))
        self._position = int(rng.integers(self._moves))
        self._stride = _coprime(self._moves, rng)
        self._stale = 0

    def run(self, iterations: int) -> DescentProgress:
        """Evaluate up to this many moves and make those that improve."""
        self._position, self._stale, evaluated, made = _descend(
            self.state, self._scratch, self._rules, self._moves, self._position, self._stride, self._stale, iterations
        )
        return DescentProgress(evaluated, made, self._stale >= self._moves)


def _coprime(moves: int, rng: np.random.Generator) -> int:
    """A random stride that shares no factor with the number of moves, so that steps of it meet every move once."""
    stride = int(rng.integers(moves)) | 1
    while np.gcd(stride, moves) != 1:
        stride += 2
    return stride


@kernel
def _descend(
    state: SearchState, scratch: Scratch, rules: MoveRules,
    moves: int, position: int, stride: int, stale: int, iterations: int,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Walk over the moves from `position` on, and make those that improve.

    stale: moves met since the last one that was made. Returns the new position and stale, and how many moves were
    evaluated and made.
    """
    evaluated = made = 0
    while evaluated < iterations and stale < moves:
        move = position
        position = (position + stride) % moves
        stale += 1
        if is_legal(move, state.slots, state.copies, rules):
            evaluated += 1
            if delta(move, state, scratch) < 0:
                apply(move, state, scratch)
                made += 1
                stale = 0
    return position, stale, evaluated, made
