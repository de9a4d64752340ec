"""Loads of experts levelled on devices that are all equal, every slot filled, in a few milliseconds and always the
same for the same loads."""

import numpy as np

from formulations.expected_load.greedy_packing import greedy_slots
from formulations.expected_load.load_annealing import FULL, Layout, anneal, layout_of, slots_of
from formulations.expected_load.load_regrouping import regroup
from formulations.expected_load.load_settling import settle
from formulations.kit.arrays import Floats, Ints
from optimizer.streams import Purpose, random_stream

# First and last temperature of the annealing, in squared parts of the bound, its steps per slot, and the part of them
# that changes counts, which matters where one expert is far hotter than the others.
HOT, COLD, STEPS, REPLICAS = 1e-2, 1e-6, 26, 0.2
# Regroupings per device in all, and in vain before a step back. All of these are compromises with time.
TRIES, PATIENCE = 12, 80


def peak_of(load: Floats, slots: Ints) -> float:
    """The largest device load of a placement `[device, slot]` without empty slots; load `[expert]`, split evenly."""
    weight = load / np.bincount(slots.ravel(), minlength=len(load))
    return float(weight[slots].sum(axis=1).max())


def mean_or_heaviest(load: Floats, slots: Ints) -> float:
    """What no placement with the counts of this one goes below: the mean device load, or the heaviest replica."""
    counts = np.bincount(slots.ravel(), minlength=len(load))
    return max(float(load.sum()) / len(slots), float((load / counts).max()))


def level(load: Floats, devices: int, depth: int) -> Ints:
    """A placement `[device, slot]` int64 of loads `[expert]`, whose peak is no higher than the greedy one's.

    Raises ValueError where the experts cannot fill the slots, each once on a device at most.
    """
    greedy = greedy_slots(load, devices, depth)
    bound = mean_or_heaviest(load, greedy)
    if peak_of(load, greedy) <= bound:
        return greedy
    rng = random_stream(Purpose.LEVELLED_ARRAYS)
    layout = _layout(load / bound, greedy)
    anneal(layout, 1.0, STEPS * greedy.size, HOT, COLD, REPLICAS, rng)
    regroup(layout, 1.0, TRIES * devices, PATIENCE * devices, rng)
    return min((slots_of(layout).astype(np.int64), greedy), key=lambda slots: peak_of(load, slots))


def settled_from(load: Floats, slots: Ints, target: float) -> Ints:
    """A placement `[device, slot]` int64 made of a full one without doubles by few changes, towards peaks at the
    target, which may not be reached."""
    if peak_of(load, slots) <= target:
        return slots
    layout = _layout(load / target, slots)
    settle(layout, 1.0, slots.size)
    return slots_of(layout).astype(np.int64)


def _layout(load: Floats, slots: Ints) -> Layout:
    return layout_of(load, slots, np.zeros(len(load), dtype=np.bool_), len(slots), FULL)
