"""Counts and placement over batches equal brute force; every family of the model binds, and hints and limits hold."""

from collections.abc import Callable

import numpy as np
import pytest
from cancelling import CancelledAfter
from hypothesis import given
from hypothesis import strategies as st
from ortools.sat.python import cp_model
from reference_recourse import drawn_loads, flow_total, held_by, least_total, placements, routed_total

from formulations.batches import recourse
from formulations.batches.batch_instance import BatchInstance
from formulations.batches.recourse import place_for_batches
from formulations.kit.arrays import Ints
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits, solver_for
from optimizer.domain.placement import Placement

LIMITS = Limits(seconds=600, deterministic=20)
SHAPES = [(1, 3), (2, 1), (2, 2), (2, 4), (3, 1), (3, 2), (4, 1), (4, 2)]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile the kernels before any test, as a time limit would count that."""
    place_for_batches(BatchInstance(np.array([[9, 4, 1], [1, 9, 4]]), 2, 2), None, LIMITS)


@st.composite
def instances(draw: st.DrawFn) -> BatchInstance:
    """Up to four experts on up to four devices, with up to three batches."""
    devices, depth = draw(st.sampled_from(SHAPES))
    experts = draw(st.integers(1, min(4, devices * depth)))
    most = draw(st.sampled_from([4, 30]))
    batch = st.lists(st.integers(0, most), min_size=experts, max_size=experts)
    return BatchInstance(np.array(draw(st.lists(batch, min_size=1, max_size=3))), devices, depth)


def check(instance: BatchInstance, found: Outcome[Ints]) -> int:
    """The sum of peaks, recomputed, after checks: the placement is valid and the bound is below the objective."""
    assert found.value is not None
    assert found.objective is not None
    experts = instance.load.shape[1]
    assert Placement(found.value).violations(experts, instance.devices, instance.slots_per_device) == []
    total = flow_total(instance.load.tolist(), held_by(found.value))
    assert found.objective * len(instance.load) == pytest.approx(total)
    assert found.lower_bound <= found.objective
    assert found.status is (SolveStatus.OPTIMAL if found.gap == 0 else SolveStatus.FEASIBLE)
    return total


def best_of(instance: BatchInstance) -> int:
    """The least sum of peaks over all placements, by brute force."""
    best = least_total(instance.load.tolist(), instance.devices, instance.slots_per_device)
    assert best is not None
    return best


@given(instances(), st.sampled_from([0, 1, 30]), st.sampled_from([0, 100]))
def test_optimum_equals_brute_force(instance: BatchInstance, descents: int, first_sets: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recourse, "DESCENTS", descents)  # without them the model has to find all
        patch.setattr(recourse, "FIRST_SETS", first_sets)  # without them cuts have to
        found = place_for_batches(instance, None, LIMITS)
    assert found.status is SolveStatus.OPTIMAL
    assert check(instance, found) == best_of(instance)


@given(instances(), st.sampled_from([0.0, 1e-9, 1e-3]), st.integers(0, 400))
def test_the_bound_holds_where_the_work_is_cut_short(
    instance: BatchInstance, deterministic: float, largest: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recourse, "DESCENTS", 0)
        patch.setattr(recourse, "LARGEST_MODEL", largest)
        found = place_for_batches(instance, None, Limits(600, deterministic))
    best = best_of(instance)
    assert check(instance, found) >= best
    assert found.lower_bound * len(instance.load) <= best + 1e-9


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4)])
def test_six_experts_equal_brute_force(shape: tuple[int, int]) -> None:
    for seed in range(3):
        load = drawn_loads(seed, 6, 4, 60, 0.9, 0.9)
        instance = BatchInstance(load, *shape)
        found = place_for_batches(instance, None, LIMITS)
        assert found.status is SolveStatus.OPTIMAL
        every = placements(6, shape[0], shape[1], shape[1])
        assert check(instance, found) == min(routed_total(load.tolist(), held) for held in every)


@pytest.mark.parametrize(
    ("load", "devices", "depth", "objective"),
    [
        ([[3, 4, 5]], 3, 1, 5),
        ([[3, 4, 5, 6]], 3, 1, None),  # four experts, three slots
        ([[8]], 1, 2, 8),  # not twice on a device
        ([[8]], 2, 1, 4),  # but on both
        ([[9, 9, 1, 1]], 2, 2, 10),  # slots are as many as experts
        ([[9, 9, 1, 1]], 2, 3, 10),
        ([[12, 1, 1]], 3, 1, 12),
        ([[12, 1, 1]], 3, 2, 5),
        ([[12, 0], [0, 12]], 2, 2, 6),
        ([[12, 0], [0, 12]], 2, 1, 12),
        ([[0, 0]], 2, 1, 0),
        ([[7, 7, 7]], 2, 5, 11),  # more slots than experts
    ],
)
def test_each_constraint_binds_and_has_a_feasible_and_an_infeasible_case(
    load: list[list[int]], devices: int, depth: int, objective: int | None
) -> None:
    found = place_for_batches(BatchInstance(np.array(load), devices, depth), None, LIMITS)
    assert found.status is (SolveStatus.INFEASIBLE if objective is None else SolveStatus.OPTIMAL)
    assert found.objective == objective


Fix = Callable[[recourse._Master], None]


def put(expert: int, *devices: int) -> Fix:
    """A constraint: the expert is on these devices and no others."""

    def fix(master: recourse._Master) -> None:
        for device, on in enumerate(master.on[expert]):
            master.model.add(on == int(device in devices))

    return fix


def peak(batch: int, value: int) -> Fix:
    """A constraint: the peak of a batch has this value."""

    def fix(master: recourse._Master) -> None:
        master.model.add(master.peak[batch] == value)

    return fix


SMALL = BatchInstance(np.array([[12, 4, 4], [4, 12, 4]]), 3, 2)
SOME = np.array([[0, 1], [0, 2], [1, 2]])  # peaks of 8 and 8


@pytest.mark.parametrize(
    ("fixes", "feasible"),
    [
        ([put(0, 0, 1)], True),
        ([put(2)], False),  # each expert is placed
        ([put(0, 0, 1), put(1, 0, 2), put(2, 1, 2)], True),
        ([put(0, 0, 1), put(1, 0, 1), put(2, 0, 1)], False),  # three on a device of two slots
        ([put(0, 0, 1), put(1, 0, 1), put(2, 2)], False),  # and a slot empty
        ([put(0, 0, 1), put(1, 2), put(2, 0, 1)], False),  # the same
        ([put(0, 0), put(1, 0, 1, 2), put(2, 1, 2), peak(0, 12), peak(1, 8)], True),
        ([put(0, 0), put(1, 0, 1, 2), put(2, 1, 2), peak(0, 11)], False),  # a device alone with 12 pairs
        ([put(0, 1, 2), put(1, 0, 1, 2), put(2, 0)], False),  # the hottest come to device 0 first
        ([put(0, 0, 1), put(1, 0, 1, 2), put(2, 2)], True),
        ([put(0, 0, 1), put(1, 1, 2), put(2, 0, 2)], False),  # of devices with the hottest, the next one's come first
        ([peak(0, 10), peak(1, 11)], False),  # the sum of the best known is 20
        ([peak(0, 7), peak(1, 8)], True),
        ([peak(0, 6)], False),  # 20 pairs on three devices
    ],
)
def test_each_family_of_the_model_has_a_feasible_and_an_infeasible_case(fixes: list[Fix], feasible: bool) -> None:
    known = recourse._Known(SOME, 20)
    master = recourse._Master(SMALL, recourse._first_sets(3), known, 14)
    for fix in fixes:
        fix(master)
    status = solver_for(LIMITS).solve(master.model)
    assert status == (cp_model.OPTIMAL if feasible else cp_model.INFEASIBLE)


def hard_for_its_size(seed: int = 1) -> BatchInstance:
    """Eight experts on four devices of three slots, some far hotter than the rest in each batch."""
    return BatchInstance(drawn_loads(seed, 8, 5, 80, 0.6, 0.9), 4, 3)


def listen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that CP-SAT logs from now on; the list grows while it works."""
    lines: list[str] = []

    def listening(limits: Limits) -> cp_model.CpSolver:
        solver = solver_for(limits)
        solver.parameters.log_search_progress = True
        solver.parameters.log_to_stdout = False
        solver.log_callback = lines.append
        return solver

    monkeypatch.setattr(recourse, "solver_for", listening)
    return lines


