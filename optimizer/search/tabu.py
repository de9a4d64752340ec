"""Tabu search over placements under even split (Glover, ORSA Journal on Computing 1, 1989).

Each step draws candidate moves, looks at them and again at the best of earlier steps, the elite, and makes the first
that is for the better, else the best that is not tabu (an elite candidate list: Glover and Laguna, Tabu Search, 1997).
Drawing only moves that touch the fullest device of some batch was tried: the search then ends at worse placements. An
expert that has left a device is not to come back for some steps, a number drawn for each move, which avoids long cycles
(Taillard, Parallel Computing 17, 1991). A tabu move is made all the same if it leads to less than the least objective
so far (aspiration).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.copying import copy
from formulations.kit.kernels import kernel
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.checks import require
from optimizer.search.even_moves import Scratch, apply, delta, scratch_for
from optimizer.search.moves import MoveRules, decode, is_legal, propose
from optimizer.search.multistart import DescentGoal
from optimizer.search.side_by_side import SINGLE, Team, side_by_side
from optimizer.search.state import SearchState
from optimizer.search.stop import SearchBudget

CHUNK = 4_000  # iterations between looks at the clock: some hundredths of a second
DRAWS = 3  # uniform random numbers that a move takes: its kind, and two slots
NONE = np.iinfo(np.int64).max  # stands for the change of no move, so that any move is better


@dataclass(frozen=True)
class TabuMemory:
    """How tabu search draws and remembers moves; its values are compromises without a recorded measurement.

    candidates: moves drawn in a step, more of them mean better but fewer steps; elite: how many of the best moves of
    earlier steps are looked at again; tenure: steps for which a move is tabu at least, and twice as many at most (too
    few let it cycle, too many forbid good moves); patience: iterations without a new best that end a search; swaps:
    the share of drawn moves that are swaps, the others give a slot to another expert. Raises ValueError for a number
    out of range.
    """

    candidates: int = 2_048
    elite: int = 64
    tenure: int = 10
    patience: int = 200_000
    swaps: float = 0.6

    def __post_init__(self) -> None:
        for name in ("candidates", "elite", "patience"):
            value = getattr(self, name)
            require(value >= 1, name, value, "at least 1")
        require(self.tenure >= 0, "tenure", self.tenure, "0 or more")
        require(0 <= self.swaps <= 1, "swaps", self.swaps, "a share of the moves, between 0 and 1")


class TabuLists(NamedTuple):
    """What a walk remembers, all of it kept up to date by its steps.

    elite `[elite, 2]`: moves and the change that each made when last looked at; until `[expert, device]`: the step up
    to which the expert is not to come to that device; best `[device, slot]`: the best placement so far.
    """

    elite: Ints
    until: Ints
    best: Ints


class Tabu:
    """A placement on its way, what is tabu, and the best that it has passed."""

    def __init__(self, state: SearchState, rules: MoveRules, rng: np.random.Generator, memory: TabuMemory) -> None:
        self.state, self.memory = state, memory
        self.least = self._objective = state.objective
        self._best, self._step = state.slots.copy(), 0
        self._rules, self._rng = rules, rng
        self._scratch = scratch_for(state)
        self._elite = np.tile([0, NONE], (memory.elite, 1))  # move 0 is never legal
        self._until = np.full((len(state.copies), len(state.slots)), -1)

    def best(self) -> Placement:
        """The placement with the least objective so far."""
        return Placement(self._best)

    def run(self, iterations: int) -> int:
        """Make steps of at most this many iterations in all; returns how many, 1 if no drawn move was legal."""
        elite = self._elite[: max(iterations - 1, 1)]
        width = min(len(elite) + self.memory.candidates, iterations)
        draws = self._rng.random((iterations // width, width - len(elite), DRAWS))
        tenure = self._rng.integers(self.memory.tenure, 2 * self.memory.tenure + 1, len(draws))
        evaluated, self._objective, self.least = _walk(
            self.state, self._scratch, self._rules, self.memory.swaps, TabuLists(elite, self._until, self._best),
            draws, self._step + tenure, self._step, self._objective, self.least,
        )  # fmt: skip
        self._step += len(draws)
        return max(evaluated, 1)


@dataclass
class _Shown:
    """The objective of the best placement that was handed on, of all chains."""

    least: int


class _TabuChain:
    """Tabu searches one after another, each until it gets no better.

    search: gives the search of a number, which grows in steps of `step`.
    """

    def __init__(self, search: Callable[[int], Tabu], number: int, step: int, patience: int, shown: _Shown) -> None:
        self._next, self._number, self._step, self._patience = search, number, step, patience
        self._search, self._stale, self._shown = search(number), 0, shown
        self._least, self._best = self._search.least, self._search.best()

    def advance(self, most: int, share: float) -> int:
        """Go on with the search that is under way, or begin the next one."""
        if self._stale >= self._patience:
            self._number += self._step
            self._search, self._stale = self._next(self._number), 0
        least = self._search.least
        spent = self._search.run(most)
        self._stale = 0 if self._search.least < least else self._stale + most
        if self._search.least < self._least:
            self._least, self._best = self._search.least, self._search.best()
        return spent

    def reached(self) -> float:
        """The least objective of all its searches so far."""
        return self._least

    def passed(self, over: bool) -> list[Placement]:
        """The best placement, if it is better than all that were handed on."""
        if self._least >= self._shown.least:
            return []
        self._shown.least = self._least
        return [self._best]


def tabu(
    problem: Problem,
    goal: DescentGoal,
    starts: list[Placement],
    budget: SearchBudget,
    rng: np.random.Generator,
    progress: Callable[[float], None],
    memory: TabuMemory = TabuMemory(),
    team: Team = SINGLE,
) -> Iterator[Placement]:
    """Search from the starts in turn, each until it gets no better, and yield each new best placement of all whenever
    `side_by_side` looks."""
    rules, usual = MoveRules.of(problem), goal.usual_peak(problem.load, starts)
    shown = _Shown(min(goal.state(start, problem.load, usual).objective for start in starts))

    def chain(first: int, own: np.random.Generator) -> _TabuChain:
        def search(number: int) -> Tabu:
            start = starts[number % len(starts)]
            return Tabu(goal.state(start, problem.load, usual), rules, own, memory)

        return _TabuChain(search, first, team.chains, memory.patience, shown)

    chains = [chain(first, own) for first, own in enumerate(rng.spawn(team.chains))]
    return side_by_side(chains, budget, team.threads, CHUNK, progress)


@kernel
def _walk(
    state: SearchState, scratch: Scratch, rules: MoveRules, swaps: float, lists: TabuLists, draws: Floats,
    tabu_until: Ints, first: int, objective: int, least: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Make one step for each row of draws `[step, candidate, DRAWS]`; `first` is the number of the first step.

    A step writes its tabu_until `[step]` into the list of what is forbidden. Returns how many moves were evaluated, the
    objective and the least so far.
    """
    elite, until, best = lists
    slots, experts = state.slots, len(state.copies)
    evaluated = 0
    for number in range(len(draws)):
        step = first + number
        for place in range(len(elite) + draws.shape[1]):
            fresh = place - len(elite)
            move = propose(draws[number, fresh], slots, experts, swaps) if fresh >= 0 else int(elite[place, 0])
            change = NONE
            if is_legal(move, slots, state.copies, rules):
                change = delta(move, state, scratch)
                evaluated += 1
                if objective + change >= least and _is_tabu(move, slots, until, step):
                    change = NONE
            if fresh < 0:
                elite[place, 1] = change
            else:
                _enlist(move, change, elite)
            if change < 0:
                break
        chosen = elite[:, 1].argmin()
        if elite[chosen, 1] == NONE:
            continue
        objective += int(elite[chosen, 1])
        elite[chosen, 1] = NONE
        _forbid(elite[chosen, 0], slots, until, tabu_until[number])
        apply(elite[chosen, 0], state, scratch)
        if objective < least:
            least = objective
            for device in range(len(slots)):
                copy(slots[device], best[device])
    return evaluated, objective, least


@kernel
def _enlist(move: int, change: int, elite: Ints) -> None:
    """Put a move in the place of the worst of the elite, if it is better and not there already."""
    worst = elite[:, 1].argmax()
    if change < elite[worst, 1] and not (elite[:, 0] == move).any():
        elite[worst, 0], elite[worst, 1] = move, change


@kernel
def _is_tabu(move: int, slots: Ints, until: Ints, step: int) -> bool:
    """Whether a legal move brings an expert back to a device that it has left a short while ago."""
    depth = slots.shape[1]
    a, b, x, y = decode(move, slots, len(until))
    return bool((y >= 0 and until[y, a // depth] >= step) or (x >= 0 and b >= 0 and until[x, b // depth] >= step))


@kernel
def _forbid(move: int, slots: Ints, until: Ints, step: int) -> None:
    """Forbid what leaves a device with this move to come back up to a step; to be called before the move is made."""
    depth = slots.shape[1]
    a, b, x, y = decode(move, slots, len(until))
    if x >= 0:
        until[x, a // depth] = step
    if y >= 0 and b >= 0:
        until[y, b // depth] = step
