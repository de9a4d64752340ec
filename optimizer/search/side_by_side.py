"""Searches of one kind that run at once, each in a thread with random numbers of its own, and hand on what they pass.

A chain is such a search, from its start to the end of the budget. Kernels release Python's lock, so chains in two
threads do nearly twice the work of one. At even shares of the budget all chains stand still, and what they have found
is handed on; until then no chain knows of another, so that it does not matter how many threads there are, or which one
is ahead.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from optimizer.domain.placement import Placement
from optimizer.search.stop import SearchBudget
from optimizer.search.trail import Trail

LOOKS = 20  # times that chains stand still; a compromise between losing little and judging little, not tuned

LOOK = 0.05
"""Seconds between looks at the clock up to which a chain makes more iterations the next time: at 2,048 devices one may
take a millisecond, at 128 devices microseconds."""

CHAINS = 4
"""Chains where iterations are limited, whatever the number of threads, as the seed alone is to decide then. Four keep
two and four threads busy; more would leave each chain too few iterations. Not tuned."""


class Chain(Protocol):
    """A search that goes on a little at a time, in one thread at a time."""

    def advance(self, most: int, share: float) -> int:
        """Go on by at most this number of iterations, share: of the chain's budget that is spent. Returns how many
        iterations that took, 1 where it came to nothing, so that there is an end."""

    def reached(self) -> float:
        """The least objective so far."""

    def passed(self, over: bool) -> Sequence[Placement]:
        """What it has found since it was last asked and is worth handing on; over: whether the search ends here."""


@dataclass(frozen=True)
class Team:
    """How many chains share a budget, and how many threads they share."""

    chains: int = 1
    threads: int = 1

    @classmethod
    def of(cls, budget: SearchBudget, threads: int) -> "Team":
        """A chain for each thread, or `CHAINS` where iterations are limited."""
        return cls(threads if budget.iterations is None else CHAINS, threads)


SINGLE = Team()


@dataclass
class _Pace:
    """What each chain may spend from `started` on, a reading in seconds of the budget's clock."""

    budget: SearchBudget
    started: float
    iterations: int | None
    failed: bool = False

    def share(self, spent: int) -> float:
        """The share that is spent, of the iterations where they are limited, else of the time; 1 once there is nothing
        left of either, or the end was asked for, or a chain has failed."""
        if self.failed or self.budget.over:
            return 1.0
        if self.iterations is not None:
            return min(1.0, spent / max(self.iterations, 1))
        elapsed = self.budget.deadline.elapsed() - self.started
        return min(1.0, elapsed / (self.budget.seconds - self.started))

    def left(self, spent: int, chunk: int) -> int:
        """How many iterations to make now, until the next look at the clock."""
        return chunk if self.iterations is None else min(chunk, self.iterations - spent)


@dataclass
class _Runner:
    """A chain, the iterations between looks at the clock at most, how many there are now, how the chain converges, and
    how many iterations are spent."""

    chain: Chain
    pace: _Pace
    most: int
    chunk: int
    trail: Trail
    spent: int = 0

    @classmethod
    def of(cls, chain: Chain, pace: _Pace, most: int) -> "_Runner":
        """A runner that begins with few iterations between looks, unless iterations are limited: these come in equal
        chunks, as chains may depend on where the chunks end."""
        chunk = most if pace.iterations is not None else max(1, most // 32)
        runner = cls(chain, pace, most, chunk, pace.budget.trail())
        runner.note()
        return runner

    def note(self) -> None:
        """Note in the trail how far the chain has come."""
        self.trail.passed(self.spent, self.chain.reached())

    def run(self, until: float) -> None:
        """Run until this share of the budget is spent. An error here ends the other chains soon, too."""
        try:
            while (share := self.pace.share(self.spent)) < until:
                started = time.monotonic()
                self.spent += self.chain.advance(self.pace.left(self.spent, self.chunk), share)
                if time.monotonic() - started < LOOK:
                    self.chunk = min(2 * self.chunk, self.most)
        except BaseException:
            self.pace.failed = True
            raise


def side_by_side(
    chains: Sequence[Chain],
    budget: SearchBudget,
    threads: int,
    chunk: int,
    progress: Callable[[float], None] = lambda share: None,
    meet: Callable[[], None] = lambda: None,
) -> Iterator[Placement]:
    """Run all chains in this number of threads, each with an equal part of the iterations, and yield what they pass
    whenever one of `LOOKS` even shares of the budget is spent.

    chunk: iterations between looks at the clock at most; meet: is called while chains stand still, before they hand on
    what they have, to let them know of each other. Where iterations are limited, neither time nor the number of threads
    decides anything. What a chain raises is raised here, and the other chains end.
    """
    each = None if budget.iterations is None else budget.iterations // len(chains)
    pace = _Pace(budget, budget.deadline.elapsed(), each)
    runners = [_Runner.of(chain, pace, chunk) for chain in chains]
    told = 0
    with ThreadPoolExecutor(min(threads, len(chains))) as pool:
        try:
            for look in range(1, LOOKS + 1):
                for done in [pool.submit(runner.run, look / LOOKS) for runner in runners]:
                    done.result()
                told += _spend(budget, sum(runner.spent for runner in runners) - told)
                for runner in runners:
                    runner.note()
                progress(look / LOOKS)
                meet()
                for chain in chains:
                    yield from chain.passed(look == LOOKS)
        except BaseException:  # Ctrl-C, too: the threads end before the pool is left
            pace.failed = True
            raise


def _spend(budget: SearchBudget, more: int) -> int:
    """Account for further iterations, of limited ones for those at most that are left. Returns how many they were."""
    budget.spend(more if budget.iterations is None else min(more, budget.iterations))
    return more
