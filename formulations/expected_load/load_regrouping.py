"""Regrouping, which saves the last part of a per cent of the peak: three devices share out nine replicas anew.

An exchange of two replicas changes loads by the difference of two weights, which is often too much or too little,
while three devices of three slots can be filled in 280 ways. The walk goes from regrouping to regrouping. Each must
leave no more load above a target than before, and soon all devices are below it. Then the target is lowered.
"""

from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

from formulations.expected_load.load_annealing import Layout, draw, overload, refresh
from formulations.kit.arrays import Floats, Ints
from formulations.kit.copying import copy
from formulations.kit.kernels import kernel

PICKED = 3  # replicas of each device that take part, at most; with four there would be 5,775 ways instead of 280
LOWER = 0.8  # the part of the distance to the bound that a new target keeps; a compromise, lower ones are often missed
HOT_SHARE = 0.5  # of the tries begin with a device above the target; the others move what is in their way


class Tables(NamedTuple):
    """All ways to share out 3 k items to three devices, in two steps; items 0..k-1 are those of the first device now.

    first `[way, 3 k]` lists item 0 and k - 1 others, for the first device, and then the rest; second `[way, 2 k]`
    shares out the rest to the second and the third device.
    """

    first: Ints
    second: Ints


class Trio(NamedTuple):
    """Three devices and the items that take part: device `[3]`; base `[3]`, the load that stays on each; slot, expert
    and weight `[3 k]` of the items; goes `[3 k]`, the item that comes into each of these slots."""

    device: Ints
    base: Floats
    slot: Ints
    expert: Ints
    weight: Floats
    goes: Ints


@cache
def tables_for(picked: int) -> Tables:
    """All ways for this number of items of each device; the first way of each table leaves all items where they are."""
    others = combinations(range(1, 3 * picked), picked - 1)
    rest = combinations(range(2 * picked), picked)
    return Tables(
        np.array([(0, *some, *sorted(set(range(1, 3 * picked)) - set(some))) for some in others]),
        np.array([(*some, *sorted(set(range(2 * picked)) - set(some))) for some in rest]),
    )


def regroup(layout: Layout, bound: float, tries: int, patience: int, rng: np.random.Generator) -> None:
    """Lower the peak device load towards the bound; after `tries` tries the layout holds the best placement met.

    patience: the number of tries after which a target that is not reached is moved half of the way back to the peak.
    With fewer than three devices nothing is done.
    """
    picked = min(layout.depth, PICKED)
    if len(layout.device) < 3:
        return
    items = np.zeros((3, 3 * picked), dtype=np.int64)
    trio = Trio(np.zeros(3, dtype=np.int64), np.zeros(3), items[0], items[1], np.zeros(3 * picked), items[2])
    _walk(layout, bound, tries, patience, tables_for(picked), trio, rng)


@kernel
def _walk(
    layout: Layout, bound: float, tries: int, patience: int, tables: Tables, trio: Trio, rng: np.random.Generator
) -> None:
    """The walk of `regroup`, with tables and room to work in."""
    best, peak = layout.slots.copy(), layout.device.max()
    target, vain = bound + (peak - bound) * LOWER, 0
    hot = np.flatnonzero(layout.device > target)
    for _ in range(tries):
        if len(hot) == 0:
            copy(layout.slots, best)
            refresh(layout)
            peak = layout.device.max()
            if peak <= bound:
                break
            target, vain = bound + (peak - bound) * LOWER, 0
            hot = np.flatnonzero(layout.device > target)
        elif vain == patience:
            copy(best, layout.slots)
            refresh(layout)
            target, vain = (target + peak) / 2, 0
            hot = np.flatnonzero(layout.device > target)
        vain += 1
        if len(hot) and _drawn(trio, hot, len(layout.device), rng) and _try(layout, target, tables, trio, rng):
            hot = np.flatnonzero(layout.device > target)
    copy(best, layout.slots)
    refresh(layout)


