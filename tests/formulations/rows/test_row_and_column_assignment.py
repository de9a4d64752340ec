"""Rows and columns for replicas equal brute force, each constraint family binds, and hint and partition are of use."""

from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ortools.sat.python import cp_model

from formulations.kit.arrays import Ints
from formulations.kit.clock import Clock
from formulations.kit.outcome import SolveStatus
from formulations.kit.solver import Limits, solver_for
from formulations.rows import column_assignment, partition
from formulations.rows.column_assignment import Columns, assign_columns, spectral_bound
from formulations.rows.partition import spread_apart
from formulations.rows.row_assignment import Rows, assign_rows

LIMITS = Limits(seconds=30, deterministic=20)
ENDLESS = Clock.start(np.inf)


def ring(rows: int) -> Ints:
    """The hops `[row, row]` between the rows of a ring."""
    return np.array([[min(abs(a - b), rows - abs(a - b)) for b in range(rows)] for a in range(rows)])


class Routed(NamedTuple):
    """The hops of all pairs, the load of each row, and the traffic into each row."""

    hops: float
    load: list[float]
    traffic: list[float]


def routed(demand: list[list[int]], held: list[set[int]], rows: int) -> Routed:
    """Route all pairs to the nearest replicas, pair by pair."""
    total, load, traffic = 0.0, [0.0] * rows, [0.0] * rows
    for source, numbers in enumerate(demand):
        for expert, pairs in enumerate(numbers):
            least = min(int(ring(rows)[source][row]) for row in held[expert])
            near = [row for row in held[expert] if ring(rows)[source][row] == least]
            total += least * pairs
            for row in near:
                load[row] += pairs / len(near)
                traffic[row] += pairs / len(near) * (row != source)
    return Routed(total, load, traffic)


def best_hops(case: Rows) -> float | None:
    """The least hops over all sets of rows of all experts, by brute force; None if no sets fit the limits."""
    rows, demand = len(case.hops), np.asarray(case.demand).tolist()
    found = []
    for sets in product(*[[set(c) for c in combinations(range(rows), int(n))] for n in case.count]):
        used = [sum(row in held for held in sets) for row in range(rows)]
        total, load, traffic = routed(demand, list(sets), rows)
        if max(used) <= case.slots and max(load) <= case.most_load and max(traffic) <= case.most_traffic:
            found.append(total)
    return min(found, default=None)


@given(st.data())
def test_rows_equal_brute_force(data: st.DataObject) -> None:
    rows, experts = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    count = data.draw(st.lists(st.integers(1, rows), min_size=experts, max_size=experts))
    numbers = st.lists(st.integers(0, 9), min_size=experts, max_size=experts)
    demand = [data.draw(numbers) for _ in range(rows)]
    limits = st.sampled_from([np.inf, 20.0, 8.0])
    case = Rows(
        np.array(demand),
        np.array(count),
        data.draw(st.integers(1, 4)),
        ring(rows),
        data.draw(limits),
        data.draw(limits),
    )
    outcome, best = assign_rows(case, LIMITS), best_hops(case)
    assert (outcome.status is SolveStatus.INFEASIBLE) == (best is None)
    assume(best is not None)
    assert best is not None
    assert outcome.value is not None
    assert case.violations(outcome.value) == []
    hops = routed(demand, [set(np.flatnonzero(row).tolist()) for row in outcome.value], rows).hops
    assert hops == pytest.approx(best)
    assert outcome.objective == pytest.approx(best)
    assert outcome.gap <= 1e-4  # at which HiGHS stops


def rows_case(count: list[int], slots: int, load: float = np.inf, traffic: float = np.inf) -> Rows:
    """A case of two rows in which each row sends four pairs to every expert."""
    return Rows(np.full((2, len(count)), 4), np.array(count), slots, ring(2), load, traffic)


@pytest.mark.parametrize(
    ("case", "feasible"),
    [
        (rows_case([1, 1], 1), True),
        (rows_case([1, 1, 1], 1), False),  # three replicas, two slots
        (rows_case([1, 1], 2, load=8), True),
        (rows_case([1], 2, load=7), False),  # one row has all eight pairs
        (rows_case([1, 1], 2, traffic=4), True),
        (rows_case([1], 2, traffic=3), False),
        (rows_case([5], 3), True),  # more replicas than rows: three and two
        (rows_case([5], 2), False),
    ],
)
def test_each_family_of_rows_has_a_feasible_and_an_infeasible_case(case: Rows, feasible: bool) -> None:
    outcome = assign_rows(case, LIMITS)
    assert outcome.status is (SolveStatus.OPTIMAL if feasible else SolveStatus.INFEASIBLE)
    assert outcome.value is None or case.violations(outcome.value) == []


