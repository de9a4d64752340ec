"""The least peak device load of one batch for a given placement, exactly, by path reversal.

Loads are counted in units: pairs, or tiles. Each expert's units go to its replicas' devices; the least peak is the
largest `ceil(units(S) / |N(S)|)` over sets S of experts, N(S) being the devices of their replicas (max-flow min-cut;
for tiles the unit semi-matching of Harvey, Ladner, Lovasz and Tamir, J. Algorithms 59, 2006).

Arrays: start `[expert + 1]` and slot `[replica]` as of `Placement.replicas`; device_of `[slot]`; expert_of `[slot]`, -1
where nothing can be moved (an empty slot, or an expert's only replica); flow `[slot]` units that a replica serves; load
`[device]` units.
"""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel

MOST = 1 << 62  # above any load


class Graph(NamedTuple):
    """The replicas of a placement, as the kernels here take them."""

    start: Ints
    slot: Ints
    device_of: Ints
    expert_of: Ints
    replicated: Ints
    """Experts with more than one replica, those with fewer first."""


class Scratch(NamedTuple):
    """Working memory of `level`: queue, from_slot and to_slot `[device]`, mark `[device]` with the number of the last
    search that reached it, and `[1]` the number of searches so far."""

    queue: Ints
    from_slot: Ints
    to_slot: Ints
    mark: Ints
    searches: Ints


def graph(start: Ints, slot: Ints, devices: int, slots_per_device: int) -> Graph:
    """The graph of a placement's replicas."""
    count = np.diff(start)
    expert_of = np.full(devices * slots_per_device, -1, dtype=np.int32)
    expert_of[slot] = np.where(count > 1, np.arange(len(count)), -1).repeat(count)
    several = np.flatnonzero(count > 1)
    replicated = several[np.argsort(count[several], kind="stable")].astype(np.int32)
    device_of = (np.arange(devices * slots_per_device) // slots_per_device).astype(np.int32)
    return Graph(start, slot, device_of, expert_of, replicated)


@kernel
def scratch_for(devices: int) -> Scratch:
    """Fresh working memory."""
    return Scratch(
        np.empty(devices, dtype=np.int32),
        np.empty(devices, dtype=np.int32),
        np.empty(devices, dtype=np.int32),
        np.zeros(devices, dtype=np.int64),
        np.zeros(1, dtype=np.int64),
    )


@kernel
def least_peak(units: Ints, replicas: Graph, flow: Ints, load: Ints, scratch: Scratch) -> int:
    """The least peak for units `[expert]`; flow and load are filled with a split that reaches it."""
    start, slot, device_of, _, replicated = replicas
    flow[:], load[:] = 0, 0
    for expert in range(len(units)):
        if start[expert + 1] - start[expert] == 1:
            only = slot[start[expert]]
            flow[only] = units[expert]
            load[device_of[only]] += units[expert]
    for sweep in range(2):
        for expert in replicated:
            _pour(units[expert], start[expert], start[expert + 1], slot, device_of, flow, load, sweep > 0)
    return level(mean_peak(load), replicas, flow, load, scratch)


@kernel
def mean_peak(load: Ints) -> int:
    """What some device must carry at least: the mean load `[device]`, rounded up."""
    return int(-(-load.sum() // len(load)))


@kernel
def _pour(units: int, first: int, last: int, slot: Ints, device_of: Ints, flow: Ints, load: Ints, again: bool) -> None:
    """Give an expert's units to its replicas so that the lightest of their devices rise to one level.

    again: take back first what they have been given before.
    """
    if again:
        for replica in range(first, last):
            load[device_of[slot[replica]]] -= flow[slot[replica]]
            flow[slot[replica]] = 0
    left = units
    while left > 0:
        low, second, alike = MOST, MOST, 0
        for replica in range(first, last):
            weight = int(load[device_of[slot[replica]]])
            if weight < low:
                low, second, alike = weight, low, 1
            elif weight == low:
                alike += 1
            elif weight < second:
                second = weight
        rise = min(second - low, max(left // alike, 1))
        for replica in range(first, last):
            device = device_of[slot[replica]]
            if load[device] == low and left > 0:
                given = min(rise, left)
                flow[slot[replica]] += given
                load[device] += given
                left -= given


@kernel
def level(peak: int, replicas: Graph, flow: Ints, load: Ints, scratch: Scratch) -> int:
    """Move units along paths of replicas until no load exceeds the least peak that is possible, which is returned.

    peak: a lower bound to start from. A device above it sends units to one below it, over any chain of experts that
    share devices. Where no such device is in reach, those in reach serve nothing but experts that have no replica
    elsewhere, so their mean load is a bound: the peak rises to it, which also proves it.
    """
    device_of = replicas.device_of
    for device in range(len(load)):
        while load[device] > peak:
            lighter, reached = _reach(device, peak, replicas, flow, load, scratch)
            if lighter < 0:
                carried = 0
                for place in range(reached):
                    carried += load[scratch.queue[place]]
                peak = -(-carried // reached)
                continue
            moved = min(load[device] - peak, peak - load[lighter])
            at = lighter
            while at != device:
                moved = min(moved, flow[scratch.from_slot[at]])
                at = device_of[scratch.from_slot[at]]
            at = lighter
            while at != device:
                flow[scratch.from_slot[at]] -= moved
                flow[scratch.to_slot[at]] += moved
                at = device_of[scratch.from_slot[at]]
            load[device] -= moved
            load[lighter] += moved
    return peak


@kernel
def _reach(device: int, peak: int, replicas: Graph, flow: Ints, load: Ints, scratch: Scratch) -> tuple[int, int]:
    """Breadth first from a device along what its replicas could hand over: the first device below the peak, or -1, and
    how many devices were reached, all in the queue."""
    start, slot, device_of, expert_of, _ = replicas
    queue, from_slot, to_slot, mark, searches = scratch
    depth = len(device_of) // len(load)
    searches[0] += 1
    stamp = searches[0]
    mark[device] = stamp
    queue[0] = device
    head, tail = 0, 1
    while head < tail:
        at = queue[head]
        head += 1
        for place in range(at * depth, (at + 1) * depth):
            expert = expert_of[place]
            if expert < 0 or flow[place] == 0:
                continue
            for replica in range(start[expert], start[expert + 1]):
                there = device_of[slot[replica]]
                if mark[there] != stamp:
                    mark[there] = stamp
                    from_slot[there], to_slot[there] = place, slot[replica]
                    if load[there] < peak:
                        return there, tail
                    queue[tail] = there
                    tail += 1
    return -1, tail
