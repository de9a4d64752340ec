"""Waiting lines, first come first served, as ports, ring edges and devices all have them.

An *item* is whatever waits (a message, packet or job), a *place* whatever serves one item at a time.
"""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel


@kernel
def line_up(place: Ints, time: Floats, places: int) -> tuple[Ints, Ints]:
    """Sort the items at each place by time; items of equal time are in order of their numbers.

    place `[item]`, negative for an item that joins no line; time `[item]`. Returns start `[place + 1]` and item, both
    int32: the line of place p is item[start[p] : start[p + 1]].
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
    """Sort item `[..]` in place by (time, number), with Shell's sort, as lines are short and often in order already."""
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
    """When the service of each item begins, `[item]`, if every place serves one item at a time in order of readiness.

    place `[item]`, negative for an item that waits nowhere, which begins when it is ready. ready (when) and service
    (how long) `[item]` are in one unit of time.
    """
    start, item = line_up(place, ready, places)
    begun = ready.copy()
    for at in range(places):
        free = -np.inf
        for number in item[start[at] : start[at + 1]]:
            begun[number] = max(free, ready[number])
            free = begun[number] + service[number]
    return begun
