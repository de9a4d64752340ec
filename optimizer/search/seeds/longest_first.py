"""Longest-first packing in a heap: the placement of many thousands of replicas within milliseconds."""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.packing import Packing
from optimizer.search.seeds.risk import holds


def longest_first(problem: Problem, load: Floats, counts: Ints, begun: Ints) -> Placement:
    """A placement with these counts `[expert]`, the heaviest replica first, each on the lightest device that it fits.

    load `[expert]` in any unit, split evenly over replicas. begun `[device, slot]`: the fixed experts, as `Packing`
    places them. Of equally light devices the first is taken. Replicas that find every device with room holding their
    expert come last, and others make way for them.
    """
    each = load / counts
    packing = Packing(problem, each, begun)
    experts = np.flatnonzero(~problem.spread)
    ordered = experts[np.argsort(-each[experts], kind="stable")]
    pack(packing.slots, packing.load, np.repeat(ordered, counts[ordered]), each)
    packing.recount()
    missing = counts[experts] - packing.holds[experts].sum(axis=1)
    for expert in np.repeat(experts, missing):
        packing.place_lightest(int(expert))
    return packing.placement()


@kernel
def pack(slots: Ints, load: Floats, order: Ints, weight: Floats) -> None:
    """Put the experts, in order, into empty slots of the lightest devices that do not hold them yet.

    slots `[device, slot]` and load `[device]` change; order `[replica]` experts; weight `[expert]` of one replica. An
    expert that fits nowhere is passed over. The heap has the devices with room, the lightest at its root.
    """
    heap, size = np.empty(len(slots), dtype=np.int64), 0
    aside = np.empty(len(slots), dtype=np.int64)
    for device in range(len(slots)):
        if _free_slot(slots[device]) >= 0:
            heap[size] = device
            _rise(heap, size, load)
            size += 1
    for expert in order:
        passed = 0
        while size > 0 and holds(slots[heap[0]], expert):
            aside[passed] = heap[0]
            passed += 1
            size -= 1
            heap[0] = heap[size]
            _sink(heap, size, load)
        if size > 0:
            device = heap[0]
            slots[device, _free_slot(slots[device])] = expert
            load[device] += weight[expert]
            if _free_slot(slots[device]) < 0:
                size -= 1
                heap[0] = heap[size]
            _sink(heap, size, load)
        for number in range(passed):
            heap[size] = aside[number]
            _rise(heap, size, load)
            size += 1


@kernel
def _free_slot(held: Ints) -> int:
    """The first empty slot of a device; -1 if it is full."""
    for slot in range(len(held)):
        if held[slot] == EMPTY:
            return slot
    return -1


@kernel
def _before(one: int, other: int, load: Floats) -> bool:
    """Whether a device comes before another: it is lighter, or as light and of a lower number."""
    return bool(load[one] < load[other] or (load[one] == load[other] and one < other))


@kernel
def _rise(heap: Ints, place: int, load: Floats) -> None:
    """Move the device at a place of the heap towards the root until none below it comes before it."""
    while place > 0 and _before(heap[place], heap[(place - 1) // 2], load):
        above = (place - 1) // 2
        heap[place], heap[above] = heap[above], heap[place]
        place = above


@kernel
def _sink(heap: Ints, size: int, load: Floats) -> None:
    """Move the device at the root of a heap of this size away from it until it comes before those below it."""
    place = 0
    while 2 * place + 1 < size:
        below = 2 * place + 1
        if below + 1 < size and _before(heap[below + 1], heap[below], load):
            below += 1
        if not _before(heap[below], heap[place], load):
            return
        heap[place], heap[below] = heap[below], heap[place]
        place = below
