"""A plan to start from: read, checked, searched from, and never lost."""

import json
from pathlib import Path

import numpy as np
import pytest
from random_problems import small_problem
from running_commands import SHORT, fault, run, solve

from optimizer.domain.problem import Problem
from optimizer.planning.candidates import SearchShare, seeds_and_formulation, split_evenly
from optimizer.planning.options import Effort, silent
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.planning.warm_start import started
from optimizer.search.multistart import latency_goal
from optimizer.search.seeds.orders import random_permutation
from optimizer.search.stop import Deadline, SearchBudget

pytestmark = pytest.mark.usefixtures("few_batches")


def problem_with_start() -> Problem:
    problem, _ = small_problem(6, rows=4, cols=3, routed=24, slots=3)
    placement = random_permutation(problem, np.random.default_rng(0))
    plan = Plan(problem.model, problem.mesh, problem.cost.name, "even-source", {7: LayerPlan(placement)})
    return started(problem, plan, 7)


def test_it_is_the_first_candidate_and_descents_begin_there() -> None:
    problem = problem_with_start()
    assert problem.start is not None
    found = list(seeds_and_formulation(problem, Effort(Deadline(60), 0, 100), silent))
    assert [candidate.method for candidate in found][::6] == ["start", "steps"]
    assert found[0].placement is problem.start
    _, sets = small_problem(6, rows=4, cols=3, routed=24, slots=3)
    one = SearchShare(SearchBudget(Deadline(60), 60, 3), 0, 1, silent)
    first = next(iter(split_evenly(problem, latency_goal(problem, sets.train), found, "descent", one)))
    assert (first.slots != problem.start.slots).sum() <= 3 * 2  # three moves of two slots


@pytest.mark.parametrize("routing", ["even-source", "nearest", "optimal"])
def test_the_start_is_judged_as_the_plan_was(traces: Path, routing: str) -> None:
    plan, first = solve(traces, "--routing", routing, "--json")
    _, second = solve(traces, "--routing", routing, "--json", "--start", plan, "--iterations", 0)
    assert second.exit_code == 0, second.output
    rows = json.loads(second.stdout)["rows"]
    assert [row["method"] for row in rows][:2] == ["start", "sequential"]
    reached = json.loads(first.stdout)["rows"][-1]["latency_us"]
    assert rows[0]["latency_us"] == reached


def test_counts_are_planned_from_a_start_too(traces: Path, plan: Path, tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    path.write_text(json.dumps({"logical_count": [[9, 1, 1, 1, 5, 1, 1, 1]] * 2}))
    counts = ("solve", path, "--layer", 1, "--top-k", 2, *SHORT[:8], "-o", tmp_path / "p.json", "--json")
    result = run(*counts, "--start", plan)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rows"][0]["method"] == "start"
    assert "the plan to start from is for" in fault(run(*counts, "--start", plan, "--mesh", "3x2"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--layer", 2), "the plan to start from has no layer 2; it has 1"),
        (("--mesh", "3x2"), "the plan to start from is for 2x2 devices of 3 slots, not for 3x2 devices of 3 slots"),
        (("--slots", 4), "the plan to start from is for 2x2 devices of 3 slots, not for 2x2 devices of 4 slots"),
        (("--shared-experts", 1), "8 routed experts (top-2) and 0 shared ones, not for 8 routed experts (top-2) and 1"),
        (("--replicas", 3), "layer 1 has 4 replicas beyond one of each expert instead of 3 at most"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_in_one_line(
    traces: Path, plan: Path, arguments: tuple[object, ...], said: str
) -> None:
    other = traces.parent / "other.json"
    assert said in fault(run("solve", traces, "--layer", 1, *SHORT, "-o", other, "--start", plan, *arguments))
    assert not other.exists()


def test_a_plan_that_cannot_be_read_is_refused(traces: Path) -> None:
    assert "no such file" in fault(solve(traces, "--start", traces / "none.json")[1])
