"""What a search notes of how it converges is what its placements are worth, in few points and never rising."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import small_problem

from optimizer.domain.placement import Placement
from optimizer.search.annealing import AnnealingSchedule, anneal
from optimizer.search.iterated import iterated
from optimizer.search.moves import MoveRules
from optimizer.search.multistart import latency_goal, multistart
from optimizer.search.neighbourhood import objective, search_neighbourhoods
from optimizer.search.seeds.greedy import greedy
from optimizer.search.side_by_side import LOOKS, Team
from optimizer.search.split_state import PARTS, exact_peaks
from optimizer.search.stop import Deadline, SearchBudget
from optimizer.search.tabu import tabu
from optimizer.search.trail import POINTS, Trail

PROBLEM, SETS = small_problem(4, rows=4, cols=2, slots=3, routed=14, top_k=4)
RULES, GOAL = MoveRules.of(PROBLEM), latency_goal(PROBLEM, SETS.train)
START = greedy(PROBLEM)

Search = Callable[[SearchBudget, np.random.Generator], Iterator[Placement]]
EVENLY: dict[str, Search] = {
    "multistart": lambda budget, rng: multistart(PROBLEM, GOAL, [START], budget, rng, lambda share: None),
    "iterated": lambda budget, rng: iterated(PROBLEM.load, RULES, GOAL, [START], budget, rng, lambda share: None),
    "tabu": lambda budget, rng: tabu(PROBLEM, GOAL, [START], budget, rng, lambda share: None),
}


def searched(search: Search, iterations: int) -> tuple[list[Placement], list[Trail]]:
    """What a search yields, and its trails."""
    budget = SearchBudget(Deadline(600), 600, iterations)
    found = list(search(budget, np.random.default_rng(0)))
    return found, budget.trails


@pytest.mark.parametrize("name", EVENLY)
def test_the_last_value_is_that_of_the_best_placement_and_the_first_that_of_the_start(name: str) -> None:
    found, (trail,) = searched(EVENLY[name], 20_000)
    usual = GOAL.usual_peak(PROBLEM.load, [START])
    worth = [GOAL.state(placement, PROBLEM.load, usual).objective for placement in found]
    assert trail.best[0] == GOAL.state(START, PROBLEM.load, usual).objective
    assert trail.best[-1] == min(worth) < trail.best[0]
    assert trail.best == sorted(trail.best, reverse=True)
    assert trail.after == sorted(trail.after)
    assert trail.after[-1] <= trail.spent <= 20_000


def test_a_neighbourhood_search_tells_what_its_placement_is_worth() -> None:
    found, (trail,) = searched(
        lambda budget, rng: search_neighbourhoods(START, PROBLEM.load, RULES, budget, rng), 50_000
    )
    assert trail.best[-1] == pytest.approx(objective(exact_peaks(found[-1], PROBLEM.load * PARTS) / PARTS))


def test_each_chain_of_annealing_has_a_trail_that_is_never_below_what_its_placement_reaches() -> None:
    """The peaks that an annealer holds are upper bounds of the least ones."""
    found, trails = searched(lambda budget, rng: anneal(START, PROBLEM.load, RULES, budget, rng, team=Team(2, 2)), 8000)
    assert len(trails) == 2
    assert len(found) > 2
    for trail in trails:
        assert len(trail.best) <= LOOKS + 1
        assert trail.best[-1] < trail.best[0]
    assert min(trail.best[-1] for trail in trails) >= min(map(exact, found)) - 1e-9


def exact(placement: Placement) -> float:
    """What annealing minimises, from the least peaks."""
    peaks, schedule = np.sort(exact_peaks(placement, PROBLEM.load * PARTS) / PARTS), AnnealingSchedule()
    worst = peaks[-max(1, round(schedule.tail * len(peaks))) :]
    return float(peaks.mean() + schedule.tail_weight * worst.mean())


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=300))
def test_a_trail_keeps_the_running_minimum_and_few_points_of_it(values: list[float]) -> None:
    trail = Trail("search")
    for after, value in enumerate(values):
        trail.passed(after, value)
    least = np.minimum.accumulate(values)
    assert trail.spent == len(values) - 1
    assert [least[after] for after in trail.after] == trail.best
    assert len(set(trail.best)) == len(trail.best) == len(set(least.tolist()))
    thin = trail.thinned()
    assert len(thin.best) == min(POINTS, len(trail.best))
    assert (thin.after[0], thin.after[-1]) == (trail.after[0], trail.after[-1])
    assert thin.best == pytest.approx([least[after] for after in thin.after], rel=1e-5)
