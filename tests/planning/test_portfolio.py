"""Which searches run for which policies, and what is chosen of what they find."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from random_problems import small_problem

from optimizer.domain.placement import Placement
from optimizer.planning import portfolio as module
from optimizer.planning.candidates import SEARCHES, Effort, seeds_and_formulation
from optimizer.planning.plan_layer import solve
from optimizer.planning.portfolio import AUTO, NEAR, SPLITTING, LayerJudge, Portfolio
from optimizer.routing.policies import POLICIES
from optimizer.search.choose import LATENCIES, SelectionGoal, figures
from optimizer.search.stop import Deadline
from optimizer.simulation.conditions import Conditions

EFFORT = Effort(Deadline(60), 0, 3000)


def silent(stage: str, share: float) -> None:
    return None


def searched(routings: tuple[str, ...], effort: Effort = EFFORT, **conditions: Any) -> Portfolio:
    problem, sets = small_problem(11, rows=4, cols=2, slots=3, routed=14, top_k=4)
    found = list(seeds_and_formulation(problem, effort, silent))
    portfolio = Portfolio.of(problem, sets, Conditions(**conditions), routings)
    portfolio.search(found, effort, 60, silent)
    return portfolio


@pytest.mark.parametrize("routings", [AUTO, *((name,) for name in POLICIES)], ids="-".join)
def test_every_policy_has_valid_candidates_of_which_the_first_is_greedy(routings: tuple[str, ...]) -> None:
    portfolio = searched(routings)
    assert tuple(portfolio.pools) == routings
    greedy = {pool.placements[0].slots.tobytes() for pool in portfolio.pools.values()}
    assert len(greedy) == 1
    for pool in portfolio.pools.values():
        assert len(pool.placements) > 2
        assert all(placement.violations(15, 8, 3) == [] for placement in pool.placements)


def test_the_best_is_no_worse_than_greedy_and_judged_under_its_policy() -> None:
    portfolio = searched(AUTO)
    for name, pool in portfolio.pools.items():
        best, again = pool.best(), LayerJudge(portfolio.problem, portfolio.sets, Conditions(name))
        assert (pool.judged[best][LATENCIES] <= pool.judged[0][LATENCIES]).all()
        assert (pool.judged[best] == figures(again.selection(pool.placements[best]))).all()
    mean = {name: pool.judged[pool.best()][LATENCIES].mean() for name, pool in portfolio.pools.items()}
    assert mean[portfolio.chosen()] == min(mean.values())
    assert portfolio.candidates == sum(len(pool.judged) for pool in portfolio.pools.values())


def test_selection_looks_at_selection_batches_and_test_at_test_batches() -> None:
    portfolio = searched(("nearest",))
    judge, placement = portfolio.pools["nearest"].judge, portfolio.pools["nearest"].placements[0]
    assert judge.test(placement).batches == portfolio.sets.test.count
    assert (figures(judge.selection(placement)) != figures(judge.test(placement))).any()


def test_tokens_are_balanced_unless_tiles_are_filled() -> None:
    problem, sets = small_problem(11)
    for name in POLICIES:
        tiles, tokens = (LayerJudge(problem, sets, Conditions(name, unit)).goal for unit in ("tiles", "tokens"))
        split = name in SPLITTING
        assert tiles is (SelectionGoal.LATENCY if split else SelectionGoal.LATENCY_AND_BALANCE)
        assert tokens is (SelectionGoal.BALANCE if split else SelectionGoal.LATENCY_AND_BALANCE)
    assert set(NEAR) - {*SPLITTING} == {"nearest"}


def test_an_interrupt_ends_the_search_and_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Iterator[Placement]:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "split_evenly", interrupted)
    problem, sets = small_problem(11, rows=4, cols=2, slots=3, routed=14, top_k=4)
    solution = solve(problem, sets, EFFORT, silent, Conditions(), AUTO)
    assert {row.report.routing for row in solution.rows if row.method == "search"} == {*AUTO}
    assert solution.rows[-1].placement.violations(15, 8, 3) == []


def test_searches_share_the_limit_of_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    spent: dict[str, int | None] = {}

    def noted(name: str) -> Any:
        def search(*arguments: Any) -> list[Placement]:
            spent[name] = arguments[-1].budget.iterations
            return []

        return search

    monkeypatch.setattr(module, "split_evenly", noted("descents"))
    monkeypatch.setattr(module, "split_at_best", noted("annealed"))
    for routings, expected in (
        (AUTO, {"descents": 900, "annealed": 2100}),
        (("even",), {"descents": 3000}),
        (("optimal",), {"annealed": 3000}),
    ):
        spent.clear()
        searched(routings)
        assert spent == expected


def test_the_seed_alone_decides_where_moves_are_limited() -> None:
    first, again = searched(AUTO), searched(AUTO)
    for name in AUTO:
        for one, other in zip(first.pools[name].judged, again.pools[name].judged, strict=True):
            assert np.array_equal(one, other)


@pytest.mark.parametrize(("search", "runs"), SEARCHES.items())
def test_the_search_that_is_named_runs_and_no_other(
    monkeypatch: pytest.MonkeyPatch, search: str, runs: tuple[str | None, str | None]
) -> None:
    ran: list[str] = []

    def noted(*arguments: Any) -> list[Placement]:
        ran.append(arguments[-2])
        return []

    monkeypatch.setattr(module, "split_evenly", noted)
    monkeypatch.setattr(module, "split_at_best", noted)
    searched(AUTO, replace(EFFORT, search=search))
    assert ran == [name for name in runs if name]


@pytest.mark.parametrize("search", ["tabu", "lns"])
def test_other_searches_keep_to_the_limits_of_replicas_too(search: str) -> None:
    problem, sets = small_problem(11, rows=4, cols=2, slots=3, routed=14, top_k=4)
    problem = replace(problem, extra_replicas=3)
    effort = replace(EFFORT, search=search)
    portfolio = Portfolio.of(problem, sets, Conditions(), AUTO)
    portfolio.search(list(seeds_and_formulation(problem, effort, silent)), effort, 60, silent)
    for pool in portfolio.pools.values():
        assert all(problem.violations(placement) == [] for placement in pool.placements)