def test_every_hint_is_complete_and_feasible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recourse, "FIRST_SETS", 0)  # so that cuts are added, and models solved again
    monkeypatch.setattr(recourse, "DESCENTS", 0)
    for seed in range(4):
        lines = listen(monkeypatch)
        place_for_batches(hard_for_its_size(seed), None, LIMITS)
        said = "\n".join(lines)
        assert said.count("Starting CP-SAT solver") > 1
        assert said.count("The solution hint is complete and is feasible") == said.count("Starting CP-SAT solver")


def test_the_sets_of_devices_to_begin_with_are_few() -> None:
    assert recourse._first_sets(1) == [(0,)]
    assert recourse._first_sets(2) == [(0,), (1,)]
    assert len(recourse._first_sets(8)) == 8 + 28 + 56
    assert len(recourse._first_sets(10)) == 10 + 45
    assert len(recourse._first_sets(128)) == 128


def test_a_hint_is_improved_or_refused() -> None:
    instance = hard_for_its_size()
    hint = np.array([[0, 1, 2], [3, 4, 5], [6, 7, -1], [1, -1, -1]])
    before = hint.copy()
    found = place_for_batches(instance, hint, Limits(seconds=0))  # no time for more than to fill the slots
    assert found.status is SolveStatus.FEASIBLE
    assert check(instance, found) <= flow_total(instance.load.tolist(), held_by(hint))
    assert (hint == before).all()
    optimal = place_for_batches(instance, hint, LIMITS)
    assert optimal.status is SolveStatus.OPTIMAL
    again = place_for_batches(instance, optimal.value, LIMITS)
    assert again.objective == optimal.objective
    for wrong, says in [
        (np.array([[0, 1, 2], [3, 4, 5], [6, -1, -1], [-1, -1, -1]]), "expert 7 has no replica"),
        (np.array([[0, 0, 2], [3, 4, 5], [6, 7, -1], [1, -1, -1]]), "expert 0 is on a device twice"),
        (np.zeros((2, 2), dtype=np.int64), "shape"),
    ]:
        with pytest.raises(ValueError, match=says):
            place_for_batches(instance, wrong, LIMITS)


