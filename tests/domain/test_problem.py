"""Constraints of a plan: what is asked for is kept to, and said in words where it cannot be."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_problems import request_experts, small_problem, write_request
from running_commands import SHORT, fault, run

from optimizer.domain.placement import Placement
from optimizer.domain.problem import check, make_problem
from optimizer.planning.candidates import seeds_and_formulation
from optimizer.planning.options import Effort
from optimizer.search.seeds.greedy import greedy
from optimizer.search.stop import Deadline

pytestmark = pytest.mark.usefixtures("few_batches")


@pytest.fixture
def traces(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Requests of a model with eight routed experts, four of which are used far more than the others."""
    for number in range(12):
        experts = request_experts(rng, 20, 3, 8, 2)
        write_request(tmp_path / "traces" / f"r{number}.npz", np.sort(experts, axis=2) // 2 + [0, 4])
    return tmp_path / "traces"


def solved(traces: Path, *more: object) -> list[list[int]]:
    plan = traces.parent / "plan.json"
    result = run("solve", traces, "--layer", 1, *SHORT, "-o", plan, *more)
    assert result.exit_code == 0, result.output
    slots: list[list[int]] = json.loads(plan.read_text())["layers"]["1"]["slots"]
    return slots


@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.parametrize("routing", ["even-source", "optimal"])
def test_plans_have_no_more_replicas_than_the_budget_allows(traces: Path, extra: int, routing: str) -> None:
    """They may have fewer, as with 24 tokens in a batch a replica takes longer than it saves."""
    slots = np.array(solved(traces, "--replicas", extra, "--routing", routing))
    assert 8 <= (slots >= 0).sum() <= 8 + extra
    assert set(slots.ravel().tolist()) == {-1, *range(8)}


def test_shared_replicas_count_only_where_the_load_decides_them(traces: Path) -> None:
    shared = ("--shared-experts", 1, "--replicas", 1)
    slots = np.array(solved(traces, *shared))
    assert (slots == 8).reshape(2, -1).any(axis=1).all()
    assert (slots[slots != 8] >= 0).sum() == 8 + 1
    assert (np.array(solved(traces, *shared, "--shared-replicas", "auto")) >= 0).sum() == 9 + 1


def test_a_budget_beyond_the_slots_fills_them(traces: Path) -> None:
    assert (np.array(solved(traces, "--replicas", 100)) >= 0).all()


def test_counts_are_planned_within_the_budget(tmp_path: Path) -> None:
    path, plan = tmp_path / "counts.json", tmp_path / "plan.json"
    path.write_text(json.dumps({"logical_count": [[9, 1, 1, 1, 5, 1, 1, 1]] * 2}))
    result = run("solve", path, "--layer", 0, "--top-k", 2, *SHORT[:6], "--replicas", 2, "-o", plan)
    assert result.exit_code == 0, result.output
    slots = np.array(json.loads(plan.read_text())["layers"]["0"]["slots"])
    assert (slots >= 0).sum() == 10
    assert (slots == 0).sum() >= 2  # several placements are as good


def test_every_planner_is_compared_within_the_budget(traces: Path) -> None:
    result = run("compare", traces, "--layer", 1, *SHORT, "--replicas", 1, "--json")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("shared", [None, "auto"])
def test_the_formulation_keeps_to_the_budget(shared: str | None) -> None:
    problem, _ = small_problem(3, rows=4, cols=3, routed=24, slots=3, replicas=shared, extra=2)
    for candidate in seeds_and_formulation(problem, Effort(Deadline(60), 0, 100), lambda *_: None):
        assert problem.violations(candidate.placement) == []


def test_violations_name_the_constraint() -> None:
    problem, _ = small_problem(3, rows=2, cols=2, routed=8, slots=3, replicas=2, extra=1)
    placement = greedy(problem)
    assert problem.violations(placement) == []
    slots = placement.slots.copy()
    (device, slot), *_ = np.argwhere(slots == -1)
    slots[device, slot] = next(expert for expert in range(8) if expert not in slots[device])
    assert problem.violations(Placement(slots)) == ["2 replicas beyond one of each expert instead of 1 at most"]
    fewer = placement.slots.copy()
    fewer[tuple(np.argwhere(placement.slots == 8)[0])] = -1
    assert problem.violations(Placement(fewer)) == ["1 replicas of shared expert 8 instead of 2"]
    with pytest.raises(ValueError, match="instead of 2"):
        check(problem, Placement(fewer))
    assert problem.violations(Placement(np.zeros((1, 1), dtype=np.int32))) == [
        "slot count: 1 devices x 1 slots instead of 4 x 3"
    ]


def test_a_negative_budget_is_refused(traces: Path) -> None:
    result = run("solve", traces, "--layer", 1, "--replicas", -1)
    assert result.exit_code == 2
    assert "--replicas" in result.stderr
    assert "in 4 slots" in fault(run("solve", traces, "--layer", 1, "--mesh", "2x2", "--slots", 1, "--replicas", 0))


def test_the_load_of_the_caller_is_copied_and_stays_writeable() -> None:
    given, _ = small_problem(3, rows=2, cols=2, routed=8, slots=3)
    load = given.load.copy()
    problem = make_problem(given.model, given.mesh, given.cost, load)
    load[:] = 0
    assert (problem.load == given.load).all()
    assert not problem.load.flags.writeable
    assert replace(problem, start=None).load is problem.load
    with pytest.raises(ValueError, match=r"not \[batch, expert\] with 9 experts"):
        make_problem(given.model, given.mesh, given.cost, load[0])
