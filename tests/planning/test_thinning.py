"""Where judging would take too long, batches and policies are left out, and that is said; where it would not, nothing
is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import small_problem

from optimizer.planning import thinning
from optimizer.planning.options import SolveOptions
from optimizer.planning.plan_layer import solve
from optimizer.planning.thinning import FEWEST, STRETCH, Pace, affordable, has_time_for_groups, stretches
from optimizer.traces.batches import Batches

SECONDS = 60.0
SLOW = {"even-source": Pace(0.0, 0.02), "nearest": Pace(0.1, 0.03), "optimal": Pace(1.0, 2.0)}


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulations that take as long as on thousands of devices."""
    monkeypatch.setattr(thinning, "QUICK", 0)
    monkeypatch.setattr(thinning, "_pace", lambda problem, sets, options, policy, placement, seconds: SLOW[policy])


def numbered(count: int) -> Batches:
    """Batches of one token, whose number is in their expert and in their row."""
    experts = np.arange(count, dtype=np.uint16)[:, None, None]
    return Batches(experts, experts[:, :, 0], source=experts[:, :, 0])


@given(st.integers(1, 200), st.integers(1, 150))
def test_stretches_are_neighbours_in_order_and_spread_over_all(batches: int, wanted: int) -> None:
    count = wanted if wanted < STRETCH else wanted // STRETCH * STRETCH
    found = stretches(numbered(batches), count)
    chosen = found.experts[:, 0, 0].astype(int).tolist()
    assert chosen == sorted(set(chosen))
    assert found.source is not None
    assert found.source[:, 0].tolist() == found.source_row[:, 0].tolist() == chosen
    if count >= batches:
        assert chosen == list(range(batches))
    elif 2 * count <= batches:
        assert len(chosen) == count
        length = min(STRETCH, count)
        for begin in range(0, count, length):
            assert chosen[begin : begin + length] == list(range(chosen[begin], chosen[begin] + length))
        assert chosen[0] == 0
        assert count == length or chosen[-1] == batches - 1


def test_nothing_is_left_out_where_judging_is_quick_or_moves_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, sets = small_problem(1)
    for quick, options in ((thinning.QUICK, SolveOptions(SECONDS)), (0, SolveOptions(SECONDS, iterations=10))):
        monkeypatch.setattr(thinning, "QUICK", quick)
        found = affordable(problem, sets, options, options.effort())
        assert (found.sets, found.options, found.says) == (sets, options, ())


def test_a_long_time_limit_alone_does_not_make_judging_quick(slow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 300 s, 256 batches under `optimal` of 1.1 s each on 2,048 devices once counted as quick."""
    problem, sets = small_problem(1)
    cells = problem.network.sources * problem.mesh.devices + sets.test.experts[0].size // thinning.PAIRS
    for spare, measured in ((2, True), (10, False)):
        monkeypatch.setattr(thinning, "QUICK", sets.test.count * cells / thinning.LONG * spare / 5)
        options = SolveOptions(5 * thinning.LONG, routings=tuple(SLOW))
        found = affordable(problem, sets, options, options.effort())
        assert bool(found.says) is measured


def test_what_is_left_out_is_said(slow: None) -> None:
    problem, sets = small_problem(1)
    many = Batches(np.zeros((300, 4, 1), dtype=np.uint16), np.zeros((300, 4), dtype=np.int32))
    options = SolveOptions(SECONDS, routings=tuple(SLOW))
    found = affordable(problem, sets._replace(selection=many, test=many), options, options.effort())
    assert found.options.routings == ("even-source", "nearest")
    most = 44 // STRETCH * STRETCH  # of 1.2 s, a fiftieth, two threads spend .05 s anyway, and .025 s on each batch
    assert found.sets.selection.count == found.sets.test.count == most
    assert found.sets.train is sets.train
    assert [said.split(",")[0] for said in found.says] == [
        "The policy optimal was left out",
        f"Candidates were compared on {most} of 300 selection batches and judged on {most} of 300 test batches",
    ]


def test_with_one_thread_policies_are_simulated_in_turn(slow: None) -> None:
    problem, sets = small_problem(1)
    many = Batches(np.zeros((300, 4, 1), dtype=np.uint16), np.zeros((300, 4), dtype=np.int32))
    options = SolveOptions(SECONDS, routings=tuple(SLOW), jobs=1)
    found = affordable(problem, sets._replace(selection=many, test=many), options, options.effort())
    assert found.sets.test.count == 22 // STRETCH * STRETCH


def test_bounds_look_at_groups_where_there_is_time() -> None:
    for options, has in ((SolveOptions(29), False), (SolveOptions(30), True), (SolveOptions(1, iterations=9), True)):
        assert has_time_for_groups(options.effort()) is has


def test_the_only_policy_is_kept_with_the_fewest_batches(slow: None) -> None:
    problem, sets = small_problem(1)
    options = SolveOptions(SECONDS, routings=("optimal",))
    found = affordable(problem, sets, options, options.effort())
    assert found.options == options
    assert found.sets.test.count == min(FEWEST, sets.test.count)


def test_a_plan_says_on_how_many_batches_it_was_judged(slow: None) -> None:
    problem, sets = small_problem(11, rows=4, cols=2, slots=3, routed=14, top_k=4)
    solution = solve(problem, sets, SolveOptions(1.0, routings=("optimal",)))
    assert solution.chosen.report.batches == solution.sets.test.count == FEWEST
    assert any("longer time limit" in said for said in solution.remarks)
