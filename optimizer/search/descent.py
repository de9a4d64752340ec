"""Descent: take every move that lowers the objective, until none does."""

from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Bools, Ints
from formulations.kit.kernels import kernel
from optimizer.search.moves import NO_LIMIT, apply, delta, is_legal, scratch_for
from optimizer.search.state import SearchState


@dataclass(frozen=True)
class DescentProgress:
    """Moves evaluated and made so far; `at_optimum` once no move improves any more."""

    evaluated: int
    made: int
    at_optimum: bool


class Descent:
    """First-improvement descent over all swaps and replacements, in a seeded pseudo-random order.

    spread `[expert]`: experts whose replicas keep their number and their rows; cols: devices of a mesh row; most:
    replicas of all experts together.
    """

    def __init__(
        self, state: SearchState, spread: Bools, cols: int, rng: np.random.Generator, most: int = NO_LIMIT
    ) -> None:
        self.state = state
        self._spread = spread
        self._cols = cols
        self._most = most
        self._scratch = scratch_for(state)
        size = state.slots.size
        self._moves = size * (size + len(state.count))
        self._position = int(rng.integers(self._moves))
        self._stride = _coprime(self._moves, rng)
        self._stale = 0

    def run(self, iterations: int) -> DescentProgress:
        """Evaluate up to this many moves and make those that improve."""
        self._position, self._stale, evaluated, made = _descend(
            self.state.arrays(), self._scratch, self._spread, self._cols, self._most,
            self._moves, self._position, self._stride, self._stale, iterations,
        )  # fmt: skip
        return DescentProgress(evaluated, made, self._stale >= self._moves)


def _coprime(moves: int, rng: np.random.Generator) -> int:
    """A stride that visits every move once per round."""
    stride = int(rng.integers(moves)) | 1
    while np.gcd(stride, moves) != 1:
        stride += 2
    return stride


@kernel
def _descend(
    state: tuple[Ints, ...], scratch: tuple[Ints, ...], spread: Bools, cols: int, most: int,
    moves: int, position: int, stride: int, stale: int, iterations: int,
) -> tuple[int, int, int, int]:  # fmt: skip
    slots, count = state[2], state[3]
    evaluated = made = 0
    while evaluated < iterations and stale < moves:
        move = position
        position = (position + stride) % moves
        stale += 1
        if is_legal(move, slots, count, spread, cols, most):
            evaluated += 1
            if delta(move, state, scratch) < 0:
                apply(move, state, scratch)
                made += 1
                stale = 0
    return position, stale, evaluated, made
