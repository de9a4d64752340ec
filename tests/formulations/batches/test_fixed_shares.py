"""Optimal fixed shares equal the linear program written out in full, and no shares are below the bound."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from formulations.batches.fixed_shares import SharesInstance, fix_shares, tail_mean
from formulations.kit.arrays import Floats
from formulations.kit.outcome import SolveStatus
from formulations.kit.solver import Limits
from optimizer.routing.gradient_shares import gradient_shares

LIMITS = Limits(seconds=30)


@st.composite
def instances(draw: st.DrawFn, batches: int = 5) -> SharesInstance:
    """Random loads and holders of up to six experts on up to four devices."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    experts, devices = int(rng.integers(1, 7)), int(rng.integers(1, 5))
    holders = rng.random((experts, devices)) < 0.6
    holders[np.arange(experts), rng.integers(0, devices, experts)] = True
    load = rng.integers(0, 30, (int(rng.integers(1, batches + 1)), experts))
    return SharesInstance(load, holders, draw(st.sampled_from([0.2, 0.5, 1.0])), draw(st.sampled_from([0.0, 1.0, 3.0])))


def in_full(instance: SharesInstance) -> float:
    """The optimum of the program with all constraints, one after the other."""
    experts, devices = instance.holders.shape
    batches = len(instance.load)
    columns = experts * devices + 2 * batches + 1
    peak, threshold = experts * devices, experts * devices + batches
    rows = []
    for batch in range(batches):
        for device in range(devices):
            row = np.zeros(columns)
            row[device : experts * devices : devices] = instance.load[batch]
            row[peak + batch] = -1
            rows.append(row)
        row = np.zeros(columns)
        row[[peak + batch, threshold, threshold + 1 + batch]] = 1, -1, -1
        rows.append(row)
    sums = np.zeros((experts, columns))
    for expert in range(experts):
        sums[expert, expert * devices : (expert + 1) * devices] = 1
    cost = np.zeros(columns)
    cost[peak:threshold] = 1 / batches
    cost[threshold] = instance.tail_weight
    cost[threshold + 1 :] = instance.tail_weight / (instance.tail * batches)
    bounds = [(0, 1 if held else 0) for held in instance.holders.ravel()] + [(0, None)] * (2 * batches + 1)
    found = linprog(
        cost, A_ub=np.array(rows), b_ub=np.zeros(len(rows)), A_eq=sums, b_eq=np.ones(experts), bounds=bounds
    )
    return float(found.fun)


@given(instances())
def test_rounds_reach_the_optimum_of_the_whole_program(instance: SharesInstance) -> None:
    outcome = fix_shares(instance, LIMITS)
    assert outcome.status is SolveStatus.OPTIMAL
    assert outcome.value is not None
    assert outcome.value.sum(axis=1) == pytest.approx(1)
    assert (outcome.value[~instance.holders] == 0).all()
    assert outcome.objective == pytest.approx(instance.objective(outcome.value))
    assert outcome.objective == pytest.approx(in_full(instance), rel=1e-5, abs=1e-5)


@given(instances(batches=12), st.integers(0, 10**6))
def test_no_shares_are_below_the_bound_and_those_by_gradients_come_near(instance: SharesInstance, seed: int) -> None:
    """Gradients have fixed steps; 10 % is far from what any case needs, and excludes that they go astray."""
    bound, rng = fix_shares(instance, LIMITS).lower_bound, np.random.default_rng(seed)
    for _ in range(20):
        drawn = rng.random(instance.holders.shape) ** 3 * instance.holders + 1e-9 * instance.holders
        assert instance.objective(drawn / drawn.sum(axis=1, keepdims=True)) >= bound - 1e-6
    tailed = SharesInstance(instance.load, instance.holders, 0.05, 1.0)
    expert, device = np.nonzero(instance.holders)
    start = np.searchsorted(expert, np.arange(len(instance.holders) + 1)).astype(np.int32)
    share = np.zeros(instance.holders.shape)
    share[expert, device] = gradient_shares(instance.load, start, device.astype(np.int32), instance.holders.shape[1])
    least = fix_shares(tailed, LIMITS).lower_bound
    assert least - 1e-6 <= tailed.objective(share) <= 1.1 * least + 1


def test_one_expert_beside_another_by_hand() -> None:
    """Expert 0 is on both devices, expert 1 on the second. Two batches: (6, 2) is level with 4 and 4, so two thirds are
    on the first device; (6, 6) wants all there, and a share of 1 costs 6 in both. The sum of peaks is 6x + (12 - 6x)
    between the two, so any share from 2/3 to 1 is best."""
    instance = SharesInstance(np.array([[6, 2], [6, 6]]), np.array([[True, True], [False, True]]))
    outcome = fix_shares(instance, LIMITS)
    assert outcome.objective == pytest.approx(6)
    worst = SharesInstance(instance.load, instance.holders, 0.5, 10.0)
    assert fix_shares(worst, LIMITS).value == pytest.approx(np.array([[1, 0], [0, 1]]), abs=1e-6)


@pytest.mark.parametrize(
    ("values", "tail", "mean"), [([1, 5, 3], 1.0, 3.0), ([1, 5, 3], 0.1, 5.0), ([4, 2, 8, 6], 0.5, 7.0),
                                 ([4, 2, 8, 6], 0.375, 22 / 3)],
)  # fmt: skip
def test_the_tail_is_the_mean_of_the_largest_values(values: list[int], tail: float, mean: float) -> None:
    array: Floats = np.array(values, dtype=float)
    assert tail_mean(array, tail) == pytest.approx(mean)


def test_without_time_the_even_shares_are_the_answer() -> None:
    instance = SharesInstance(np.array([[6, 2]]), np.array([[True, True], [False, True]]))
    outcome = fix_shares(instance, Limits(seconds=0))
    assert outcome.status is SolveStatus.FEASIBLE
    assert outcome.value is not None
    assert outcome.value.tolist() == [[0.5, 0.5], [0, 1]]


@pytest.mark.parametrize(
    ("load", "holders", "tail", "said"),
    [
        ([[1, 2]], [[True]], 0.5, "do not fit together"),
        ([[1, 2]], [[True], [False]], 0.5, "expert 1 has no replica"),
        ([[1]], [[True]], 0.0, r"a tail of 0\.0 with weight 0\.0 is none"),
    ],
)
def test_what_is_no_instance_is_refused(load: object, holders: object, tail: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SharesInstance(np.array(load), np.array(holders), tail)
