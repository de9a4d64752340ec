"""Descents from several starts, in turn, for as long as there is time, and what descents minimise."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.checks import require
from optimizer.search.descent import Descent
from optimizer.search.moves import MoveRules
from optimizer.search.rule_loads import RuleLoads
from optimizer.search.side_by_side import SINGLE, Team, side_by_side
from optimizer.search.state import TAIL_WEIGHT, SearchState
from optimizer.search.stop import SearchBudget
from optimizer.statistics.coactivation import pair_counts
from optimizer.traces.batches import Batches

TOKEN_NS = 1000  # per token on the fullest device; with 400 the home case gains more latency but loses balance
CHUNK = 4_000  # iterations between looks at the clock at most: some hundredths of a second at 128 devices
LOOK = 0.05  # seconds between looks at the clock up to which more iterations are made the next time


@dataclass(frozen=True)
class DescentWeights:
    """What a search under even split weighs against compute time.

    tail_weight: how many times more each nanosecond of a batch's peak counts above the usual peak, 0 for no difference
    (without it the home case gains mean latency and loses p99; 16 gains less than 4 on all traces tried); token_ns:
    nanoseconds that each token on the fullest device counts besides compute, so that balance counts between two tiles
    (with 400 instead of 1000 the home case gains more latency but loses balance). Raises ValueError for a negative one.
    """

    tail_weight: int = TAIL_WEIGHT
    token_ns: int = TOKEN_NS

    def __post_init__(self) -> None:
        require(self.tail_weight >= 0, "tail_weight", self.tail_weight, "0 or more")
        require(self.token_ns >= 0, "token_ns", self.token_ns, "0 or more")


@dataclass(frozen=True, eq=False)
class DescentGoal:
    """What is to be least under even split or a rule: the sum of batch peaks, less what co-location saves.

    value `[most load of an expert + 1]` what a slot costs by its load; together `[expert, expert]` what two experts on
    one device save; tail_weight: how many times more a peak counts above the usual peak, 0 for no difference; rule: the
    loads under a server's rule, None for an even split. Raises ValueError for arrays of other shapes and for a negative
    weight.
    """

    value: Ints
    together: Ints
    tail_weight: int = TAIL_WEIGHT
    rule: RuleLoads | None = None

    def __post_init__(self) -> None:
        if self.value.ndim != 1 or self.together.ndim != 2 or len(set(self.together.shape)) != 1:
            shapes = f"{list(self.value.shape)} and {list(self.together.shape)}"
            raise ValueError(f"the goal has arrays of shapes {shapes}; they are [load] and [expert, expert]")
        require(self.tail_weight >= 0, "tail_weight", self.tail_weight, "0 or more")

    def state(self, placement: Placement, load: Ints, usual: int | None = None) -> SearchState:
        """The search state of a placement, load `[batch, expert]`; usual: the peak above which the tail begins."""
        return SearchState.of(placement, load, self.value, self.together, usual, self.tail_weight, self.rule)

    def usual_peak(self, load: Ints, starts: list[Placement]) -> int | None:
        """The median over batches of the peak cost of the start where it is least; None for a goal without a tail."""
        if self.tail_weight == 0:
            return None
        return min(int(np.median(self.state(start, load).leading[0])) for start in starts)


def latency_goal(problem: Problem, train: Batches, weights: DescentWeights = DescentWeights()) -> DescentGoal:
    """What descents minimise, in nanoseconds over all train batches: peak compute, less messages saved.

    A slot costs its compute time and a little per token: the staircase of tiles decides, and tokens, which imbalance
    counts, show the way where it is flat. Two experts of one token on one device send one result back instead of two.
    """
    together = pair_counts(train.experts, problem.model.experts) * problem.cost.message_ns(problem.mesh)
    return DescentGoal(slot_value(problem, weights.token_ns), together, weights.tail_weight)


def slot_value(problem: Problem, token_ns: int = TOKEN_NS) -> Ints:
    """What a slot costs by its tokens, `[tokens + 1]` nanoseconds: its compute time and `token_ns` per token."""
    most = int(problem.load.max(initial=0))
    value: Ints = problem.cost.slot_ns(most, problem.batch_blocks) + token_ns * np.arange(most + 1)
    return value


class DescentChain(ABC):
    """Descents one after another, each with a number, which grows in steps of `step`."""

    def __init__(self, rules: MoveRules, rng: np.random.Generator, first: int, step: int) -> None:
        self._rules, self._rng, self._number, self._step = rules, rng, first, step
        self._under_way: Descent | None = None
        self._ended: list[tuple[int, Placement]] = []
        self._reached: float = np.inf

    @abstractmethod
    def begin(self, number: int, rng: np.random.Generator) -> SearchState:
        """The state in which the descent of this number begins."""

    @abstractmethod
    def learn(self, objective: int, placement: Placement) -> None:
        """Hear where a descent has ended, before the next one begins."""

    @abstractmethod
    def is_worth_it(self, objective: int) -> bool:
        """Whether to hand on where a descent has ended, with this objective."""

    def advance(self, most: int, share: float) -> int:
        """Go on with the descent that is under way, or begin the next one."""
        descent = self._under_way or self._next()
        done = descent.run(most)
        if done.at_optimum:
            self._end(descent.state)
        return max(done.evaluated, 1)

    def reached(self) -> float:
        """The least objective at which a descent has begun or ended."""
        if self._reached == np.inf:
            self._next()
        return self._reached

    def passed(self, over: bool) -> list[Placement]:
        """Where descents have ended since this was last asked, the one under way too if the search ends."""
        if over and self._under_way is not None:
            self._end(self._under_way.state)
        ended, self._ended = self._ended, []
        return [placement for objective, placement in ended if self.is_worth_it(objective)]

    def _next(self) -> Descent:
        """Begin the next descent."""
        state = self.begin(self._number, self._rng)
        self._under_way = Descent(state, self._rules, self._rng)
        self._reached = min(self._reached, state.objective)
        self._number += self._step
        return self._under_way

    def _end(self, state: SearchState) -> None:
        self._under_way = None
        self._reached = min(self._reached, state.objective)
        self._ended.append((state.objective, state.placement()))
        self.learn(*self._ended[-1])


class _FromStarts(DescentChain):
    """Descents from the starts in turn."""

    def __init__(
        self, starts: Callable[[int], SearchState], rules: MoveRules, rng: np.random.Generator, first: int, step: int
    ) -> None:
        super().__init__(rules, rng, first, step)
        self._starts = starts

    def begin(self, number: int, rng: np.random.Generator) -> SearchState:
        """The state of the start whose turn it is."""
        return self._starts(number)

    def learn(self, objective: int, placement: Placement) -> None:
        """No descent follows from another."""

    def is_worth_it(self, objective: int) -> bool:
        """All of them: which one is good on other batches, the objective does not tell."""
        return True


def multistart(
    problem: Problem,
    goal: DescentGoal,
    starts: list[Placement],
    budget: SearchBudget,
    rng: np.random.Generator,
    progress: Callable[[float], None],
    team: Team = SINGLE,
) -> Iterator[Placement]:
    """Yield where each descent ended, at a local optimum or at the end of the budget, whenever `side_by_side` looks;
    starts are taken in turn."""
    usual, rules = goal.usual_peak(problem.load, starts), MoveRules.of(problem)
    begin = lambda number: goal.state(starts[number % len(starts)], problem.load, usual)  # noqa: E731
    rngs = enumerate(rng.spawn(team.chains))
    chains = [_FromStarts(begin, rules, own, first, team.chains) for first, own in rngs]
    return side_by_side(chains, budget, team.threads, CHUNK, progress)


def descend(descent: Descent, budget: SearchBudget) -> None:
    """Run a descent until its local optimum or the end of the budget."""
    chunk = CHUNK // 32  # at 2,048 devices an iteration takes .7 ms; where looks are made changes no result
    while granted := budget.grant(chunk):
        started = time.monotonic()
        step = descent.run(granted)
        if time.monotonic() - started < LOOK:
            chunk = min(2 * chunk, CHUNK)
        budget.spend(step.evaluated)
        if step.at_optimum:
            return
