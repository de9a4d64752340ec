"""Iterated local search: descents from several starts, then from random changes of the best placement found so far.

A descent under a server's rule ends within some tenths of a second, and one that starts afresh mostly ends worse than
one that begins beside the best (Lourenco, Martin and Stuetzle, Iterated Local Search, 2003).
"""

from collections.abc import Callable, Iterator
from itertools import count

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel
from optimizer.domain.placement import Placement
from optimizer.search.descent import Descent
from optimizer.search.even_moves import Scratch, apply, scratch_for
from optimizer.search.moves import MoveRules, is_legal, propose
from optimizer.search.multistart import DescentGoal, descend
from optimizer.search.state import SearchState
from optimizer.search.stop import SearchBudget

KICK = 8  # random moves between two descents; 3, 8 and 20 ended alike on V2-Lite, one start after another worse
TRIES = 1000  # draws of a random move that is legal, more than any mesh with replicas needs
SWAPS = 0.7  # of random moves; the others give a slot to another expert. Not tuned
PASSED = 1.01  # objectives up to this many times the least are close enough that other batches may prefer them


def iterated(
    load: Ints,
    rules: MoveRules,
    goal: DescentGoal,
    starts: list[Placement],
    budget: SearchBudget,
    rng: np.random.Generator,
    progress: Callable[[float], None],
) -> Iterator[Placement]:
    """Yield where descents ended that came close to the best so far, or were better. The best starts come first.

    load `[batch, expert]`: of the batches that the goal's rule has loads of.
    """
    usual = goal.usual_peak(load, starts)
    starts = sorted(starts, key=lambda start: goal.state(start, load, usual).objective)
    best, least = starts[0], np.inf
    trail, before = budget.trail(), budget.spent
    trail.passed(0, goal.state(best, load, usual).objective)
    for number in count():
        if budget.grant(1) == 0:
            return
        state = goal.state(starts[number] if number < len(starts) else best, load, usual)
        if number >= len(starts):
            _kick(state, scratch_for(state), rules, rng)
        descend(Descent(state, rules, rng), budget, progress)
        found = state.placement()
        trail.passed(budget.spent - before, state.objective)
        if state.objective < least:
            least, best = state.objective, found
        if state.objective <= least + (PASSED - 1) * abs(least):
            yield found


@kernel
def _kick(state: SearchState, scratch: Scratch, rules: MoveRules, rng: np.random.Generator) -> None:
    """Make some random legal moves, or none where there are none."""
    made = 0
    for _ in range(TRIES):
        move = propose(rng.random(3), state.slots, len(state.copies), SWAPS)
        if is_legal(move, state.slots, state.copies, rules):
            apply(move, state, scratch)
            made += 1
        if made == KICK:
            return
