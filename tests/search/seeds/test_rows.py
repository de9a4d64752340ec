"""The seed by row and column assignment: its instances hold what batches hold, its placements are always legal."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from random_layers import WIRINGS, wired
from random_problems import small_problem

from formulations.kit.arrays import Ints
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits
from formulations.rows.row_assignment import assign_rows
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.problem import make_problem
from optimizer.errors import InputError
from optimizer.search.seeds import rows as module
from optimizer.search.seeds.greedy import greedy, greedy_counts
from optimizer.search.seeds.rows import column_case, row_case, rows
from optimizer.traces.batches import Batches, default_rows

SHORT = Limits(seconds=0.4, workers=1)  # enough for the rows of a few devices, which take milliseconds


@settings(max_examples=25)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(2, 2, 3, 6), (3, 2, 3, 9), (2, 5, 4, 9), (5, 1, 4, 11), (1, 6, 2, 5)]),
    st.sampled_from([None, "auto", 1, 2]),
    st.sampled_from([None, 0, 2]),
    st.sampled_from([0.0, 0.02, 0.2]),
    st.booleans(),
)
def test_it_is_valid_and_has_the_counts_of_greedy_whatever_time_there_is(
    seed: int,
    shape: tuple[int, int, int, int],
    replicas: int | str | None,
    extra: int | None,
    seconds: float,
    cancelled: bool,
) -> None:
    sizes = dict(zip(("rows", "cols", "slots", "routed"), shape, strict=True))
    try:
        problem, sets = small_problem(seed, **sizes, tokens=16, replicas=replicas, extra=extra)
    except InputError:
        reject()  # experts that do not fit are refused before any seed sees them
    limits = Limits(seconds, workers=1, cancelled=lambda: cancelled)
    found = rows(problem, sets.train, limits)
    assert problem.violations(found.placement) == []
    assert (found.placement.counts(problem.model.experts) == greedy_counts(problem)).all()
    if cancelled or seconds == 0:
        assert (found.rows, found.columns) == (None, None)
        assert (found.placement.slots == greedy(problem).slots).all()
        assert "the placement is greedy's" in found.in_words()


@pytest.mark.parametrize("wiring", WIRINGS, ids=str)
def test_demand_and_hops_are_those_of_the_batches_and_the_network(wiring: tuple[str, str]) -> None:
    """Counted pair by pair; hops are those from a source of a row to the nearest device of another."""
    problem, sets = small_problem(4)
    problem = replace(problem, cost=wired(wiring))  # type: ignore[arg-type]
    case, network, mesh = row_case(problem, sets.train, greedy_counts(problem)), problem.network, problem.mesh
    demand = np.zeros(case.demand.shape)
    for batch, source in zip(sets.train.experts.tolist(), sets.train.source_row.tolist(), strict=True):
        for token, row in zip(batch, source, strict=True):
            demand[row, token] += 1
    assert case.demand == pytest.approx(demand / sets.train.count)
    assert case.slots == mesh.cols * mesh.slots_per_device
    for start in range(mesh.rows):
        source = next(s for s in range(network.sources) if network.home_row[s] == start)
        for end in range(mesh.rows):
            to = [int(network.distance[source, end * mesh.cols + col]) for col in range(mesh.cols)]
            assert case.hops[start, end] == min(to)


def test_experts_are_in_the_row_whose_tokens_choose_them_and_apart_there() -> None:
    """Each row of tokens chooses four experts of its own; together they would be on one device, or in other rows."""
    expert = np.arange(16).reshape(4, 4)
    source = default_rows(64, 4)
    chosen = np.broadcast_to(expert[source], (6, 64, 4)).astype(np.uint16)
    batches = Batches(chosen, np.broadcast_to(source, (6, 64)))
    model, mesh = Model("rows", 16, 0, 4), Mesh(4, 4, 2)
    problem = make_problem(model, mesh, small_problem(0)[0].cost, batches.load(16))
    problem = replace(problem, extra_replicas=0)
    found = rows(problem, batches, Limits(seconds=2.0, workers=1))
    assert found.rows is not None
    assert (found.rows.status, found.rows.objective) == (SolveStatus.OPTIMAL, 0.0)
    for row, own in enumerate(expert.tolist()):
        devices = found.placement.slots[row * 4 : row * 4 + 4]
        assert sorted(devices[devices >= 0].tolist()) == own
        assert ((devices >= 0).sum(axis=1) == 1).all()


def test_the_least_limit_that_can_be_kept_is_kept() -> None:
    """One expert has a third of the load, so that no row can stay near the mean, and the next limit is tried."""
    problem, sets = small_problem(2, rows=3, cols=2, routed=9, shared=0, extra=0, top_k=1)
    load = np.bincount(sets.train.experts.ravel(), minlength=9) / sets.train.count
    mean = load.sum() / 3
    assert load.max() > 1.02 * mean
    found = rows(problem, sets.train, SHORT)
    assert found.rows is not None
    assert found.rows.value is not None
    fullest = row_case(problem, sets.train, greedy_counts(problem)).flows(found.rows.value).sum(axis=(0, 1)).max()
    kept = next(most for most in module.ROW_LOADS if most * mean >= fullest - 1e-6)
    tighter = module.ROW_LOADS[: module.ROW_LOADS.index(kept)]
    for most in tighter:
        case = replace(row_case(problem, sets.train, greedy_counts(problem)), most_load=most * mean)
        assert assign_rows(case, Limits(seconds=30)).status is SolveStatus.INFEASIBLE


def test_too_many_sets_of_rows_are_left_to_greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, sets = small_problem(1)
    monkeypatch.setattr(module, "MOST_SETS", 3)
    found = rows(problem, sets.train, SHORT)
    assert found.rows is None
    by_row = [np.sort(row) for row in found.placement.slots.reshape(3, -1)]
    expected = [np.sort(row) for row in greedy(problem).slots.reshape(3, -1)]
    assert all((one == other).all() for one, other in zip(by_row, expected, strict=True))


def test_replicas_that_are_dealt_out_are_no_violation() -> None:
    problem, sets = small_problem(3, rows=2, cols=3, slots=3, routed=7, shared=1, replicas=6)
    case = column_case(problem, sets.train, module._held(greedy(problem), problem))
    assert case.violations(module._dealt(case)) == []
    assert len(case.expert) == greedy_counts(problem).sum()


def test_columns_that_were_not_assigned_are_said_to_be_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, sets = small_problem(1)
    nothing = Outcome[Ints](None, None, 0.0, SolveStatus.UNKNOWN, 0.0)
    monkeypatch.setattr(module, "assign_columns", lambda *given: nothing)
    found = rows(problem, sets.train, SHORT)
    assert problem.violations(found.placement) == []
    assert found.in_words().endswith("columns are dealt out in turn, as there was no time for their assignment")
