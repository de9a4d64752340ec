"""One mesh row equals brute force with routing by linear programs; its constraints bind, its bounds and limits hold."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.clock import Clock
from formulations.kit.outcome import SolveStatus
from formulations.kit.solver import Limits, MilpAnswer
from formulations.rows import row_descent, row_placement
from formulations.rows.mesh_row import MeshRow
from formulations.rows.row_placement import place_row
from formulations.rows.row_split import tail_mean, tail_weights

LIMITS = Limits(seconds=30)


def routed_peak(load: Ints, there: Bools, fixed: Floats) -> float:
    """The least peak of one batch by a linear program, whose variables are flows `[expert, device]` and the peak."""
    experts, devices = there.shape
    served = np.hstack([np.kron(np.eye(experts), np.ones(devices)), np.zeros((experts, 1))])
    loads = np.hstack([np.kron(np.ones(experts), np.eye(devices)), -np.ones((devices, 1))])
    cost = np.append(np.zeros(experts * devices), 1)
    high = np.append(np.where(there, np.inf, 0).ravel(), np.inf)
    bounds = np.stack([np.zeros(len(cost)), high], axis=1)
    return float(linprog(cost, loads, -fixed, served, load, bounds).fun)


def worst_mean(peaks: list[float], level: float) -> float:
    """The mean of the worst 1 - level share of the peaks, batch by batch."""
    left = share = (1 - level) * len(peaks)
    total = 0.0
    for peak in sorted(peaks, reverse=True):
        total += min(left, 1) * peak
        left -= min(left, 1)
    return total / share


def worth(row: MeshRow, held: list[set[int]]) -> float:
    """The objective where device d of the row holds the experts held[d]."""
    inside = np.array([[expert in here for here in held] for expert in range(row.load.shape[1])])
    there = np.hstack([inside, row.elsewhere])
    fixed = np.hstack([np.zeros((len(row.load), row.devices)), row.fixed])
    return worst_mean(
        [routed_peak(*batch) for batch in zip(row.load, [there] * len(fixed), fixed, strict=True)], row.level
    )


def best_worth(row: MeshRow) -> float | None:
    """The least objective by brute force over all sets of experts on every device; None if experts do not fit.

    Placements that differ only in the numbers of devices are looked at once.
    """
    experts = range(row.load.shape[1])
    sets = [set(c) for size in range(row.slots_per_device + 1) for c in combinations(experts, size)]
    needed = set(np.flatnonzero(~row.elsewhere.any(axis=1)).tolist())
    choices = product(range(len(sets)), repeat=row.devices)
    rows = [[sets[c] for c in choice] for choice in choices if sorted(choice) == list(choice)]
    return min((worth(row, held) for held in rows if needed <= set().union(*held)), default=None)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile the kernels before any test, as a time limit would count that."""
    place_row(instance([[3, 4], [5, 6]], [[0], [0]], [[0], [0]], 2, 1), None, Limits(seconds=600))


@st.composite
def rows(draw: st.DrawFn) -> MeshRow:
    """A random row of up to four slots, with up to four experts, three outside devices and three batches."""
    devices, depth = draw(st.sampled_from([(1, 2), (2, 1), (2, 2), (3, 1)]))
    experts, outside, batches = draw(st.integers(1, 4)), draw(st.integers(0, 3)), draw(st.integers(1, 3))
    numbers = st.lists(st.integers(0, 20), min_size=batches, max_size=batches)
    load = [draw(numbers) for _ in range(experts)]
    fixed = [draw(numbers) for _ in range(outside)]
    elsewhere = [draw(st.lists(st.booleans(), min_size=outside, max_size=outside)) for _ in range(experts)]
    return MeshRow(
        np.array(load).T,
        np.array(elsewhere, dtype=np.bool_).reshape(experts, outside),
        np.array(fixed, dtype=np.float64).reshape(outside, batches).T,
        devices,
        depth,
        draw(st.sampled_from([0.0, 0.5, 0.8])),
    )


def held(slots: Ints) -> list[set[int]]:
    """The experts of each device of slots `[device, slot]`."""
    return [{expert for expert in here if expert >= 0} for here in slots.tolist()]


@given(rows(), st.booleans())
def test_optimum_equals_brute_force_and_its_value_is_recomputed(row: MeshRow, model_alone: bool) -> None:
    best = best_worth(row)
    with pytest.MonkeyPatch.context() as patch:
        if model_alone:
            patch.setattr(row_placement, "descend_row", lambda row, slots, rng, clock: slots)
        outcome = place_row(row, None, LIMITS)
    assert (outcome.status is SolveStatus.INFEASIBLE) == (best is None)
    assume(best is not None)
    assert best is not None
    assert outcome.value is not None
    assert row.violations(outcome.value) == []
    assert worth(row, held(outcome.value)) == pytest.approx(best, abs=1e-6)
    assert outcome.objective == pytest.approx(best, abs=1e-6)
    assert outcome.lower_bound <= best + 1e-6
    assert outcome.gap <= 1e-4  # at which HiGHS stops


