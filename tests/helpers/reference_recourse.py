"""All placements of small meshes, and the peaks that optimal routing reaches with them, slowly and obviously."""

from collections.abc import Iterator
from itertools import combinations, combinations_with_replacement

import numpy as np
from reference import best_split_peak
from reference_split import least_feasible, scipy_carries

from formulations.kit.arrays import Ints

Held = tuple[tuple[int, ...], ...]
"""The experts of each device."""


def held_by(slots: Ints) -> Held:
    """The experts of each device of slots `[device, slot]`, without the empty slots."""
    return tuple(tuple(expert for expert in device if expert >= 0) for device in slots.tolist())


def placements(experts: int, devices: int, least: int, most: int) -> Iterator[Held]:
    """All placements with `least` to `most` distinct experts on each device and every expert somewhere.

    Placements that differ only in the numbers of devices are listed once.
    """
    sets = [held for size in range(least, most + 1) for held in combinations(range(experts), size)]
    for held in combinations_with_replacement(sets, devices):
        if len(set().union(*held)) == experts:
            yield held


def holders(held: Held, experts: int) -> list[set[int]]:
    """The devices of each expert."""
    return [{device for device, here in enumerate(held) if expert in here} for expert in range(experts)]


def routed_total(load: list[list[int]], held: Held) -> int:
    """The sum over batches of the least peak in whole pairs, found by looking at every set of experts."""
    return sum(best_split_peak(batch, holders(held, len(batch))) for batch in load)


def flow_total(load: list[list[int]], held: Held) -> int:
    """The sum over batches of the least peak in whole pairs, found by scipy's flows and halving.

    It is for more experts than `routed_total` can list the sets of.
    """
    devices = len(held)
    return sum(least_feasible(scipy_carries, batch, holders(held, len(batch)), devices) for batch in load)


def least_total(load: list[list[int]], devices: int, slots_per_device: int) -> int | None:
    """The sum of peaks of the best placement, empty slots allowed; None if the experts do not fit."""
    every = placements(len(load[0]), devices, 0, min(slots_per_device, len(load[0])))
    return min((routed_total(load, held) for held in every), default=None)


def drawn_loads(seed: int, experts: int, batches: int, pairs: int, sigma: float, burst: float) -> Ints:
    """Random pairs `[batch, expert]`: experts differ log-normally by sigma, and in each batch again by burst."""
    rng = np.random.default_rng(seed)
    weight = rng.lognormal(0, sigma, experts) * rng.lognormal(0, burst, (batches, experts))
    return np.array([rng.multinomial(pairs, of_batch / of_batch.sum()) for of_batch in weight])
