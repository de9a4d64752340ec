"""Chains in threads: how many threads there are changes nothing, and an error or Ctrl-C ends them all."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
from random_problems import small_problem

from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.interrupts import Cancel
from optimizer.planning.rule_candidates import _dealing
from optimizer.search.annealing import anneal
from optimizer.search.dealt_copies import climb_dealt
from optimizer.search.iterated import iterated
from optimizer.search.moves import MoveRules
from optimizer.search.multistart import latency_goal, multistart, slot_value
from optimizer.search.neighbourhood import NeighbourhoodSettings, search_neighbourhoods
from optimizer.search.seeds.greedy import greedy
from optimizer.search.seeds.pairing import pairing
from optimizer.search.side_by_side import CHAINS, LOOKS, Team, side_by_side
from optimizer.search.stop import Deadline, SearchBudget
from optimizer.search.tabu import TabuMemory, tabu
from optimizer.traces.batches import Sets

PATIENCE = 30.0  # seconds in which a thread must have ended; it takes about a thousandth of one

Search = Callable[[Problem, Sets, SearchBudget, np.random.Generator, Team], Iterator[Placement]]


def quiet(share: float) -> None:
    """Nobody watches."""


SEARCHES: dict[str, Search] = {
    "multistart": lambda problem, sets, budget, rng, team: multistart(
        problem, latency_goal(problem, sets.train), [greedy(problem), pairing(problem)], budget, rng, quiet, team
    ),
    "iterated": lambda problem, sets, budget, rng, team: iterated(
        problem.load, MoveRules.of(problem), latency_goal(problem, sets.train), [greedy(problem), pairing(problem)],
        budget, rng, quiet, team,
    ),
    "tabu": lambda problem, sets, budget, rng, team: tabu(
        problem, latency_goal(problem, sets.train), [greedy(problem)], budget, rng, quiet, TabuMemory(40, 10, 4, 900),
        team,
    ),
    "annealing": lambda problem, sets, budget, rng, team: anneal(
        greedy(problem), problem.load, MoveRules.of(problem), budget, rng, team=team
    ),
    "neighbourhoods": lambda problem, sets, budget, rng, team: search_neighbourhoods(
        greedy(problem), problem.load, MoveRules.of(problem), budget, rng, NeighbourhoodSettings(4), quiet, team
    ),
    "climb": lambda problem, sets, budget, rng, team: climb_dealt(
        greedy(problem), _dealing(problem, sets.train, slot_value(problem)), MoveRules.of(problem), budget, rng, team
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SEARCHES)
def test_the_number_of_threads_changes_nothing_where_iterations_are_limited(name: str) -> None:
    """A plan is to be repeatable on a machine with more cores."""
    problem, sets = small_problem(6, rows=2, cols=3, routed=12, slots=3)

    def found(threads: int) -> list[list[list[int]]]:
        budget = SearchBudget(Deadline(600), 600, 2000)
        team = Team.of(budget, threads)
        passed = list(SEARCHES[name](problem, sets, budget, np.random.default_rng(3), team))
        assert all(problem.violations(placement) == [] for placement in passed)
        assert budget.iterations == 0
        return [placement.slots.tolist() for placement in passed]

    one = found(1)
    assert one
    assert found(2) == found(3) == one


def test_a_team_has_a_chain_for_each_thread_unless_iterations_are_limited() -> None:
    timed, counted = SearchBudget(Deadline(1), 1), SearchBudget(Deadline(1), 1, 10)
    assert [Team.of(timed, threads) for threads in (1, 3)] == [Team(1, 1), Team(3, 3)]
    assert [Team.of(counted, threads) for threads in (1, 3)] == [Team(CHAINS, 1), Team(CHAINS, 3)]


class Endless:
    """A chain that counts its steps, does something in some of them, and passes its number now and then."""

    def __init__(self, number: int, act: Callable[[int], None] = lambda step: None) -> None:
        self.number, self.act, self.steps = number, act, 0

    def advance(self, most: int, share: float) -> int:
        """One step of at most 7 iterations."""
        self.act(self.steps)
        self.steps += 1
        time.sleep(0.0001)
        return min(most, 7)

    def reached(self) -> float:
        """The less, the more steps were made."""
        return 1000.0 - self.steps

    def passed(self, over: bool) -> list[Placement]:
        """Its number, as a placement."""
        return [Placement(np.array([[self.number]]))]


def test_chains_share_iterations_equally_and_stand_still_while_they_hand_on() -> None:
    chains, shares, met = [Endless(number) for number in range(3)], list[float](), list[int]()

    def meet() -> None:
        met.append(sum(chain.steps for chain in chains))

    budget = SearchBudget(Deadline(600), 600, 3001)
    numbers = []
    for placement in side_by_side(chains, budget, 2, 100, shares.append, meet):
        numbers.append(int(placement.slots[0, 0]))
        assert sum(chain.steps for chain in chains) == met[-1]
    assert numbers == [0, 1, 2] * LOOKS
    assert [chain.steps for chain in chains] == [143] * 3
    assert shares == [look / LOOKS for look in range(1, LOOKS + 1)]
    assert budget.iterations == 1


def alive() -> set[threading.Thread]:
    """The threads that run, without those that Ctrl-C has kept from starting."""
    return {thread for thread in threading.enumerate() if thread.is_alive()}


def fail(step: int) -> None:
    """Raise an error in the third step."""
    if step == 3:
        raise ZeroDivisionError("as it must")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_error_in_a_thread_ends_the_search(place: int) -> None:
    """Nothing else would end it, as the time does not; no thread is left that goes on."""
    before = alive()
    chains = [Endless(number, fail if number == place else lambda step: None) for number in range(3)]
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(chains, SearchBudget(Deadline(1e9), 1e9), 3, 10))
    assert alive() == before


ENDLESS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
sys.path[:0] = {paths!r}
from test_side_by_side import Endless, Deadline, SearchBudget, side_by_side
ready = lambda step: print("ready", flush=True) if step == 3 else None
try:
    list(side_by_side([Endless(0, ready), Endless(1)], SearchBudget(Deadline(1e9), 1e9), 2, 10))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
"""A search that nothing but Ctrl-C ends, in a process of its own: here the signal would hit the runner of the tests."""


@pytest.mark.slow
def test_ctrl_c_ends_the_search_and_its_threads() -> None:
    here = Path(__file__).parent
    paths = [str(here), str(here.parent / "helpers"), str(here.parents[1])]
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS.format(paths=paths)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        try:
            assert process.communicate(timeout=PATIENCE)[0] == "interrupted\n"
        finally:
            process.kill()
        assert process.returncode == 0


def test_a_search_that_nobody_goes_on_with_leaves_no_thread() -> None:
    before = threading.active_count()
    passed = side_by_side([Endless(0), Endless(1)], SearchBudget(Deadline(600), 600, 2000), 2, 10)
    assert next(passed).slots.tolist() == [[0]]
    assert isinstance(passed, Generator)
    passed.close()
    assert threading.active_count() == before


def test_the_end_is_heard_by_all_chains() -> None:
    cancel = Cancel()
    chains = [Endless(0, lambda step: cancel.ask() if step == 5 else None), Endless(1)]
    assert len(list(side_by_side(chains, SearchBudget(Deadline(1e9, cancel=cancel), 1e9), 2, 10))) == 2 * LOOKS
    assert chains[0].steps == 6