@settings(max_examples=15)
@given(rows())
def test_no_filling_goes_below_the_floor(row: MeshRow) -> None:
    """The floor is worked out without a solver, and the best filling by brute force is no lower."""
    best = best_worth(row)
    assume(best is not None)
    assert best is not None
    assert worst_mean(row.floor().tolist(), row.level) <= best + 1e-6
    assert (row.compact().floor() == row.floor()).all()


def test_descent_does_not_begin_where_the_floor_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the bound proves ends the search: four equal experts, one on each slot, cannot be placed better."""
    row = instance([[6, 6, 6, 6], [3, 3, 3, 3]], [[0]] * 4, [[0], [0]], 2, 2)
    monkeypatch.setattr(row_descent, "_to_rest", lambda *arguments: pytest.fail("nothing was left to look for"))
    slots = np.array([[0, 1], [2, 3]])
    found = row_descent.descend_row(row, slots, np.random.default_rng(0), Clock.start(60))
    assert (found == slots).all()
    assert place_row(row, slots, LIMITS).status is SolveStatus.OPTIMAL


def test_six_experts_on_three_devices_equal_brute_force() -> None:
    rng = np.random.default_rng(3)
    elsewhere = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [0, 0], [0, 0]], dtype=np.bool_)
    row = MeshRow(rng.integers(0, 30, (3, 6)), elsewhere, rng.integers(0, 30, (3, 2)), 3, 2)
    outcome = place_row(row, None, LIMITS)
    assert outcome.objective == pytest.approx(best_worth(row))
    assert outcome.gap <= 1e-4


@given(st.integers(0, 10**6))
def test_peaks_equal_linear_programs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    experts, outside = int(rng.integers(1, 9)), int(rng.integers(1, 6))
    elsewhere = rng.random((experts, outside)) < 0.4
    row = MeshRow(rng.integers(0, 60, (2, experts)), elsewhere, rng.random((2, outside)) * 40, 4, 3)
    slots = rng.permuted(np.tile(np.arange(-1, experts), (4, 3)), axis=1)[:, :3]
    slots[:, 0] = np.resize(row.bound_to_row, 4) if len(row.bound_to_row) else -1
    for device, slot in product(range(4), (1, 2)):
        if slots[device, slot] in slots[device, :slot]:
            slots[device, slot] = -1  # no expert is on a device twice
    assume(not row.violations(slots))
    there = row.there(slots)
    fixed = np.hstack([np.zeros((2, 4)), row.fixed])
    expected = [routed_peak(row.load[b], there, fixed[b]) for b in range(2)]
    assert row.peaks(slots) == pytest.approx(expected)
    assert row.compact().peaks(slots) == pytest.approx(expected)


def instance(
    load: list[list[int]], outside: list[list[int]], fixed: list[list[int]], devices: int, depth: int
) -> MeshRow:
    """A row from lists: load `[batch, expert]`, outside `[expert, device]`, fixed `[batch, device]`."""
    return MeshRow(np.array(load), np.array(outside, dtype=np.bool_), np.array(fixed), devices, depth)


@pytest.mark.parametrize(
    ("case", "feasible", "objective"),
    [
        (instance([[3, 4]], [[0], [0]], [[0]], 2, 1), True, 4),
        (instance([[3, 4, 5]], [[0], [0], [0]], [[0]], 2, 1), False, None),  # three need two slots
        (instance([[3, 4, 5]], [[0], [0], [1]], [[0]], 2, 1), True, 5),  # the third is served outside
        (instance([[3, 4, 5]], [[0], [0], [1]], [[9]], 2, 1), True, 14),  # where 9 stay as they are
        (instance([[3, 4, 5]], [[0], [0], [1]], [[9]], 2, 2), True, 9),  # with a slot it need not be
        (instance([[8]], [[0]], [[1]], 1, 2), True, 8),  # not twice on a device
        (instance([[8]], [[0]], [[1]], 2, 1), True, 4),  # but on both
        (instance([[0]], [[0]], [[0]], 1, 1), True, 0),
    ],
)
def test_each_constraint_family_binds_and_has_a_feasible_and_an_infeasible_case(
    case: MeshRow, feasible: bool, objective: float | None
) -> None:
    outcome = place_row(case, None, LIMITS)
    assert outcome.status is (SolveStatus.OPTIMAL if feasible else SolveStatus.INFEASIBLE)
    assert outcome.objective == (None if objective is None else pytest.approx(objective))


def test_a_tail_is_planned_for_rather_than_the_mean() -> None:
    # batches 0-3: experts 0 and 1 are busy together; batch 4: 0 and 2, more so
    load = np.array([[10, 10, 0, 0]] * 4 + [[18, 0, 18, 0]])
    row = MeshRow(load, np.zeros((4, 0), dtype=np.bool_), np.zeros((5, 0)), 2, 2)
    mean, tail = place_row(row, None, LIMITS), place_row(replace(row, level=0.8), None, LIMITS)
    assert mean.value is not None
    assert tail.value is not None
    assert mean.objective == pytest.approx(worst_mean(row.peaks(mean.value).tolist(), 0))
    assert tail.objective == pytest.approx(18)
    assert tail.objective == pytest.approx(row.peaks(tail.value).max())


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.sampled_from([0.0, 0.3, 0.75, 0.95]))
def test_tail_mean_is_that_of_the_worst_batches(peaks: list[int], level: float) -> None:
    array = np.array(peaks, dtype=np.float64)
    assert tail_mean(array, level) == pytest.approx(worst_mean([float(p) for p in peaks], level))
    assert tail_weights(array, level) @ array == pytest.approx(tail_mean(array, level))
    assert tail_weights(array, level).sum() == pytest.approx(1)


def crowded_row() -> tuple[MeshRow, Ints]:
    """A row of eight devices with three slots, 30 experts of which 12 are outside too, 16 batches; and a placement."""
    rng = np.random.default_rng(5)
    elsewhere = np.zeros((30, 10), dtype=np.bool_)
    elsewhere[np.arange(18, 30), np.arange(12) % 10] = True
    load = rng.poisson(rng.lognormal(2.5, 0.5, 30), (16, 30))
    return MeshRow(load, elsewhere, rng.poisson(25, (16, 10)), 8, 3), np.arange(24).reshape(3, 8).T.copy()


def test_the_start_is_improved_and_the_bound_holds_at_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("formulations.rows.row_descent.SHAKES", 1)  # work, not time, ends the descent
    monkeypatch.setattr(row_placement, "LARGEST_MODEL", 0)  # only the model with one group, which is soon solved
    row, now = crowded_row()
    before = now.copy()
    outcome = place_row(row, now, Limits(seconds=120))
    assert outcome.value is not None
    assert outcome.objective is not None
    assert (now == before).all()
    assert row.violations(outcome.value) == []
    assert outcome.objective == pytest.approx(worth(row, held(outcome.value)))
    assert outcome.objective < row.worth(now)
    total = (row.load.sum(axis=1) + row.fixed.sum(axis=1)) / 18
    assert max(total.mean(), row.fixed.max(axis=1).mean()) <= outcome.lower_bound + 1e-6
    assert outcome.lower_bound <= outcome.objective
    assert outcome.gap < 0.08
    again = place_row(row, outcome.value, Limits(seconds=0.2))
    assert again.objective is not None
    assert again.objective <= outcome.objective


def test_a_seed_gives_one_answer_and_another_seed_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_placement, "minimise", lambda *_: MilpAnswer(SolveStatus.UNKNOWN, None, None, -np.inf, 0))
    monkeypatch.setattr("formulations.rows.row_descent.SHAKES", 1)
    row, now = crowded_row()
    first, same, other = (place_row(row, now, Limits(seconds=120, seed=seed)) for seed in (1, 1, 2))
    assert first.value is not None
    assert same.value is not None
    assert other.value is not None
    assert (first.value == same.value).all()
    assert (first.value != other.value).any()


def test_without_time_the_start_is_the_answer_with_an_honest_bound() -> None:
    row, now = crowded_row()
    outcome = place_row(row, now, Limits(seconds=0))
    assert outcome.status is SolveStatus.FEASIBLE
    assert outcome.value is not None
    assert (outcome.value == now).all()
    assert outcome.lower_bound == pytest.approx(row.floor().mean())
    assert (row.floor() >= row.fixed.max(axis=1)).all()


def test_wrong_rows_and_hints_are_named() -> None:
    row = instance([[3, 4, 5]], [[0], [0], [1]], [[0]], 2, 2)
    assert row.violations(np.array([[0, 1], [2, -1]])) == []
    assert row.violations(np.array([[0, 0], [2, 2]])) == [
        "expert 1 has no replica",
        "expert 0 is on a device twice",
        "expert 2 is on a device twice",
    ]
    assert row.violations(np.array([[0, 1]])) == ["shape (1, 2), not 2 x 2"]
    assert row.violations(np.array([[0, 1], [3, -1]])) == ["experts that are not in the pool"]
    with pytest.raises(ValueError, match="hint: expert 0 has no replica"):
        place_row(row, np.array([[1, 2], [-1, -1]]), LIMITS)
    with pytest.raises(ValueError, match="elsewhere"):
        instance([[3, 4]], [[0]], [[0]], 2, 2)
    with pytest.raises(ValueError, match="tail"):
        replace(row, level=1.0)
