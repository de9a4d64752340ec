"""The limit to what comes to a mesh row from others: counted, kept to, and in conflict with what is asked for."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_layers import Case, cases
from random_problems import cost, small_problem
from running_commands import SHORT, fault, run, solve

from optimizer.domain.problem import Constraints, make_problem
from optimizer.errors import InputError
from optimizer.planning.candidates import seeds_and_formulation
from optimizer.planning.options import Effort, SolveOptions
from optimizer.planning.portfolio import Portfolio
from optimizer.routing.capacity import Coactivation
from optimizer.search.stop import Deadline
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import Simulation


@given(cases(), st.sampled_from(["primary", "even-source", "nearest", "optimal"]), st.sampled_from([None, 0.5]))
def test_it_is_counted_pair_by_pair(case: Case, routing: str, factor: float | None) -> None:
    conditions = Conditions(routing, capacity_factor=factor, drop=factor is not None)
    guess = Coactivation.of(case.batches, case.model)
    simulation = Simulation(case.placement, case.model, case.mesh, cost(), conditions, guess=guess)
    simulation.feed(case.batches)
    report = simulation.report()
    expected = np.zeros((case.batches.count, case.mesh.rows))
    for batch, tokens in enumerate(simulation._chosen(case.batches, case.batches.source_row).tolist()):
        for token, slots in enumerate(tokens):
            for slot in slots:
                row = slot // case.mesh.slots_per_device // case.mesh.cols
                expected[batch, row] += slot >= 0 and row != case.batches.source_row[batch, token]
    assert (report.row_traffic == expected).all()
    assert report.most_row_traffic == expected.mean(axis=0).max()


def searched(most: float | None, routings: tuple[str, ...] = ("even-source", "nearest")) -> Portfolio:
    drawn, sets = small_problem(11, rows=4, cols=2, slots=3, routed=14, top_k=4)
    problem = make_problem(drawn.model, drawn.mesh, drawn.cost, drawn.load, Constraints(None, 5, most))
    effort = Effort(Deadline(60), 0, 1000)
    portfolio = Portfolio.of(problem, sets, SolveOptions(routings=routings))
    portfolio.search(list(seeds_and_formulation(problem, effort, lambda *_: None)), effort, 60, lambda *_: None)
    return portfolio


def test_only_what_keeps_to_the_limit_is_a_candidate() -> None:
    free = searched(None)
    traffic = sorted(
        pool.judge.selection(placement).most_row_traffic
        for pool in free.pools.values()
        for placement in pool.placements
    )
    assert {name: pool.least_traffic for name, pool in free.pools.items()}["nearest"] == traffic[0]
    limit = traffic[len(traffic) // 4]
    portfolio = searched(limit)
    portfolio.settle()
    kept = [
        pool.judge.selection(placement).most_row_traffic
        for pool in portfolio.pools.values()
        for placement in pool.placements
    ]
    assert kept
    assert max(kept) <= limit
    assert len(kept) == sum(each <= limit for each in traffic)


def test_policies_without_candidates_are_left_out_and_none_left_is_a_conflict() -> None:
    nearest = searched(None).pools["nearest"].least_traffic
    portfolio = searched(nearest)
    portfolio.settle()
    assert list(portfolio.pools) == [portfolio.chosen()] == ["nearest"]
    with pytest.raises(InputError) as raised:
        searched(nearest - 0.01).settle()
    assert raised.value.field == "max_row_traffic"
    assert "3 slots per device, 5 extra replicas, 4 replicas of each shared expert and" in str(raised.value)
    assert "and routing even-source, nearest: of all that were tried the best lets" in str(raised.value)
    assert f"{nearest:.1f} pairs per batch" in str(raised.value)


@pytest.mark.usefixtures("few_batches")
def test_the_command_keeps_to_the_limit_or_says_what_is_in_conflict(traces: Path) -> None:
    plan, first = solve(traces, "--routing", "nearest", "--json")
    row = json.loads(first.stdout)["rows"][-1]["row_traffic"]
    assert len(row) == 2
    plan.unlink()
    said = fault(solve(traces, "--routing", "nearest", "--replicas", 1, "--max-row-traffic", 0.5)[1])
    assert "no placement lets at most 0.5 pairs per batch come to a row from others" in said
    assert not plan.exists()
    least = float(re.findall(r"the best lets ([0-9.]+) pairs", said)[0])
    loose = ("--routing", "nearest", "--replicas", 1, "--max-row-traffic", least + 0.1)
    assert solve(traces, *loose)[1].exit_code == 0


def test_counts_say_nothing_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    path.write_text(json.dumps({"logical_count": np.ones((2, 8), dtype=int).tolist()}))
    result = run("solve", path, "--layer", 0, "--top-k", 2, *SHORT[:8], "--max-row-traffic", 5)
    assert "a limit to the traffic between rows needs token traces" in fault(result)
