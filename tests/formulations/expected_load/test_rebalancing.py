"""The least peak expected load within a budget of weights to load, against every placement there is."""

from itertools import combinations, product

import numpy as np
import pytest

from formulations.expected_load.rebalancing import RebalancingInstance, rebalance
from formulations.kit.arrays import Ints
from formulations.kit.outcome import SolveStatus
from formulations.kit.solver import Limits


def peak(load: Ints, slots: Ints) -> float:
    """The largest expected load of a device."""
    copies = np.bincount(slots[slots >= 0], minlength=len(load))
    return max(float(sum(load[expert] / copies[expert] for expert in device if expert >= 0)) for device in slots)


def loaded(current: Ints, slots: Ints) -> int:
    return sum(expert >= 0 and expert not in current[device] for device, held in enumerate(slots) for expert in held)


def least_peak(instance: RebalancingInstance) -> float:
    """Brute force over all contents of all devices."""
    experts, depth = len(instance.load), instance.current.shape[1]
    contents = [part for size in range(depth + 1) for part in combinations(range(experts), size)]
    found = np.inf
    for held in product(contents, repeat=instance.devices):
        if len({expert for device in held for expert in device}) < experts:
            continue
        slots = np.array([[*device, *[-1] * (depth - len(device))] for device in held])
        if loaded(instance.current, slots) <= instance.most_loaded:
            found = min(found, peak(instance.load, slots))
    return found


def drawn(seed: int, most: int) -> RebalancingInstance:
    rng = np.random.default_rng(seed)
    devices, depth, experts = 3, 2, 4
    slots = np.full((devices, depth), -1)
    slots.flat[rng.permutation(devices * depth)[:experts]] = np.arange(experts)
    for device, slot in np.argwhere(slots < 0)[: rng.integers(3)]:
        others = [expert for expert in range(experts) if expert not in slots[device]]
        slots[device, slot] = rng.choice(others)
    return RebalancingInstance(rng.integers(1, 50, experts), slots, most)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_what_brute_force_finds(seed: int) -> None:
    before = np.inf
    for most in range(5):
        instance = drawn(seed, most)
        found = rebalance(instance, Limits(20.0))
        assert found.status is SolveStatus.OPTIMAL
        assert found.objective == pytest.approx(least_peak(instance))
        assert found.value is not None
        assert found.objective is not None
        assert peak(instance.load, found.value) == pytest.approx(found.objective)
        assert loaded(instance.current, found.value) <= most
        assert found.objective <= before
        before = found.objective


def test_nothing_can_be_moved_without_a_budget() -> None:
    instance = drawn(1, 0)
    found = rebalance(instance, Limits(20.0))
    assert found.value is not None
    assert loaded(instance.current, found.value) == 0
    assert found.objective == pytest.approx(least_peak(instance))  # giving up a replica may even lower the peak


def test_a_cancelled_solve_says_what_it_knows() -> None:
    found = rebalance(drawn(2, 3), Limits(20.0, cancelled=lambda: True))
    assert found.lower_bound <= least_peak(drawn(2, 3)) + 1e-9


def test_large_loads_are_rounded_down_so_that_the_bound_holds() -> None:
    small = drawn(3, 2)
    large = RebalancingInstance(small.load * 10**13, small.current, 2)
    found = rebalance(large, Limits(20.0))
    assert found.lower_bound <= least_peak(small) * 10**13
    assert found.lower_bound == pytest.approx(least_peak(small) * 10**13, rel=1e-3)
