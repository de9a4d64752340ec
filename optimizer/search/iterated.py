"""Iterated local search: descents from several starts, then from random changes of the best placement found so far.

A descent under a server's rule ends within some tenths of a second, and one that starts afresh mostly ends worse than
one that begins beside the best (Lourenco, Martin and Stuetzle, Iterated Local Search, 2003).
"""

from collections.abc import Callable, Iterator

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel
from optimizer.domain.placement import Placement
from optimizer.search.even_moves import Scratch, apply, scratch_for
from optimizer.search.moves import MoveRules, is_legal, propose
from optimizer.search.multistart import CHUNK, DescentChain, DescentGoal
from optimizer.search.side_by_side import SINGLE, Team, side_by_side
from optimizer.search.state import SearchState
from optimizer.search.stop import SearchBudget

KICK = 8  # random moves between two descents; 3, 8 and 20 ended alike on V2-Lite, one start after another worse
TRIES = 1000  # draws of a random move that is legal, more than any mesh with replicas needs
SWAPS = 0.7  # of random moves; the others give a slot to another expert. Not tuned
PASSED = 1.01  # objectives up to this many times the least are close enough that other batches may prefer them


class _Iterated(DescentChain):
    """Descents from starts, then from random changes of the best placement that this chain knows of."""

    def __init__(
        self,
        starts: list[Placement],
        state_of: Callable[[Placement], SearchState],
        rules: MoveRules,
        rng: np.random.Generator,
        first: int,
        step: int,
    ) -> None:
        super().__init__(rules, rng, first, step)
        self._starts, self._state_of = starts, state_of
        self.least: float = np.inf
        self.best = starts[0]

    def begin(self, number: int, rng: np.random.Generator) -> SearchState:
        """The next start, or a place beside the best."""
        if number < len(self._starts):
            return self._state_of(self._starts[number])
        state = self._state_of(self.best)
        _kick(state, scratch_for(state), self._rules, rng)
        return state

    def learn(self, objective: float, placement: Placement) -> None:
        """Begin beside this placement from now on, if it is better than what the chain knows of."""
        if objective < self.least:
            self.least, self.best = objective, placement

    def is_worth_it(self, objective: int) -> bool:
        """Whether it is close to the best."""
        return objective <= self.least + (PASSED - 1) * abs(self.least)


def iterated(
    load: Ints,
    rules: MoveRules,
    goal: DescentGoal,
    starts: list[Placement],
    budget: SearchBudget,
    rng: np.random.Generator,
    progress: Callable[[float], None],
    team: Team = SINGLE,
) -> Iterator[Placement]:
    """Yield where descents ended that came close to the best so far, or were better, whenever `side_by_side` looks. The
    best starts come first.

    load `[batch, expert]`: of the batches that the goal's rule has loads of.
    """
    usual = goal.usual_peak(load, starts)

    def state_of(placement: Placement) -> SearchState:
        return goal.state(placement, load, usual)

    starts = sorted(starts, key=lambda start: state_of(start).objective)
    rngs = enumerate(rng.spawn(team.chains))
    chains = [_Iterated(starts, state_of, rules, own, first, team.chains) for first, own in rngs]

    def meet() -> None:
        leading = min(chains, key=lambda chain: chain.least)
        for chain in chains:
            chain.learn(leading.least, leading.best)

    return side_by_side(chains, budget, team.threads, CHUNK, progress, meet)


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
