"""Annealing is repeatable, stays feasible, has a placement at any time, and ends better than where it started."""

import time
from concurrent.futures import Executor

import numpy as np
import pytest
from random_problems import small_problem

from formulations.kit.arrays import Ints
from optimizer.domain.problem import Problem
from optimizer.search.annealing import Annealer, AnnealingSchedule, anneal
from optimizer.search.moves import MoveRules
from optimizer.search.seeds.greedy import greedy
from optimizer.search.seeds.orders import random_permutation
from optimizer.search.side_by_side import LOOKS, Team
from optimizer.search.split_state import exact_peaks
from optimizer.search.stop import Deadline, SearchBudget


def drawn() -> Problem:
    """A small problem whose devices have room for replicas."""
    problem, _ = small_problem(6, rows=4, cols=3, routed=24, slots=3)
    return problem


def ends(seed: int, iterations: int = 4000, tile: int = 1) -> list[list[list[int]]]:
    """The slots of all placements that annealing yields with this seed; tile: tokens of a unit of load."""
    problem = drawn()
    budget, rng = SearchBudget(Deadline(600), 600, iterations), np.random.default_rng(seed)
    units = -(-problem.load // tile)
    found = anneal(greedy(problem), units, MoveRules.of(problem), budget, rng, team=Team(2, 2))
    return [placement.slots.tolist() for placement in found]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_search_also_in_another_process(another_process: Executor) -> None:
    here = ends(1)
    assert len(here) > 1
    assert here == ends(1) == another_process.submit(ends, 1).result()
    assert ends(2) != here


@pytest.mark.parametrize("tile", [1, 8])
def test_it_gets_better_and_stays_feasible(tile: int) -> None:
    problem = drawn()
    units = -(-problem.load // tile)
    rng, budget = np.random.default_rng(0), SearchBudget(Deadline(600), 600, 20_000)
    start = random_permutation(problem, rng)
    looks: list[float] = []
    found = list(anneal(start, units, MoveRules.of(problem), budget, rng, progress=looks.append))
    assert all(placement.violations(25, 12, 3) == [] for placement in found)
    by_row = [(placement.slots.reshape(4, 9) == 24).sum(axis=1).tolist() for placement in found]
    assert all(rows == [1, 1, 1, 1] for rows in by_row)
    assert exact_peaks(found[-1], units).mean() < exact_peaks(start, units).mean()
    assert looks == [look / LOOKS for look in range(1, LOOKS + 1)]
    assert budget.iterations is not None
    assert budget.iterations == 0


@pytest.mark.parametrize("extra", [0, 3])
def test_empty_slots_are_used_within_the_budget(extra: int) -> None:
    problem, _ = small_problem(6, rows=4, cols=3, routed=24, slots=3, extra=extra)
    sparse = small_problem(6, rows=4, cols=3, routed=24, slots=3, extra=0)[0]
    rng, budget = np.random.default_rng(0), SearchBudget(Deadline(600), 600, 5000)
    found = list(anneal(greedy(sparse), problem.load, MoveRules.of(problem), budget, rng))
    assert all(problem.violations(placement) == [] for placement in found)
    assert found[-1].counts(25)[:24].sum() == 24 + extra
    emptied = [(placement.slots < 0).any(axis=1).tolist() for placement in (greedy(sparse), found[-1])]
    assert emptied[0] != emptied[1]
    means = [exact_peaks(placement, problem.load).mean() for placement in (found[-1], greedy(sparse))]
    assert means[0] < means[1] if extra else means[0] == means[1]  # the hottest expert alone is the peak


def test_nothing_is_drawn_once_the_time_is_up() -> None:
    problem = drawn()
    budget = SearchBudget(Deadline(60, time.monotonic() - 61), 60)
    assert list(anneal(greedy(problem), problem.load, MoveRules.of(problem), budget, np.random.default_rng(0))) == []


def test_a_problem_without_legal_moves_comes_to_an_end() -> None:
    problem, _ = small_problem(0, rows=1, cols=1, slots=4, routed=3)
    budget = SearchBudget(Deadline(60), 60, 30)
    assert (
        len(list(anneal(greedy(problem), problem.load, MoveRules.of(problem), budget, np.random.default_rng(0)))) == 1
    )


def annealer(load: Ints, problem: Problem, schedule: AnnealingSchedule) -> Annealer:
    """An annealer at the greedy placement; load `[batch, expert]`."""
    return Annealer(greedy(problem), load, MoveRules.of(problem), schedule, np.random.default_rng(0))


def test_excess_is_what_peaks_are_above_even_loads() -> None:
    problem = drawn()
    one = annealer(problem.load, problem, AnnealingSchedule(tail_weight=0))
    mean_load = problem.load.sum(axis=1).mean() / problem.mesh.devices
    assert one.excess() == pytest.approx(one.peaks().mean() - mean_load)
    weighed = annealer(problem.load, problem, AnnealingSchedule(tail_weight=3))
    assert weighed.excess() == pytest.approx(weighed.objective() - 4 * mean_load)
    thrice = annealer(problem.load * 3, problem, AnnealingSchedule(tail_weight=0))
    assert thrice.excess() == pytest.approx(3 * one.excess(), rel=0.02)


def test_hot_is_restless_and_cold_only_gets_better() -> None:
    problem = drawn()
    hot, cold = (annealer(problem.load, problem, AnnealingSchedule(tail_weight=0)) for _ in range(2))
    hot.run(2000, 1e9)
    assert hot.tally.made == hot.tally.evaluated > 500
    before = cold.objective()
    for _ in range(20):
        cold.run(100, 0.0)
        assert cold.objective() <= before
        before = cold.objective()
    assert cold.tally.made < cold.tally.evaluated / 2


def test_the_objective_is_mean_and_conditional_value_at_risk() -> None:
    problem, _ = small_problem(6, rows=4, cols=3, routed=24, slots=3)
    one = annealer(
        np.tile(problem.load, (4, 1)) * np.arange(1, 25)[:, None], problem, AnnealingSchedule(tail=0.25, tail_weight=2)
    )
    peaks = one.peaks()
    assert len(peaks) == 24
    assert one.objective() == pytest.approx(peaks.mean() + 2 * np.sort(peaks)[-6:].mean())
