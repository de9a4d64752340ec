"""A plan says how its search converged: candidates as they would have been chosen, the same with the same seed."""

import json
from pathlib import Path

import pytest
from page_facts import LAYERS, small_plan
from random_problems import small_problem

from optimizer.errors import InputError
from optimizer.planning.convergence import Convergence
from optimizer.planning.options import SolveOptions
from optimizer.planning.plan_file import read_plan, write_plan
from optimizer.planning.portfolio import Portfolio
from optimizer.planning.token_seeds import all_seeds
from optimizer.search.choose import LATENCIES, choose
from optimizer.search.trail import Trail

LONG = 1e6
"""Seconds that no search needs, so that moves alone end them on a slow machine, too."""


def searched(routings: tuple[str, ...], seed: int = 0) -> Portfolio:
    """The pools of a small layer, filled by all searches."""
    problem, sets = small_problem(11, rows=4, cols=2, slots=3, routed=14, top_k=4)
    options = SolveOptions(LONG, seed, 4000, routings=routings, jobs=2)
    effort, portfolio = options.effort(), Portfolio.of(problem, sets, options)
    found = list(all_seeds(problem, sets.train, options, effort, lambda stage, share: None))
    portfolio.search(found, effort, LONG, lambda stage, share: None)
    return portfolio


def test_the_curve_of_candidates_is_what_would_have_been_chosen() -> None:
    portfolio = searched(("even-source", "optimal"))
    convergence = portfolio.convergence
    assert [trail.name for trail in convergence.candidates] == list(portfolio.pools)
    for trail in convergence.candidates:
        pool = portfolio.pools[trail.name]
        assert trail.spent == len(pool.judged)
        for after, best in zip(trail.after, trail.best, strict=True):
            chosen = choose(pool.judged[:after], 0, pool.judge.goal)
            assert best == pytest.approx(pool.judged[chosen][LATENCIES][0], rel=1e-5)
        assert trail.best[-1] == pytest.approx(pool.judged[pool.best()][LATENCIES][0], rel=1e-5)


def test_searches_have_names_of_their_own_and_the_seed_alone_decides() -> None:
    one, again = (searched(("even-source", "hint-device", "sglang-static")).convergence for _ in range(2))
    names = [trail.name for trail in one.searches]
    assert len(set(names)) == len(names)
    assert {"descent for even routing", "annealing for hint-device, few users", "annealing for hint-device (2)",
            "descent for sglang-static", "climb for sglang-static"} <= set(names)  # fmt: skip
    assert one == again


def test_it_is_read_back_and_plans_without_it_are_read(tmp_path: Path) -> None:
    plan = small_plan()
    said = Convergence((Trail("optimal", [1, 3], [9.5, 9.0], 7),), (Trail("annealing", [0], [2.0], 10),))
    plan.layers[1] = plan.layers[1].__class__(plan.layers[1].placement, convergence=said)
    write_plan(tmp_path / "plan.json", plan)
    read = read_plan(tmp_path / "plan.json")
    assert {layer: read.layers[layer].convergence for layer in LAYERS} == {0: None, 1: said, 2: None}


def test_a_fault_in_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan(path, small_plan())
    text = json.loads(path.read_text())
    text["layers"]["1"]["convergence"] = {"searches": [{"name": "a", "after": [-1], "best": [1.0], "spent": 3}]}
    path.write_text(json.dumps(text))
    with pytest.raises(InputError, match=r"layers\.1\.convergence\.searches\.0\.after\.0"):
        read_plan(path)
