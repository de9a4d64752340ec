"""One layer, end to end, on small problems."""

from collections.abc import Iterator
from dataclasses import replace

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import small_problem

from formulations.kit.outcome import SolveStatus
from optimizer.domain.problem import Problem
from optimizer.planning.candidates import Candidate, filled
from optimizer.planning.options import AUTO, Effort, Progress, SolveOptions
from optimizer.planning.plan_layer import LayerSolution, solve
from optimizer.planning.portfolio import Portfolio
from optimizer.planning.token_seeds import all_seeds
from optimizer.report.solution import as_json, parts, proof
from optimizer.search.choose import MEAN_LATENCY, figures
from optimizer.search.seeds.orders import sequential
from optimizer.search.stop import Deadline
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import simulate
from optimizer.traces.batches import Batches, Sets


def in_all_slots() -> tuple[Problem, Sets]:
    """A problem whose limit to replicas says that all slots are used, which otherwise seeds would decide."""
    return small_problem(11, rows=4, cols=2, slots=3, routed=14, top_k=4, extra=24)


METHODS = ["sequential", "random", "pairing", "greedy", "risk", "steps", "flexibility", "formulation", "search"]


def solved(
    seed: int = 0,
    iterations: int | None = 4000,
    seconds: float = 60,
    routings: tuple[str, ...] = ("even-source",),
    jobs: int = 2,
) -> LayerSolution:
    problem, sets = in_all_slots()
    return solve(problem, sets, SolveOptions(seconds, seed, iterations, jobs, routings=routings))


def test_every_method_gives_a_valid_placement_judged_on_the_test_batches() -> None:
    problem, sets = in_all_slots()
    solution = solve(problem, sets, SolveOptions(60, 0, 4000, routings=("even-source",)))
    assert [row.method for row in solution.rows] == METHODS
    for row in solution.rows:
        assert row.placement.violations(15, 8, 3) == []
        again = simulate(row.placement, sets.test, problem.model, problem.mesh, problem.cost, Conditions())
        assert (row.report.latency_us == again.latency_us).all()


@given(st.integers(0, 10**6), st.sampled_from([None, 0, 1, 3, 100]), st.sampled_from([None, 1, 3]))
def test_slots_that_a_formulation_leaves_empty_are_filled(seed: int, extra: int | None, shared: int | None) -> None:
    """An exact formulation of a small layer left a slot empty, as the expected peak was no lower with it."""
    problem, _ = small_problem(seed, replicas=shared, extra=extra)
    start, experts = sequential(replace(problem, extra_replicas=0)), problem.model.experts
    found = filled(problem, start)
    assert problem.violations(found) == []
    assert (found.counts(experts) >= start.counts(experts)).all()
    assert (found.slots >= 0).sum() == problem.most_replicas


def test_search_is_no_worse_than_greedy_where_it_was_chosen() -> None:
    problem, sets = small_problem(11, rows=4, cols=2, slots=3, routed=14, top_k=4)
    options = SolveOptions(60, 0, 40_000, routings=("even-source",))
    rows = {row.method: row for row in solve(problem, sets, options).rows}
    judged = {
        name: figures(
            simulate(rows[name].placement, sets.selection, problem.model, problem.mesh, problem.cost, Conditions())
        )
        for name in ("greedy", "search")
    }
    assert (judged["search"] <= judged["greedy"])[MEAN_LATENCY].all()
    assert (judged["search"] / judged["greedy"]).mean() < 1


def test_with_an_iteration_limit_the_seed_alone_decides() -> None:
    one, same, other = solved(1), solved(1), solved(2)
    assert [row.placement.slots.tolist() for row in one.rows] == [row.placement.slots.tolist() for row in same.rows]
    assert one.gaps == same.gaps
    assert one.candidates == same.candidates > 3
    assert one.rows[1].placement.slots.tolist() != other.rows[1].placement.slots.tolist()


@pytest.mark.parametrize("routings", [AUTO, ("sglang-static",)])
def test_with_an_iteration_limit_the_number_of_threads_decides_nothing(routings: tuple[str, ...]) -> None:
    """Somebody with more cores gets the same plan, and the same figures of all that was compared."""
    one, two, three = (solved(1, 6000, routings=routings, jobs=jobs) for jobs in (1, 2, 3))
    for other in (two, three):
        assert [(row.method, row.report.routing) for row in one.rows] == [
            (row.method, row.report.routing) for row in other.rows
        ]
        assert [row.placement.slots.tolist() for row in one.rows] == [
            row.placement.slots.tolist() for row in other.rows
        ]
        assert one.candidates == other.candidates
        assert one.gaps == other.gaps


