"""One layer rebalanced within budgets of moves."""

from dataclasses import replace

import numpy as np
import pytest
from random_problems import random_placement, small_problem

from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.planning.options import SolveOptions
from optimizer.planning.plan_layer import solve
from optimizer.planning.rebalancing import expected
from optimizer.planning.rebalancing.expected import expected_bound
from optimizer.planning.rebalancing.layer import LayerCurve, curve_of, rebalance_layer
from optimizer.search.choose import DECISIVE, figures
from optimizer.traces.batches import Sets


def case(seed: int) -> tuple[Problem, Sets, Placement]:
    problem, sets = small_problem(seed)
    return problem, sets, random_placement(np.random.default_rng(seed), problem.model.experts, problem.mesh)


def options(policy: str) -> SolveOptions:
    return SolveOptions(time_limit=600, iterations=300, routings=(policy,), jobs=1)


@pytest.fixture(scope="module", params=["even-source", "hint-device", "vllm", "weights"])
def curve(request: pytest.FixtureRequest) -> LayerCurve:
    problem, sets, current = case(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expected, "WORK", 0.1)
        return curve_of(problem, sets, current, (2, 8), options(request.param))


def test_no_budget_is_broken_and_more_moves_are_never_worse(curve: LayerCurve) -> None:
    problem, current = curve.judge.problem, curve.candidates.current
    points = curve.points()
    assert points[0].placement.slots.tolist() == current.slots.tolist()
    for point in points:
        assert not problem.violations(point.placement)
        assert point.moves == point.placement.weights_to_load(current)
        assert point.most is None or point.moves <= point.most
    values = [curve.candidates.value(curve.candidates.best(point.most)) for point in points]
    assert values == sorted(values, reverse=True)
    assert values[0] == 1


def test_without_a_limit_it_is_as_good_as_a_fresh_plan(curve: LayerCurve) -> None:
    judge = curve.judge
    anew = replace(judge.problem, start=None, extra_replicas=judge.problem.mesh.slots)  # as many as fit
    fresh = solve(anew, judge.sets, options(judge.conditions.routing)).chosen.placement
    decisive = DECISIVE[judge.goal]
    found, other = (figures(judge.selection(each))[decisive] for each in (curve.at(None).placement, fresh))
    assert (found / other).mean() <= 1.01


def test_gains_are_of_test_batches_under_one_policy(curve: LayerCurve) -> None:
    point = curve.at(8)
    assert point.before.routing == point.after.routing == curve.judge.conditions.routing
    assert point.after.latency_us.tolist() == curve.judge.test(point.placement).latency_us.tolist()
    assert point.gain.mean == pytest.approx(1 - point.after.latency_us.mean() / point.before.latency_us.mean())
    assert point.gain.low <= point.gain.mean <= point.gain.high
    assert curve.at(0).gain == (0, 0, 0)


def test_a_bound_holds_for_all_that_was_tried(curve: LayerCurve) -> None:
    problem = curve.judge.problem
    for most in curve.budgets:
        bound = curve.at(most).expected
        assert bound is not None
        assert bound == expected_bound(problem, curve.outcomes[most], curve.at(most).placement)
        for candidate in curve.candidates.found.values():
            if candidate.moves <= most:
                assert expected_bound(problem, curve.outcomes[most], candidate.placement).reached >= bound.least - 1e-9
    assert curve.at(None).expected is None


def test_the_seed_alone_decides_where_moves_are_counted() -> None:
    problem, sets, current = case(5)
    once, again = (rebalance_layer(problem, sets, current, 3, options("even-source")) for _ in range(2))
    assert once.placement.slots.tolist() == again.placement.slots.tolist()
    assert once.gain == again.gain


def test_a_cancelled_run_keeps_what_it_has() -> None:
    problem, sets, current = case(5)
    asked = options("even-source").effort()
    asked.cancel.ask()
    found = rebalance_layer(problem, sets, current, 3, options("even-source"), asked)
    assert found.moves <= 3


@pytest.mark.parametrize("stage", ["seeds", "within 3 moves"])
def test_a_run_that_is_ended_in_its_midst_keeps_a_plan_within_its_budget(stage: str) -> None:
    problem, sets, current = case(5)
    wanted = options("even-source")
    effort, told = wanted.effort(), []

    def tell(now: str, share: float) -> None:
        told.append(now)
        if now == stage:
            effort.cancel.ask()

    found = rebalance_layer(problem, sets, current, 3, wanted, effort, tell)
    assert stage in told
    assert found.moves == found.placement.weights_to_load(current) <= 3
