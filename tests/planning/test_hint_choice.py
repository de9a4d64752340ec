"""Hints are made as seldom and as late as costs next to nothing on the selection batches, and a plan says how."""

from dataclasses import replace
from math import inf

import pytest
from random_problems import small_problem

from optimizer.domain.placement import Placement
from optimizer.interrupts import Cancel
from optimizer.planning import hint_choice
from optimizer.planning.hint_choice import choose_hints
from optimizer.planning.pool import LayerJudge
from optimizer.routing.hints import USUAL_HINTS, HintSettings
from optimizer.search.seeds.flexibility import flexibility
from optimizer.simulation.conditions import Conditions


def chosen(monkeypatch: pytest.MonkeyPatch, cost: dict[tuple[float, int, int], float]) -> HintSettings:
    """What is chosen where settings (half-life, refresh, lag) have these latencies, and others 200."""
    problem, sets = small_problem(1)
    monkeypatch.setattr(
        hint_choice, "_latency", lambda judge, placement, how: cost.get((how.half_life, how.refresh, how.lag), 200.0)
    )
    return choose_hints(LayerJudge(problem, sets, Conditions("hint")), flexibility(problem), Cancel())


def test_the_half_life_is_the_best_and_the_rest_as_lax_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """100.2 is just what lag 2 may cost; refresh 2 may cost as much again, and refresh 4 is beyond it."""
    cost = {(4.0, 1, 1): 101.0, (8.0, 1, 1): 100.0, (8.0, 1, 2): 100.2, (8.0, 1, 4): 100.3, (8.0, 2, 2): 100.4}
    cost[8.0, 4, 2] = 100.5
    assert chosen(monkeypatch, cost) == HintSettings(8.0, 2, 2)


def test_what_is_lax_enough_beyond_a_bad_way_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, {(4.0, 1, 1): 100.0, (4.0, 1, 4): 100.0, (4.0, 8, 1): 99.0}) == USUAL_HINTS


def test_the_latency_is_that_of_selection_batches_under_these_settings() -> None:
    problem, sets = small_problem(2, tokens=90)
    placement, how = flexibility(problem), HintSettings(1.0, 2, 3)
    judge = LayerJudge(problem, sets, Conditions("hint-device"))
    same = replace(judge, conditions=Conditions("hint-device", hints=how))
    report = same.selection(placement)
    assert report.hints == how
    assert hint_choice._latency(judge, placement, how) == hint_choice._latency(same, placement, how)


def test_an_early_end_takes_the_usual_hints() -> None:
    problem, sets = small_problem(2)
    cancel = Cancel()
    cancel.ask()
    judge = LayerJudge(problem, sets, Conditions("hint"))
    assert choose_hints(judge, flexibility(problem), cancel) == USUAL_HINTS


def test_with_little_time_settings_are_compared_on_few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, sets = small_problem(2)
    judge, counts = LayerJudge(problem, sets, Conditions("hint")), set[int]()
    few = sets.selection.count - 1

    def latency(judge: LayerJudge, placement: Placement, settings: HintSettings) -> float:
        counts.add(judge.sets.selection.count)
        return 100.0

    monkeypatch.setattr(hint_choice, "_latency", latency)
    monkeypatch.setattr(hint_choice, "FEWEST", few)
    for seconds, count in ((1e-6, few), (1e6, few + 1), (inf, few + 1)):
        choose_hints(judge, flexibility(problem), Cancel(), seconds)
        assert counts == {count}
        counts.clear()
