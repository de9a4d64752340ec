"""Every formulation can be cancelled, before it begins and at any look: what it has found is valid, and it ends soon.

"Soon" is counted, not timed: after the first look that says "cancelled" a formulation looks only a few times more.
"""

from collections.abc import Callable

import numpy as np
import pytest
from cancelling import CancelledAfter

from formulations.batches.batch_instance import BatchInstance
from formulations.batches.full_mesh import partition_experts
from formulations.batches.recourse import place_for_batches
from formulations.choice.robust_choice import Criterion, choose_robustly
from formulations.expected_load.device_columns import expected_peak_bound
from formulations.expected_load.joint_placement import JointInstance, place_jointly
from formulations.expected_load.layer_placement import LayerInstance, place_replicas
from formulations.expected_load.replication import ReplicaBudget, counts_for_batches
from formulations.kit.arrays import Ints
from formulations.kit.outcome import Outcome
from formulations.kit.solver import Limits
from formulations.rows.column_assignment import Columns, assign_columns
from formulations.rows.mesh_row import MeshRow
from formulations.rows.row_assignment import Rows, assign_rows
from formulations.rows.row_placement import place_row

LOAD = np.random.default_rng(1).poisson(np.random.default_rng(2).lognormal(2.5, 0.7, 24), (8, 24))
"""Pairs `[batch, expert]` of 24 experts in 8 batches, too uneven for any bound to be met at once."""

NEARLY_EQUAL = np.random.default_rng(0).integers(100, 120, 31)
"""Expected pairs `[expert]` of 31 experts, whose placement on 15 devices is far from the mean."""

FEW_LOOKS = 12
"""Most looks that may say "cancelled": one or two in each loop that is left; a whole search takes thousands."""

NO_SPREAD = np.zeros(31, dtype=np.bool_)


def joint(limits: Limits) -> tuple[Outcome[Ints], list[str]]:
    """Choose counts and placement for an expected load; the outcome and its faults."""
    found = place_jointly(JointInstance(NEARLY_EQUAL, NO_SPREAD, 5, 3, 3), None, limits)
    assert found.value is not None
    return found, [] if (np.bincount(found.value[found.value >= 0], minlength=31) > 0).all() else ["an expert is lost"]


def layer(limits: Limits) -> tuple[Outcome[Ints], list[str]]:
    """Place given counts, which needs CP-SAT with four slots a device; the outcome and its faults."""
    found = place_replicas(LayerInstance(NEARLY_EQUAL, np.ones(31, dtype=np.int64), NO_SPREAD, 5, 3, 4), None, limits)
    assert found.value is not None
    return found, [] if (np.sort(found.value[found.value >= 0]) == np.arange(31)).all() else ["an expert is lost"]


def counts(limits: Limits) -> tuple[Outcome[Ints], list[str]]:
    """Choose replica counts for batches; the outcome and its faults."""
    budget = ReplicaBudget.of(24, 32, 8)
    found = counts_for_batches(LOAD, budget, limits)
    assert found.value is not None
    return found, budget.violations(found.value)


def full_mesh(limits: Limits) -> tuple[Outcome[Ints], list[str]]:
    """Place experts without a slot to spare; the outcome and its faults."""
    found = partition_experts(LOAD[:, :12], 4, np.arange(12).reshape(4, 3), limits)
    assert found.value is not None
    return found, [] if (np.sort(found.value, axis=None) == np.arange(12)).all() else ["an expert is lost"]


def recourse(limits: Limits) -> tuple[Outcome[Ints], list[str]]:
    """Place experts for batches, with two slots to spare; the outcome and its faults."""
    instance = BatchInstance(LOAD[:, :10], 4, 3)
    found = place_for_batches(instance, None, limits)
    assert found.value is not None
    return found, instance.row.violations(found.value)


def row(limits: Limits) -> tuple[Outcome[Ints], list[str]]:
    """Fill one mesh row; the outcome and its faults."""
    case = MeshRow(LOAD, np.zeros((24, 1), dtype=np.bool_), np.zeros((8, 1)), 8, 4)
    found = place_row(case, None, limits)
    assert found.value is not None
    return found, case.violations(found.value)


def columns(limits: Limits) -> tuple[Outcome[Ints], list[str]]:
    """Choose the mesh columns of 48 replicas; the outcome and its faults."""
    together = np.triu(np.random.default_rng(3).integers(0, 20, (48, 48)), 1)
    case = Columns(np.arange(48), np.repeat(np.arange(4), 12), together + together.T, 4, 3)
    found = assign_columns(case, None, limits)
    assert found.value is not None
    return found, case.violations(found.value)


def choice(limits: Limits) -> tuple[Outcome[Ints], list[str]]:
    """Choose a candidate for each of 20 layers on three data sets; the outcome and its faults."""
    scores = np.random.default_rng(4).uniform(100, 200, (20, 6, 3))
    found = choose_robustly(scores, np.full(3, 1 / 3), Criterion.WORST, limits)
    assert found.value is not None
    return found, [] if found.value.shape == (20,) else ["a layer is lost"]


FORMULATIONS = [joint, layer, counts, full_mesh, recourse, row, columns, choice]


@pytest.mark.parametrize("solve", FORMULATIONS)
def test_cancelled_before_or_during_the_answer_is_valid_and_comes_after_few_looks(
    solve: Callable[[Limits], tuple[Outcome[Ints], list[str]]],
) -> None:
    for looks in (0, 1, 2, 3, 5, 8, 30):
        cancelled = CancelledAfter(looks)
        found, wrong = solve(Limits(seconds=3600, cancelled=cancelled))
        assert wrong == []
        assert found.objective is not None
        assert found.lower_bound <= found.objective * (1 + 1e-6)
        assert cancelled.looks_after <= FEW_LOOKS


def test_rows_cancelled_before_are_unknown_as_highs_does_not_begin() -> None:
    case = Rows(np.ones((4, 6)), np.ones(6, dtype=np.int64), 2, 1 - np.eye(4, dtype=np.int64))
    found = assign_rows(case, Limits(seconds=3600, cancelled=lambda: True))
    assert (found.status, found.value) == ("unknown", None)
    assert assign_rows(case, Limits(seconds=3600)).value is not None


def test_the_column_bound_cancelled_at_any_look_is_below_the_bound_with_all_the_time() -> None:
    weight, count = NEARLY_EQUAL.astype(np.float64), np.ones(31, dtype=np.int64)
    final = expected_peak_bound(weight, count, 15, 3, 360.0, Limits(seconds=3600)).peak
    for looks in range(4):
        cancelled = CancelledAfter(looks)
        found = expected_peak_bound(weight, count, 15, 3, 360.0, Limits(seconds=3600, cancelled=cancelled))
        assert found.peak <= final * (1 + 1e-9)
        assert cancelled.looks_after <= 2
