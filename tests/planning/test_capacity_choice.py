"""The capacity factor that is chosen with a plan."""

import json
from pathlib import Path

import pytest
from random_problems import small_problem
from running_commands import fault, run, solve

from optimizer.interrupts import Cancel
from optimizer.planning.candidates import seeds_and_formulation
from optimizer.planning.capacity_choice import STEP, limited
from optimizer.planning.capacity_choice import run as run_limited
from optimizer.planning.options import Effort, SolveOptions
from optimizer.planning.portfolio import Portfolio
from optimizer.search.stop import Deadline

pytestmark = pytest.mark.usefixtures("few_batches")

ASKED = ("--routing", "primary", "--max-rerouted", "0.4", "--batch-tokens", "200")


def portfolio_of(routings: tuple[str, ...]) -> Portfolio:
    problem, sets = small_problem(11, rows=4, cols=2, slots=3, routed=14, top_k=4)
    effort = Effort(Deadline(60), 0, 1000)
    portfolio = Portfolio.of(problem, sets, SolveOptions(routings=routings))
    portfolio.search(list(seeds_and_formulation(problem, effort, lambda *_: None)), effort, 60, lambda *_: None)
    return portfolio


@pytest.mark.parametrize("most", [0.1, 0.2, 0.5])
def test_the_factor_is_the_least_that_reroutes_few_enough(most: float) -> None:
    portfolio = portfolio_of(("even-source",))
    found = limited(portfolio, most, Cancel())
    assert found is not None
    assert any(found.placement is placement for placement in portfolio.pools[found.routing].placements)
    shares = []
    for factor in (found.capacity_factor, found.capacity_factor - STEP):
        report = run_limited(portfolio, found._replace(capacity_factor=factor), portfolio.sets.selection)
        assert report.rerouting is not None
        shares.append(report.rerouting.share(report.rerouting.rerouted + report.rerouting.over))
    assert shares[0] <= most < shares[1]


def test_more_rerouting_is_never_slower_and_none_is_chosen_that_is() -> None:
    portfolio = portfolio_of(("even-source",))
    mean = []
    pool = portfolio.pools["even-source"]
    mean = [pool.judge.on(pool.placements[pool.best()], portfolio.sets.selection).latency_us.mean()]
    for most in (0.1, 0.5):
        found = limited(portfolio, most, Cancel())
        assert found is not None
        mean.append(run_limited(portfolio, found, portfolio.sets.selection).latency_us.mean())
    assert mean[0] > mean[1] >= mean[2]


def test_capacities_that_never_suffice_help_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizer.planning.capacity_choice.MOST_STEPS", 2)
    assert limited(portfolio_of(("even-source",)), 0.0, Cancel()) is None


def test_solve_chooses_a_capacity_that_simulate_takes_from_the_plan(traces: Path) -> None:
    plan, result = solve(traces, *ASKED, "--json")
    assert result.exit_code == 0, result.output
    solution = json.loads(result.stdout)
    row, content = solution["rows"][-1], json.loads(plan.read_text())
    assert (row["method"], solution["bounds"]) == ("rerouted", {})
    assert content["routing"]["capacity_factor"] == row["rerouting"]["capacity_factor"]
    judged = json.loads(run("simulate", plan, traces, "--json").stdout)["layers"]["1"]
    assert judged["rerouting"] == row["rerouting"]
    assert judged["latency_us"] == row["latency_us"]
    shown = solve(traces, *ASKED)[1].stdout
    assert "Capacity factor" in shown
    assert "No bound is known" in shown
    other = run("simulate", plan, traces, "--capacity-factor", 9, "--json")
    assert json.loads(other.stdout)["layers"]["1"]["rerouting"]["capacity_factor"] == 9


def test_a_capacity_in_a_plan_must_be_positive(traces: Path, plan: Path) -> None:
    content = json.loads(plan.read_text())
    content["routing"]["capacity_factor"] = -1
    plan.write_text(json.dumps(content))
    assert "routing.capacity_factor" in fault(run("validate", plan))
