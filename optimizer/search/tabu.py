"""Tabu search over placements under even split (Glover, ORSA Journal on Computing 1, 1989).

Each step draws candidate moves, looks at them and again at the best of earlier steps, the elite, and makes the first
that is for the better, else the best that is not tabu (an elite candidate list: Glover and Laguna, Tabu Search, 1997).
To draw only moves that touch the fullest device of some batch was tried: that leaves more to be found at the end. An
expert that has left a device is not to come back for some steps, a number drawn for each move, which avoids long cycles
(Taillard, Parallel Computing 17, 1991). A tabu move is made all the same if it leads to less than the least objective
so far (aspiration).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.looks import Looks
from optimizer.search.moves import NO_LIMIT, Scratch, apply, delta, is_legal, scratch_for
from optimizer.search.multistart import DescentGoal
from optimizer.search.state import SearchState
from optimizer.search.stop import SearchBudget

CHUNK = 4_000  # iterations between looks at the clock: some hundredths of a second
SWAPS = 0.6  # of the moves that are drawn
DRAWS = 3  # uniform random numbers that a move takes
NONE = np.iinfo(np.int64).max  # the change of no move


@dataclass(frozen=True)
class TabuMemory:
    """candidates: moves drawn in a step; elite: the best of earlier steps, looked at again; tenure: steps for which a
    move is tabu at least, and twice as many at most; patience: iterations without a new best that end a search."""

    candidates: int = 2_048
    elite: int = 64
    tenure: int = 10
    patience: int = 200_000

    def __post_init__(self) -> None:
        if min(self.candidates, self.elite, self.patience) < 1 or self.tenure < 0:
            raise ValueError(f"{self}: at least one move of each kind and one of patience, and no tenure below zero")


class Tabu:
    """A placement on its way, what is tabu, and the best that it has passed.

    spread `[expert]`: experts whose replicas keep their number and their rows; cols: devices of a mesh row; most:
    replicas of all experts together.
    """

    def __init__(
        self,
        state: SearchState,
        spread: Bools,
        cols: int,
        rng: np.random.Generator,
        memory: TabuMemory,
        most: int = NO_LIMIT,
    ) -> None:
        self.state, self.memory = state, memory
        self.least = self._objective = state.objective
        self._best, self._step = state.slots.copy(), 0
        self._spread, self._cols, self._rng, self._most = spread, cols, rng, most
        self._scratch = scratch_for(state)
        self._elite = np.tile([0, NONE], (memory.elite, 1))  # move 0 is never legal
        self._until = np.full((len(state.count), len(state.slots)), -1)

    def best(self) -> Placement:
        """The placement with the least objective so far."""
        return Placement(self._best)

    def run(self, iterations: int) -> int:
        """Make steps of at most so many iterations in all; returns how many, 1 if no drawn move was legal."""
        elite = self._elite[: max(iterations - 1, 1)]
        width = min(len(elite) + self.memory.candidates, iterations)
        draws = self._rng.random((iterations // width, width - len(elite), DRAWS))
        tenure = self._rng.integers(self.memory.tenure, 2 * self.memory.tenure + 1, len(draws))
        evaluated, self._objective, self.least = _walk(
            self.state.arrays(), self._scratch, self._spread, self._cols, self._most, elite, self._until,
            draws, self._step + tenure, self._step, self._best, self._objective, self.least,
        )  # fmt: skip
        self._step += len(draws)
        return max(evaluated, 1)


def tabu(
    problem: Problem,
    goal: DescentGoal,
    starts: list[Placement],
    budget: SearchBudget,
    rng: np.random.Generator,
    progress: Callable[[float], None],
    memory: TabuMemory = TabuMemory(),
) -> Iterator[Placement]:
    """Search from the starts in turn, each until it gets no better, and yield what has become better.

    That is the least of all, at the end of each search and at `looks.LOOKS` moments on the way.
    """
    usual, looks = _usual_peak(problem, goal, starts), Looks(budget)
    shown = min(SearchState.of(start, problem.load, goal.value, goal.together, usual).objective for start in starts)
    for start in cycle(starts):
        state = SearchState.of(start, problem.load, goal.value, goal.together, usual)
        search = Tabu(state, problem.spread, problem.mesh.cols, rng, memory, problem.most_replicas)
        stale = 0
        while stale < memory.patience:
            if (granted := budget.grant(CHUNK)) == 0:
                return
            least = search.least
            budget.spend(search.run(granted))
            progress(looks.share())
            stale = 0 if search.least < least else stale + granted
            if (looks.due() or stale >= memory.patience) and search.least < shown:
                shown = search.least
                yield search.best()


def _usual_peak(problem: Problem, goal: DescentGoal, starts: list[Placement]) -> int | None:
    """The median over batches of the peak cost of the start where that is least; None if the goal has no tail."""
    if not goal.tail:
        return None
    states = (SearchState.of(start, problem.load, goal.value, goal.together) for start in starts)
    return min(int(np.median(state.leading[0])) for state in states)


@kernel
def _walk(
    state: tuple[Ints, ...], scratch: Scratch, spread: Bools, cols: int, most: int, elite: Ints, until: Ints,
    draws: Floats, tabu_until: Ints, first: int, best: Ints, objective: int, least: int,
) -> tuple[int, int, int]:  # fmt: skip
    """One step for each row of draws `[step, candidate, DRAWS]`; `first` is the number of the first.

    elite `[elite, 2]`: moves and the change that each made when last looked at. until `[expert, device]`: the step up
    to which the expert is not to come to that device, of which a step writes its tabu_until `[step]`. best `[device,
    slot]` is kept up to date. Returns how many moves were evaluated, the objective and the least so far.
    """
    slots = state[2]
    evaluated = 0
    for number in range(len(draws)):
        step = first + number
        for place in range(len(elite) + draws.shape[1]):
            fresh = place - len(elite)
            move = _propose(draws[number, fresh], slots, len(state[3])) if fresh >= 0 else int(elite[place, 0])
            change = NONE
            if is_legal(move, slots, state[3], spread, cols, most):
                change = delta(move, state, scratch)
                evaluated += 1
                if objective + change >= least and _is_tabu(move, state, until, step):
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
        _forbid(elite[chosen, 0], state, until, tabu_until[number])
        apply(elite[chosen, 0], state, scratch)
        if objective < least:
            least = objective
            best[:] = slots
    return evaluated, objective, least


@kernel
def _enlist(move: int, change: int, elite: Ints) -> None:
    """Put a move in the place of the worst, if it is better and not there already."""
    worst = elite[:, 1].argmax()
    if change < elite[worst, 1] and not (elite[:, 0] == move).any():
        elite[worst, 0], elite[worst, 1] = move, change


@kernel
def _propose(draw: Floats, slots: Ints, experts: int) -> int:
    """A move, legal or not: a swap of two slots, or a replica in one of them of the expert in the other."""
    one, other = int(draw[1] * slots.size), int(draw[2] * slots.size)
    if draw[0] < SWAPS:
        return min(one, other) * slots.size + max(one, other)
    return slots.size * slots.size + one * experts + max(int(slots.ravel()[other]), 0)


@kernel
def _arrivals(move: int, state: tuple[Ints, ...]) -> tuple[int, int, int, int]:
    """The expert that comes to the device of the move's first slot, that device, and the same of the second: the one
    that leaves the first, and its new device, -1 if it goes nowhere."""
    slots, count = state[2], state[3]
    depth, size = slots.shape[1], slots.size
    if move >= size * size:
        a = (move - size * size) // len(count)
        return (move - size * size) % len(count), a // depth, slots[a // depth, a % depth], -1
    a, b = move // size, move % size
    return slots[b // depth, b % depth], a // depth, slots[a // depth, a % depth], b // depth


@kernel
def _is_tabu(move: int, state: tuple[Ints, ...], until: Ints, step: int) -> bool:
    """Whether an expert would come to a device that it has left a short while ago."""
    y, at_a, x, at_b = _arrivals(move, state)
    return (y >= 0 and until[y, at_a] >= step) or (x >= 0 and at_b >= 0 and until[x, at_b] >= step)


@kernel
def _forbid(move: int, state: tuple[Ints, ...], until: Ints, step: int) -> None:
    """What leaves a device with this move is not to come back up to a step."""
    y, at_a, x, at_b = _arrivals(move, state)
    if x >= 0:
        until[x, at_a] = step
    if y >= 0 and at_b >= 0:
        until[y, at_b] = step