@kernel
def _drawn(trio: Trio, hot: Ints, devices: int, rng: np.random.Generator) -> bool:
    """Draw three devices into the trio; False if two of them are the same."""
    of_hot = rng.random() < HOT_SHARE
    trio.device[0] = hot[draw(len(hot), rng)] if of_hot else draw(devices, rng)
    trio.device[1], trio.device[2] = draw(devices, rng), draw(devices, rng)
    one, two, three = trio.device
    return bool(one != two and two != three and one != three)


@kernel
def _try(layout: Layout, target: float, tables: Tables, trio: Trio, rng: np.random.Generator) -> bool:
    """Regroup three devices in the first way found that leaves no more overload than before, if there is one."""
    picked, total, over = len(trio.slot) // 3, 0.0, 0.0
    for number, device in enumerate(trio.device):
        total += layout.device[device]
        over += overload(layout.device[device], target)
        trio.base[number] = layout.device[device]
        turn = draw(layout.depth, rng)
        for item in range(number * picked, (number + 1) * picked):
            turn = turn + 1 if turn + 1 < layout.depth else 0
            slot = device * layout.depth + turn
            trio.slot[item], trio.expert[item] = slot, layout.slots[slot]
            trio.weight[item] = layout.weight[layout.slots[slot]]
            trio.base[number] -= trio.weight[item]
    high = target + np.sqrt(over)  # a device above this has more overload alone than all three have now
    ways, way = len(tables.first), draw(len(tables.first), rng)
    for _ in range(ways if total <= 3 * high else 0):
        way = way + 1 if way + 1 < ways else 0
        load = trio.base[0]
        for place in range(picked):
            load += trio.weight[tables.first[way, place]]
        if total - 2 * high <= load <= high and _split(layout, target, over, load, total, way, tables, trio):
            return True
    return False


@kernel
def _split(
    layout: Layout, target: float, over: float, load: float, total: float, way: int, tables: Tables, trio: Trio
) -> bool:
    """Share out the items that the first device leaves, if some way makes no more overload than `over` in all."""
    picked = len(trio.slot) // 3
    rest, ways = tables.first[way, picked:], len(tables.second)
    allowed = over - overload(load, target)
    for number in range(ways):
        if way == 0 and number in (0, ways - 1):
            continue  # all items stay, or two devices exchange everything they have
        other = trio.base[1]
        for place in range(picked):
            other += trio.weight[rest[tables.second[number, place]]]
        last = total - load - other
        if overload(other, target) + overload(last, target) <= allowed:
            copy(tables.first[way], trio.goes[:picked])
            for place in range(2 * picked):
                trio.goes[picked + place] = rest[tables.second[number, place]]
            if _moved(layout, trio):
                layout.device[trio.device[0]], layout.device[trio.device[1]] = load, other
                layout.device[trio.device[2]] = last
                return True
    return False


@kernel
def _moved(layout: Layout, trio: Trio) -> bool:
    """Move the items, unless that puts an expert on a device twice or takes a spread one off its device."""
    picked = len(trio.slot) // 3
    for place, item in enumerate(trio.goes):
        if layout.spread[trio.expert[item]] and item // picked != place // picked:
            return False
    for place, item in enumerate(trio.goes):
        layout.slots[trio.slot[place]] = trio.expert[item]
    for device in trio.device:
        if not _distinct(layout, device):
            for place, slot in enumerate(trio.slot):
                layout.slots[slot] = trio.expert[place]
            return False
    return True


@kernel
def _distinct(layout: Layout, device: int) -> bool:
    """Whether a device holds no expert twice."""
    start, empty = device * layout.depth, len(layout.load) - 1
    for one in range(start, start + layout.depth):
        for two in range(start, one):
            if layout.slots[one] == layout.slots[two] and layout.slots[one] != empty:
                return False
    return True