@pytest.mark.parametrize("load", [np.zeros((0, 3), dtype=np.int64), np.array([3, 4]), np.array([[3, -1]])])
def test_arrays_that_are_no_loads_are_refused(load: Ints) -> None:
    with pytest.raises(ValueError, match="no count of pairs"):
        BatchInstance(load, 2, 2)


def test_same_seed_gives_the_same_answer_and_a_cancelled_descent_a_valid_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recourse, "DESCENTS", 3)
    instance = BatchInstance(drawn_loads(2, 12, 6, 150, 0.9, 0.9), 4, 4)
    limits = Limits(seconds=600, deterministic=0.1, seed=4)
    one, two = (place_for_batches(instance, None, limits) for _ in range(2))
    assert one.value is not None
    assert two.value is not None
    assert (one.value == two.value).all()
    assert one.lower_bound == two.lower_bound
    for looks in (1, 6, 30):
        cut_short = Limits(seconds=600, deterministic=0.1, cancelled=CancelledAfter(looks))
        check(instance, place_for_batches(instance, None, cut_short))


@pytest.mark.parametrize(("slots_per_device", "sigma", "burst"), [(3, 0.9, 0.1), (4, 0.9, 0.1), (4, 0.6, 0.3)])
def test_24_experts_on_4x2_devices_are_placed_to_optimality(slots_per_device: int, sigma: float, burst: float) -> None:
    instance = BatchInstance(drawn_loads(2, 24, 16, 512, sigma, burst), 8, slots_per_device)
    found = place_for_batches(instance, None, LIMITS)
    assert found.status is SolveStatus.OPTIMAL
    check(instance, found)


def test_bursts_that_are_too_much_leave_an_honest_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recourse, "DESCENTS", 0)
    instance = BatchInstance(drawn_loads(1, 24, 16, 512, 1.0, 0.6), 8, 4)
    found = place_for_batches(instance, None, Limits(seconds=600, deterministic=0.01))
    check(instance, found)
    assert found.status is SolveStatus.FEASIBLE
    assert 0 < found.gap < 0.3
    assert found.lower_bound * 16 >= instance.least > instance.floor.sum()
