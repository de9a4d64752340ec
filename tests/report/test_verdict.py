"""The verdict says what a plan is worth, and what it cannot say it leaves out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from random_problems import small_problem

from optimizer.planning.options import SolveOptions
from optimizer.planning.plan_layer import LayerSolution, solve
from optimizer.report.bounds import gap_table
from optimizer.report.solution import as_json, parts, solution_table
from optimizer.report.verdict import LatencyVerdict, Verdict
from optimizer.statistics.paired import Gain

SURE, UNSURE = Gain(0.081, 0.07, 0.09), Gain(0.081, -0.01, 0.1)
P99 = LatencyVerdict(455.8, 496.0, SURE, 440.0)
MEAN = LatencyVerdict(450.0, 500.0, Gain(0.1, 0.09, 0.11), 430.0)
KNOWN = Verdict(P99, MEAN, "nearest", 0.0, "even-source")


def with_p99(**changes: Any) -> str:
    """The first sentence of the verdict with another p99, or other things beside it."""
    said = replace(KNOWN, p99=replace(P99, **changes)).sentence()
    return said[: said.index(" Mean")]


@pytest.fixture(scope="module")
def solution() -> LayerSolution:
    problem, sets = small_problem(3)
    return solve(problem, sets, SolveOptions(30, 0, 200, routings=("even-source", "optimal")))


def test_the_sentences_name_what_the_plan_is_compared_with() -> None:
    start = "p99 455.8 us under nearest: "
    eplb = "8.1% below EPLB's scheme (greedy, even-source); "
    mean = " Mean 450.0 us: 10.0% below EPLB's scheme; at most 4.7% above what any plan can reach."
    assert KNOWN.sentence() == start + eplb + "at most 3.6% above what any plan can reach." + mean
    paid = replace(KNOWN, price_us=100.0).sentence()
    assert paid.count("above what any plan that pays 100 us for its routing can reach.") == 2
    assert with_p99(bound_us=455.8) == start + eplb + "as low as any plan can be."
    assert with_p99(bound_us=None) == start + eplb + "what no plan goes below is not known."


def test_a_plan_may_be_no_better_than_greedy() -> None:
    assert "0.8% above EPLB's scheme (greedy, even-source);" in with_p99(gain=Gain(-0.008, -0.01, -0.006))
    assert "the same as EPLB's scheme (greedy, even-source);" in with_p99(gain=Gain(0.0004, -0.01, 0.01))
    alone = replace(P99, eplb_us=None, gain=None), replace(MEAN, eplb_us=None, gain=None)
    interrupted = replace(KNOWN, p99=alone[0], mean=alone[1], eplb_routing=None).sentence()
    assert interrupted.startswith("p99 455.8 us under nearest: at most 3.6% above what any plan can reach. Mean 450.0 ")


def test_a_difference_that_other_batches_may_turn_round_is_called_chance() -> None:
    assert "(greedy, even-source), which may be chance;" in with_p99(gain=UNSURE)
    assert "chance" not in with_p99(gain=Gain(-0.02, -0.03, -0.01))
    assert "chance" not in with_p99(gain=Gain(0.0, 0.0, 0.0))


def test_the_verdict_stands_first_and_holds_the_figures_of_the_tables(solution: LayerSolution) -> None:
    said, chosen = as_json(solution)["verdict"], solution.chosen.report
    greedy = next(row.report for row in solution.seeds if row.method == "greedy")
    assert parts(solution, 0)[0] == said["sentence"] == Verdict.of(solution).sentence()
    assert said["p99_us"] == pytest.approx(np.percentile(chosen.latency_us, 99))
    assert said["eplb_us"] == pytest.approx(np.percentile(greedy.latency_us, 99))
    assert said["below_eplb"] == pytest.approx(1 - said["p99_us"] / said["eplb_us"])
    latency = as_json(solution)["bounds"]["latency_us"]
    assert said["bound_us"] == latency["p99"]["any_placement"] <= said["p99_us"]
    assert said["above_bound"] == pytest.approx(latency["p99"]["gap_to_any_placement"])
    mean = said["mean"]
    assert (mean["us"], mean["eplb_us"]) == pytest.approx((chosen.latency_us.mean(), greedy.latency_us.mean()))
    assert (mean["bound_us"], mean["above_bound"]) == (latency["any_placement"], latency["gap_to_any_placement"])


def test_the_price_of_the_policy_is_in_the_bound(solution: LayerSolution) -> None:
    by_routing = {name: row.report.price_us for name, row in solution.searched.items()}
    assert by_routing == {"even-source": 0.0, "optimal": 100.0}
    last = solution.chosen.report.routing
    assert Verdict.of(solution).price_us == by_routing[last]


def test_where_nothing_is_bounded_the_verdict_says_so(solution: LayerSolution) -> None:
    unbounded = replace(solution, gaps=[])
    assert "what no plan goes below is not known" in Verdict.of(unbounded).sentence()


def headers(solution: LayerSolution) -> list[str]:
    return [str(column.header) for column in solution_table(solution, 0).columns]


def test_columns_that_do_not_matter_are_left_out(solution: LayerSolution) -> None:
    ways = {name: replace(solution, searched={name: row}) for name, row in solution.searched.items()}
    assert "imbalance p50" in headers(ways["even-source"])
    assert "imbalance p50" not in headers(ways["optimal"])  # it levels tiles
    assert "tiles (mean)" in headers(ways["optimal"])
    assert "tiles (mean)" not in headers(replace(ways["even-source"], unit="tokens"))
    for each in ways.values():
        table = solution_table(each, 0)
        assert {len(list(column.cells)) for column in table.columns} == {len(each.rows)}


def test_the_table_of_gaps_has_rows_for_the_quantiles_of_latency(solution: LayerSolution) -> None:
    rows = list(gap_table(solution.gaps).columns[0].cells)
    assert rows[:3] == ["latency, us", "latency p50, us", "latency p99, us"]
