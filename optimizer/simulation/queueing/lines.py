"""Waiting lines, first come first served: what ports, ring edges and devices have in common."""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel


@kernel
def line_up(place: Ints, time: Floats, places: int) -> tuple[Ints, Ints]:
    """The line at each place by time, ties in order of the items' numbers.

    place `[item]`, negative for an item that joins no line; time `[item]`. Returns start `[place + 1]` and item: the
    line of a place is item[start[place] : start[place + 1]], both int32.
    """
    start = np.zeros(places + 1, dtype=np.int32)
    for number in range(len(place)):
        if place[number] >= 0:
            start[place[number] + 1] += 1
    for at in range(places):
        start[at + 1] += start[at]
    item = np.empty(start[places], dtype=np.int32)
    end = start[:-1].copy()
    for number in range(len(place)):
        at = place[number]
        if at >= 0:
            item[end[at]] = number
            end[at] += 1
    for at in range(places):
        _sort(item[start[at] : start[at + 1]], time)
    return start, item


@kernel
def _sort(item: Ints, time: Floats) -> None:
    """Shell's sort by (time, number): lines are short and often in order already."""
    gap = 1
    while 3 * gap < len(item):
        gap = 3 * gap + 1
    while gap > 0:
        for place in range(gap, len(item)):
            moved = item[place]
            while place >= gap:
                before = item[place - gap]
                if time[before] < time[moved] or (time[before] == time[moved] and before < moved):
                    break
                item[place] = before
                place -= gap
            item[place] = moved
        gap //= 3


@kernel
def serve(place: Ints, ready: Floats, service: Floats, places: int) -> Floats:
    """When each item's service begins, `[item]`, a place serving one at a time; for one at no place when it is ready.

    place `[item]`, negative for none; ready and service `[item]` in any one unit.
    """
    start, item = line_up(place, ready, places)
    begun = ready.copy()
    for at in range(places):
        free = -np.inf
        for number in item[start[at] : start[at + 1]]:
            begun[number] = max(free, ready[number])
            free = begun[number] + service[number]
    return begun