def test_rows_go_where_tokens_are_and_violations_are_named() -> None:
    case = Rows(np.array([[8, 0], [0, 0], [0, 8], [0, 0]]), np.array([1, 2]), 2, ring(4), 8, 0)
    outcome = assign_rows(case, LIMITS)
    assert outcome.value is not None
    assert (outcome.value[0].tolist(), outcome.value[1, 2], outcome.objective) == ([1, 0, 0, 0], 1, 0)
    assert case.violations(np.array([[0, 2, 0, 0], [1, 1, 0, 0]])) == [
        "expert 0 has 2 replicas",
        "expert 0 is spread unevenly",
        "row 1 has 3 replicas",
        "row 1 has load 16",
        "row 1 has traffic",
    ]


def test_rows_out_of_time_are_unknown() -> None:
    rng = np.random.default_rng(0)
    case = Rows(rng.random((12, 60)), rng.integers(1, 4, 60), 12, ring(12), most_load=2.6)
    outcome = assign_rows(case, Limits(seconds=0))
    assert outcome.status is SolveStatus.UNKNOWN
    assert outcome.value is None


def columns_case(
    expert: list[int], row: list[int], together: list[list[int]], columns: int, depth: int, most: float = np.inf
) -> Columns:
    """A case in which a replica of expert e has e + 1 units of traffic."""
    return Columns(np.array(expert), np.array(row), np.array(together), columns, depth, np.array(expert) + 1, most)


def met(case: Columns, column: tuple[int, ...]) -> float | None:
    """The objective of columns `[replica]`, pair by pair; None if the columns are not allowed."""
    items, total = range(len(column)), 0.0
    places = [(int(case.row[i]), column[i]) for i in items]
    on = [(int(case.expert[i]), *places[i]) for i in items]
    traffic = [0 if case.traffic is None else int(t) for t in (case.traffic if case.traffic is not None else column)]
    rings = [sum(traffic[i] for i in items if column[i] == c) for c in range(case.columns)]
    if (
        max(map(places.count, places)) > case.slots_per_device
        or len(set(on)) < len(on)
        or max(rings) > case.most_traffic
    ):
        return None
    number = case.expert.tolist().count
    for i, j in combinations(items, 2):
        e, f = int(case.expert[i]), int(case.expert[j])
        if column[i] == column[j] and e != f:
            total += case.together[e, f] / (number(e) * number(f))
    return total


@given(st.data())
def test_columns_equal_brute_force(data: st.DataObject) -> None:
    replicas, columns = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    expert = data.draw(st.lists(st.integers(0, 4), min_size=replicas, max_size=replicas))
    row = data.draw(st.lists(st.integers(0, 1), min_size=replicas, max_size=replicas))
    upper = np.triu(np.array(data.draw(st.lists(st.integers(0, 9), min_size=25, max_size=25))).reshape(5, 5), 1)
    most = data.draw(st.sampled_from([np.inf, 8.0]))
    case = columns_case(expert, row, (upper + upper.T).tolist(), columns, data.draw(st.integers(1, 3)), most)
    every = [met(case, column) for column in product(range(columns), repeat=replicas)]
    best = min((value for value in every if value is not None), default=None)
    outcome = assign_columns(case, None, LIMITS)
    assert (outcome.status is SolveStatus.INFEASIBLE) == (best is None)
    assume(best is not None)
    assert best is not None
    assert outcome.status is SolveStatus.OPTIMAL
    assert outcome.value is not None
    assert case.violations(outcome.value) == []
    assert met(case, tuple(outcome.value.tolist())) == pytest.approx(best)
    assert outcome.objective == pytest.approx(best)
    assert spectral_bound(case, ENDLESS) <= best + 1e-6


@pytest.mark.parametrize(
    ("case", "feasible"),
    [
        (columns_case([0, 1], [0, 0], [[0, 5], [5, 0]], 2, 1), True),
        (columns_case([0, 1, 2], [0, 0, 0], np.zeros((3, 3), dtype=int).tolist(), 2, 1), False),  # three for two slots
        (columns_case([0, 0], [0, 0], [[0]], 2, 2), True),
        (columns_case([0, 0, 0], [0, 0, 0], [[0]], 2, 2), False),  # three of one expert on two devices
        (columns_case([0, 1], [0, 1], [[0, 5], [5, 0]], 2, 1, most=2), True),
        (columns_case([0, 1], [0, 1], [[0, 5], [5, 0]], 2, 1, most=1), False),  # a ring has to carry two
    ],
)
def test_each_family_of_columns_has_a_feasible_and_an_infeasible_case(case: Columns, feasible: bool) -> None:
    outcome = assign_columns(case, None, LIMITS)
    assert outcome.status is (SolveStatus.OPTIMAL if feasible else SolveStatus.INFEASIBLE)
    assert outcome.value is None or case.violations(outcome.value) == []


