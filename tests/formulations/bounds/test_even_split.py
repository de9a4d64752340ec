"""The bound on the expected peak under even split, beside all counts and placements of tiny layers."""

from itertools import combinations, product

import numpy as np
import pytest

from formulations.bounds.even_split import even_split_bound, heaviest_replica, refuted


def least_peak(load: list[float], devices: int, depth: int) -> float:
    """The least peak over all counts that fill the slots, and all placements without an expert twice on a device."""
    best = np.inf
    for counts in product(range(1, devices + 1), repeat=len(load)):
        if sum(counts) == devices * depth:
            share = [each / count for each, count in zip(load, counts, strict=True)]
            best = min(best, least_from(share, list(counts), devices, depth, best))
    return float(best)


def least_from(share: list[float], left: list[int], devices: int, depth: int, best: float) -> float:
    """The least peak of the devices that are still empty, or `best` where that is less; left: replicas to be placed."""
    if devices == 0:
        return 0.0
    for held in combinations([expert for expert, count in enumerate(left) if count], depth):
        peak = sum(share[expert] for expert in held)
        after = [count - (expert in held) for expert, count in enumerate(left)]
        if peak < best and max(after) < devices:
            best = min(best, max(peak, least_from(share, after, devices - 1, depth, best)))
    return best


def drawn(seed: int) -> tuple[list[float], int, int]:
    """Loads that are often very uneven, on two to four devices with one to three slots, at most eight in all."""
    rng = np.random.default_rng(seed)
    while True:
        devices, depth = int(rng.integers(2, 5)), int(rng.integers(1, 4))
        experts = int(rng.integers(depth, 7))
        if devices * depth <= 8 and experts <= devices * depth <= experts * devices:
            return np.rint(rng.lognormal(0, 1.3, experts) * 20).tolist(), devices, depth


@pytest.mark.parametrize("seed", range(60))
def test_no_placement_goes_below_it(seed: int) -> None:
    load, devices, depth = drawn(seed)
    least = least_peak(load, devices, depth)
    found = even_split_bound(np.array(load), devices, depth, least * 1.05)
    assert found <= least * (1 + 1e-9)
    assert found >= max(sum(load) / devices, heaviest_replica(np.array(load), devices * depth))
    weights = np.sort(np.array(load))[::-1]
    assert least == 0 or not refuted(weights, devices, depth, least * (1 + 1e-6))


def test_pairs_of_heavy_and_light_experts_are_known() -> None:
    """With two slots and no replicas the heaviest is beside the lightest at best, the second beside the second."""
    load = np.array([10.0, 9.0, 8.5, 1.0, 2.0, 4.0])
    assert least_peak(load.tolist(), 3, 2) == 12.5
    assert even_split_bound(load, 3, 2, 12.5) == pytest.approx(12.5, rel=0.02)
    assert max(load.sum() / 3, heaviest_replica(load, 6)) == 11.5


def test_redundant_experts_that_level_the_heavy_ones_leave_the_light_ones_as_they_are() -> None:
    """Four heavy replicas, each beside a light expert: without these the heaviest replica would be the bound."""
    load = np.array([20.0, 20.0, 4.0, 4.0, 4.0, 4.0])
    assert heaviest_replica(load, 8) == 10
    assert least_peak(load.tolist(), 4, 2) == 14
    assert even_split_bound(load, 4, 2, 14.0) == pytest.approx(14.0, rel=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_the_heaviest_replica_is_that_of_the_best_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    load, slots = rng.lognormal(0, 1, 4), int(rng.integers(4, 9))
    every = [counts for counts in product(range(1, 6), repeat=4) if sum(counts) <= slots]
    assert heaviest_replica(load, slots) == pytest.approx(min(max(load / np.array(counts)) for counts in every))


@pytest.mark.parametrize(("experts", "devices", "depth"), [(7, 2, 3), (2, 2, 3)])
def test_experts_that_do_not_fill_the_slots_are_refused(experts: int, devices: int, depth: int) -> None:
    with pytest.raises(ValueError, match="do not fill"):
        even_split_bound(np.ones(experts), devices, depth, 9.0)


def test_layers_without_load_have_no_peak() -> None:
    assert even_split_bound(np.zeros(6), 3, 2, 0.0) == 0