def test_bounds_are_below_what_was_reached() -> None:
    solution = solved()
    report = solution.chosen.report
    found = {gap.unit: gap for gap in solution.gaps}
    times = {"dispatch_us", "compute_us", "combine_us", "latency_us"}
    assert set(found) == {"imbalance", "tiles", "copies_per_token", "hops_per_token", *times}
    assert {name: tail.reached for name, tail in found["latency_us"].tails.items()} == {
        name: np.percentile(report.latency_us, share) for name, share in (("p50", 50), ("p99", 99))
    }
    assert found["imbalance"].reached == pytest.approx(report.imbalance.mean())
    assert found["imbalance"].this_placement is not None
    assert "Interrupted" not in proof(solution)
    for gap in solution.gaps:
        assert 0 < gap.any_placement.mean <= gap.reached * (1 + 1e-9)
        assert gap.this_placement is None or gap.any_placement.mean <= gap.this_placement.mean <= gap.reached + 1e-9
        assert gap.to_any == pytest.approx(gap.reached / gap.any_placement.mean - 1)
        assert all(0 < tail.bound <= tail.reached for tail in gap.tails.values())


def test_the_formulation_is_at_least_as_good_as_its_hint() -> None:
    problem, _ = small_problem(11, rows=4, cols=2, slots=3, routed=14, top_k=4)
    solution = solved()
    weight = problem.total_load / solution.rows[3].placement.counts(15)
    peaks = [max(sum(weight[e] for e in row if e >= 0) for row in solution.rows[i].placement.slots) for i in (3, 7)]
    assert solution.outcome is not None
    assert solution.outcome.status in (SolveStatus.OPTIMAL, SolveStatus.FEASIBLE)
    assert solution.outcome.objective == pytest.approx(peaks[1])
    assert solution.outcome.lower_bound <= peaks[1] + 1e-9
    assert peaks[1] <= peaks[0] + 1e-9


def test_the_time_limit_ends_an_unlimited_search() -> None:
    """Nothing else would end it."""
    assert solved(iterations=None, seconds=3).candidates > 3


def test_an_early_end_does_not_wait_for_kernels_to_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[int] = []

    def offer_seeds(self: Portfolio, found: list[Candidate], effort: Effort, until: float) -> None:
        effort.cancel.ask()
        compiled.append(numba.njit(lambda one: one)(1))

    monkeypatch.setattr(Portfolio, "offer_seeds", offer_seeds)
    solution = solved()
    assert compiled == []
    assert [row.method for row in solution.rows] == METHODS
    slots = {row.method: row.placement.slots.tolist() for row in solution.rows}
    assert slots["search"] == slots["greedy"]


@pytest.mark.parametrize("after", [1, 4, 6])
def test_an_early_end_among_the_seeds_leaves_those_that_there_are(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(
        problem: Problem, train: Batches, options: SolveOptions, effort: Effort, progress: Progress
    ) -> Iterator[Candidate]:
        for number, candidate in enumerate(all_seeds(problem, train, options, effort, progress), 1):
            if number == after:
                effort.cancel.ask()
            yield candidate

    monkeypatch.setattr("optimizer.planning.plan_layer.all_seeds", interrupted)
    solution = solved()
    assert [row.method for row in solution.rows] == [*METHODS[:after], "search"]
    best = "greedy" if after >= 4 else METHODS[after - 1]
    slots = {row.method: row.placement.slots.tolist() for row in solution.rows}
    assert slots["search"] == slots[best]
    assert solution.outcome is None
    assert as_json(solution)["formulation"] is None
    assert "Interrupted before the formulation" in proof(solution)
    assert "Interrupted before the bounds of its own routing" in proof(solution)
    assert solution.gaps
    assert all(gap.this_placement is None for gap in solution.gaps)


def test_the_token_is_heeded_once_there_is_a_complete_plan() -> None:
    """Before that there is nothing to keep, and Ctrl-C ends the run; a token asked before still gives one seed."""
    effort = Effort(Deadline(60), 0, 100)
    heeded: list[bool] = []
    problem, sets = in_all_slots()
    options = SolveOptions(routings=("even-source",))
    solve(problem, sets, options, effort, lambda stage, share: heeded.append(effort.cancel.heeded))
    assert not heeded[0]
    assert all(heeded[1:])
    effort.cancel.ask()
    assert [row.method for row in solve(problem, sets, options, effort).rows] == ["sequential", "search"]


def test_named_seeds_are_made_shown_and_judged_under_every_policy() -> None:
    problem, sets = small_problem(5, rows=4, cols=2, slots=3, routed=14, top_k=4, extra=24)
    options = SolveOptions(time_limit=20, iterations=200, seeds=("rows", "risk"), routings=("even-source", "optimal"))
    solution = solve(problem, sets, options)
    assert [row.method for row in solution.rows] == ["greedy", "risk", "rows", "formulation", "search", "search"]
    (said,) = [part for part in parts(solution, 3) if isinstance(part, str) and part.startswith("Seed rows: ")]
    assert "columns" in said
    portfolio = Portfolio.of(problem, sets, options)
    found = [Candidate(row.method, row.placement, 0.0) for row in solution.seeds]
    portfolio.offer_seeds(found, options.effort(), until=0.0)
    named = {row.placement.slots.tobytes() for row in solution.seeds if row.method in ("rows", "risk")}
    for pool in portfolio.pools.values():
        assert named <= {placement.slots.tobytes() for placement in pool.placements}
    usual = Portfolio.of(problem, sets, SolveOptions(routings=("even-source", "optimal")))
    usual.offer_seeds(found, SolveOptions().effort(), until=0.0)
    assert usual.candidates == 0  # rows are for those who name them, and it is late for the others
