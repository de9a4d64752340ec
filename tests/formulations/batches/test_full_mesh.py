"""Experts to devices with no slot to spare equal brute force, whatever the prices, and are valid when cut short."""

from itertools import combinations

import numpy as np
import pytest
from cancelling import CancelledAfter
from hypothesis import given
from hypothesis import strategies as st
from reference_recourse import drawn_loads, flow_total, held_by, least_total, placements

from formulations.batches import full_mesh
from formulations.batches.full_mesh import is_full, partition_experts
from formulations.bounds.load import any_placement_bound
from formulations.kit.arrays import Floats, Ints
from formulations.kit.clock import Clock
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits
from optimizer.domain.placement import Placement

LIMITS = Limits(seconds=600)
SHAPES = [(1, 3), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (6, 1), (5, 1)]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Ints, Ints]:
    """Random loads `[batch, expert]` and a random placement, slots `[device, slot]`."""
    shape = draw(st.sampled_from(SHAPES))
    experts = shape[0] * shape[1]
    most = draw(st.sampled_from([3, 40]))
    batch = st.lists(st.integers(0, most), min_size=experts, max_size=experts)
    load = draw(st.lists(batch, min_size=1, max_size=4))
    return np.array(load), np.array(draw(st.permutations(range(experts)))).reshape(shape)


def check(load: Ints, known: Ints, found: Outcome[Ints]) -> int:
    """The sum of peaks, recomputed, after checks that the placement is valid and no worse, and the bound below."""
    assert found.value is not None
    assert found.objective is not None
    assert Placement(found.value).violations(load.shape[1], *known.shape) == []
    total = flow_total(load.tolist(), held_by(found.value))
    assert found.objective * len(load) == pytest.approx(total)
    assert total <= flow_total(load.tolist(), held_by(known))
    assert found.lower_bound <= found.objective + 1e-9
    return total


def least_total_of_parts(load: Ints, devices: int, depth: int) -> int:
    """The least sum of peaks over all partitions of the experts."""
    every = placements(load.shape[1], devices, depth, depth)
    return min(int(load[:, np.array(held)].sum(axis=2).max(axis=1).sum()) for held in every)


@given(cases())
def test_optimum_equals_brute_force(drawn: tuple[Ints, Ints]) -> None:
    load, known = drawn
    found = partition_experts(load, len(known), known, LIMITS)
    assert found.status is SolveStatus.OPTIMAL
    assert check(load, known, found) == least_total(load.tolist(), *known.shape)


@given(cases(), st.integers(0, 10**6), st.sampled_from([1, 3, 50]))
def test_whatever_the_prices_the_bound_holds_and_the_search_ends_with_the_optimum(
    drawn: tuple[Ints, Ints], seed: int, nodes: int
) -> None:
    load, known = drawn
    rng = np.random.default_rng(seed)

    def any_prices(columns: object, climbs: Ints, *_: object) -> tuple[Floats, Floats]:
        return rng.random((climbs.shape[1], load.shape[1])) * 9, rng.normal(size=(load.shape[1],)) * 9

    best = least_total_of_parts(load, *known.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(full_mesh, "_duals", any_prices)
        patch.setattr(full_mesh, "NODES", nodes)
        found = partition_experts(load, len(known), known, LIMITS)
        cut_short = partition_experts(load, len(known), known, Limits(seconds=0))
    assert found.status is SolveStatus.OPTIMAL
    assert check(load, known, found) == best
    check(load, known, cut_short)
    assert cut_short.lower_bound * len(load) <= best + 1e-9


@given(cases(), st.integers(0, 12))
def test_a_search_cancelled_at_any_look_at_the_clock_is_feasible_with_a_bound_that_holds(
    drawn: tuple[Ints, Ints], looks: int
) -> None:
    load, known = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(full_mesh, "NODES", 2)
        found = partition_experts(load, len(known), known, Limits(seconds=600, cancelled=CancelledAfter(looks)))
    total, best = check(load, known, found), least_total_of_parts(load, *known.shape)
    assert found.lower_bound * len(load) <= best + 1e-9
    assert found.status is (SolveStatus.OPTIMAL if found.gap == 0 else SolveStatus.FEASIBLE)
    assert found.status is SolveStatus.FEASIBLE or total == best


def test_without_time_there_is_the_known_placement_and_the_bound_of_each_batch_alone() -> None:
    load, known = np.array([[5, 1, 4, 2], [1, 5, 4, 2]]), np.array([[0, 2], [1, 3]])
    found = partition_experts(load, 2, known, Limits(seconds=0))
    assert found.status is SolveStatus.FEASIBLE
    assert found.value is known
    assert (found.objective, found.lower_bound) == (8.0, 6.0)
    better = partition_experts(load, 2, known, LIMITS)
    assert (better.objective, better.status) == (6.0, SolveStatus.OPTIMAL)


def test_interpreted_kernels_take_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    load, known = drawn_loads(1, 9, 4, 90, 0.6, 0.4), np.arange(9).reshape(3, 3)
    compiled = partition_experts(load, 3, known, LIMITS)
    for name in ("_descend", "_climb"):
        monkeypatch.setattr(full_mesh, name, getattr(full_mesh, name).py_func)
    interpreted = partition_experts(load, 3, known, LIMITS)
    assert compiled.value is not None
    assert interpreted.value is not None
    assert (interpreted.value == compiled.value).all()
    assert (interpreted.objective, interpreted.lower_bound) == (compiled.objective, compiled.lower_bound)


def test_24_experts_on_4x2_devices_are_placed_to_optimality() -> None:
    load = drawn_loads(2, 24, 16, 512, 0.9, 0.1)
    known = np.arange(24).reshape(8, 3)
    found, again = (partition_experts(load, 8, known, LIMITS) for _ in range(2))
    assert found.status is SolveStatus.OPTIMAL
    total = check(load, known, found)
    assert found.value is not None
    assert again.value is not None
    assert (found.value == again.value).all()
    for one, two in combinations(range(24), 2):
        swapped = found.value.copy()
        swapped.flat[[one, two]] = swapped.flat[[two, one]]
        assert load[:, swapped].sum(axis=2).max(axis=1).sum() >= total


def test_the_linear_program_is_near_the_optimum() -> None:
    load = drawn_loads(3, 9, 6, 240, 0.5, 0.3)
    columns = full_mesh._columns(load, 3)
    base = any_placement_bound(load, 3, 9)
    best = least_total_of_parts(load, 3, 3)
    found = full_mesh._priced(columns.below(base, best), base, 3, Clock.start(3600))
    assert base.sum() < found.least <= best
    assert (best - found.least) < 0.5 * (best - base.sum())


@pytest.mark.parametrize(
    ("experts", "devices", "depth", "full"),
    [
        (24, 8, 3, True),
        (24, 8, 4, False),  # slots to spare
        (23, 8, 3, False),
        (25, 8, 3, False),
        (33, 11, 3, True),
        (36, 12, 3, False),  # too many columns
        (62, 62, 1, True),
        (64, 64, 1, False),  # more experts than bits
    ],
)
def test_it_applies_where_every_slot_is_needed_and_columns_are_few(
    experts: int, devices: int, depth: int, full: bool
) -> None:
    assert is_full(experts, devices, depth) is full