def test_wrong_columns_are_named() -> None:
    case = columns_case([0, 0, 1], [0, 0, 0], [[0, 1], [1, 0]], 2, 2, most=3)
    assert case.violations(np.array([0, 1, 1])) == []
    assert case.violations(np.array([0, 0, 0])) == [
        "device 0, 0 is over-full",
        "expert 0 is on a device twice",
        "a column has too much traffic",
    ]


def test_the_hint_is_complete_and_feasible(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []

    def listening(limits: Limits) -> cp_model.CpSolver:
        solver = solver_for(limits)
        solver.parameters.log_search_progress = True
        solver.parameters.log_to_stdout = False
        solver.log_callback = lines.append
        return solver

    monkeypatch.setattr(column_assignment, "solver_for", listening)
    case = crowd(rows=2, columns=3, depth=2)
    assign_columns(case, np.array([1, 0, 2, 1, 0, 2, 1, 0, 2, 1, 0, 2]), LIMITS)
    assert any("The solution hint is complete and is feasible" in line for line in lines)


def crowd(rows: int, columns: int, depth: int, most: float = np.inf) -> Columns:
    """A full mesh where most experts have one replica and some have two, with random traffic up to a limit."""
    rng, items = np.random.default_rng(2), rows * columns * depth
    expert = rng.permutation(np.arange(items) % (items - items // 6))
    together = np.triu(rng.integers(0, 20, (items, items)), 1)
    row = np.repeat(np.arange(rows), columns * depth)
    return Columns(expert, row, together + together.T, columns, depth, rng.integers(1, 9, items), most)


def test_large_cases_have_a_bound_a_gap_and_no_violations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_assignment, "STARTS", 3)  # work, not time, ends the search
    free = crowd(rows=4, columns=4, depth=3)
    assert free.traffic is not None
    even = float(np.ceil(free.traffic.sum() / 4)) + 1
    limited = crowd(rows=4, columns=4, depth=3, most=even)
    for case in (free, limited):
        outcome = assign_columns(case, None, LIMITS)
        assert outcome.status is SolveStatus.FEASIBLE
        assert outcome.value is not None
        assert outcome.objective is not None
        assert case.violations(outcome.value) == []
        assert outcome.objective == pytest.approx(met(case, tuple(outcome.value.tolist())))
        assert 0 < outcome.lower_bound <= outcome.objective < np.triu(case.weight()).sum() / 4
        assert outcome.gap < 0.4
        again = assign_columns(case, outcome.value, Limits(seconds=0))
        assert again.objective is not None
        assert again.objective <= outcome.objective
    impossible = crowd(rows=4, columns=4, depth=3, most=even / 2)
    unknown = assign_columns(impossible, None, LIMITS)
    assert (unknown.status, unknown.value) == (SolveStatus.UNKNOWN, None)
    assert 0 < unknown.lower_bound < np.inf


def test_empty_slots_and_single_columns_are_allowed() -> None:
    case = crowd(rows=4, columns=4, depth=3)
    some = Columns(case.expert[::2], case.row[::2], case.together, 4, 3)
    outcome = assign_columns(some, None, Limits(seconds=1))
    assert outcome.value is not None
    assert some.violations(outcome.value) == []
    one = Columns(case.expert[::12], case.row[::12], case.together, 1, 1)
    assert spectral_bound(one, ENDLESS) == pytest.approx(one.met(np.zeros(4, dtype=np.int64)))


def test_same_seed_same_columns_and_a_model_without_time_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_assignment, "STARTS", 3)
    case = crowd(rows=4, columns=4, depth=3)
    first, same, other = (assign_columns(case, None, Limits(seconds=60, seed=seed)) for seed in (1, 1, 2))
    assert first.value is not None
    assert same.value is not None
    assert other.value is not None
    assert (first.value == same.value).all()
    assert (first.value != other.value).any()
    monkeypatch.setattr(column_assignment, "_exchanged", lambda *_: None)
    outcome = assign_columns(crowd(2, 3, 2), None, Limits(60, deterministic=1e-9))
    assert (outcome.status, outcome.value) == (SolveStatus.UNKNOWN, None)


def test_a_partition_spreads_weight_and_all_works_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mtkahypar")
    case = crowd(rows=4, columns=4, depth=3)
    labels = spread_apart(case.weight(), 4, 0)
    assert labels is not None
    assert np.bincount(labels).tolist() == [12] * 4
    assert case.met(labels) < 0.9 * np.triu(case.weight()).sum() / 4
    assert spread_apart(case.weight()[:5, :5], 4, 0) is None  # too few to part


def test_without_the_library_there_is_no_partition_but_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    partition.library.cache_clear()
    case = crowd(rows=4, columns=4, depth=3)
    assert spread_apart(case.weight(), 4, 0) is None
    outcome = assign_columns(case, None, Limits(seconds=0.5))
    partition.library.cache_clear()
    assert outcome.value is not None
    assert case.violations(outcome.value) == []
