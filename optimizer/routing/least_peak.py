"""The least peak device load that any split of one batch among the replicas of a placement can have, exactly.

The peak is the load of the fullest device. Loads are whole numbers of units: token-expert pairs, or tiles. Every expert
has a number of units in the batch, which may be split among the devices of its replicas in any way. With N(S) for the
devices that have a replica of any expert in a set S, those devices must carry units(S) between them, so the peak is at
least ceil(units(S) / |N(S)|). The least peak is the largest of these bounds over all sets S (max-flow min-cut; with
one unit per job it is the semi-matching of Harvey, Ladner, Lovasz and Tamir, J. Algorithms 59, 2006).

*Path reversal* finds it. Start from any split. A device A above the wanted peak may pass a unit of an expert to a
device B that has a replica of the same expert; if B is not below the peak itself, B may pass on a unit of another
expert to C, and so on. Such a chain that ends at a device below the peak lowers the load of A by one unit and leaves
the loads in between as they were. If no chain from A ends below the peak, the devices in reach of A and the experts
that they serve are a set S that proves that the peak must be higher.

Arrays of this module: start `[expert + 1]` and slot `[replica]` are those of `Placement.replicas`; device_of `[slot]`;
expert_of `[slot]` is -1 where nothing can be moved away (an empty slot, or the only replica of an expert); flow
`[slot]` is how many units each replica serves; load `[device]` is their sum on each device.
"""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel

MOST = 1 << 62  # above every load that fits a 64-bit integer sum


class Graph(NamedTuple):
    """The replicas of a placement as the kernels of this module take them; arrays as the module describes them."""

    start: Ints
    slot: Ints
    device_of: Ints
    expert_of: Ints
    replicated: Ints
    """`[number]` int32: the experts that have more than one replica, those with fewer replicas first."""


class Scratch(NamedTuple):
    """Working memory of `level`, allocated once for many batches.

    queue `[device]`: the devices that the breadth-first search has reached, in order. from_slot and to_slot `[device]`:
    over which slots the search came to a device, that is, which replica gives a unit and which takes it. mark
    `[device]`: the number of the last search that reached the device. searches `[1]`: how many searches there were.
    """

    queue: Ints
    from_slot: Ints
    to_slot: Ints
    mark: Ints
    searches: Ints


def graph(start: Ints, slot: Ints, devices: int, slots_per_device: int) -> Graph:
    """The graph of a placement's replicas; start `[expert + 1]` and slot `[replica]` as of `Placement.replicas`."""
    count = np.diff(start)
    expert_of = np.full(devices * slots_per_device, -1, dtype=np.int32)
    expert_of[slot] = np.where(count > 1, np.arange(len(count)), -1).repeat(count)
    several = np.flatnonzero(count > 1)
    replicated = several[np.argsort(count[several], kind="stable")].astype(np.int32)
    device_of = (np.arange(devices * slots_per_device) // slots_per_device).astype(np.int32)
    return Graph(start, slot, device_of, expert_of, replicated)


@kernel
def scratch_for(devices: int) -> Scratch:
    """Fresh working memory for `level`."""
    return Scratch(
        np.empty(devices, dtype=np.int32),
        np.empty(devices, dtype=np.int32),
        np.empty(devices, dtype=np.int32),
        np.zeros(devices, dtype=np.int64),
        np.zeros(1, dtype=np.int64),
    )


@kernel
def least_peak(units: Ints, replicas: Graph, flow: Ints, load: Ints, scratch: Scratch) -> int:
    """The least peak for units `[expert]`; flow `[slot]` and load `[device]` are filled with a split that reaches it.

    The split starts from two sweeps of water-filling, which leave little for path reversal to do.
    """
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
    """The mean of load `[device]`, rounded up: some device must carry at least this much."""
    return int(-(-load.sum() // len(load)))


@kernel
def _pour(units: int, first: int, last: int, slot: Ints, device_of: Ints, flow: Ints, load: Ints, again: bool) -> None:
    """Give an expert's units to its replicas so that the lightest of their devices rise to one level (water-filling).

    The replicas are numbers first..last-1. If `again` is set, units that they were given before are taken back first.
    """
    if again:
        for replica in range(first, last):
            load[device_of[slot[replica]]] -= flow[slot[replica]]
            flow[slot[replica]] = 0
    left = units
    while left > 0:
        low, second, lightest = MOST, MOST, 0  # the two lowest levels, and how many devices are at the lowest
        for replica in range(first, last):
            weight = int(load[device_of[slot[replica]]])
            if weight < low:
                low, second, lightest = weight, low, 1
            elif weight == low:
                lightest += 1
            elif weight < second:
                second = weight
        rise = min(second - low, max(left // lightest, 1))
        for replica in range(first, last):
            device = device_of[slot[replica]]
            if load[device] == low and left > 0:
                given = min(rise, left)
                flow[slot[replica]] += given
                load[device] += given
                left -= given


@kernel
def level(peak: int, replicas: Graph, flow: Ints, load: Ints, scratch: Scratch) -> int:
    """Move units by path reversal until no load exceeds the least peak that is possible, which is returned.

    peak: a lower bound of the least peak to start from. flow `[slot]` and load `[device]` hold a split, which changes.
    A device above the peak passes units to a device below it, over a chain of experts that share devices. If there is
    no such chain, the devices in reach serve only experts that have no replica elsewhere. Their mean load, rounded up,
    is then a lower bound, and the peak rises to it; so the peak that is returned is proved to be the least.
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
def begin_search(device: int, scratch: Scratch) -> int:
    """Begin a search at a device, which is the first that it has reached; returns its number."""
    scratch.searches[0] += 1
    stamp = int(scratch.searches[0])
    scratch.mark[device] = stamp
    scratch.queue[0] = device
    return stamp


@kernel
def _reach(device: int, peak: int, replicas: Graph, flow: Ints, load: Ints, scratch: Scratch) -> tuple[int, int]:
    """Search, breadth first, for a device below the peak to which units of `device` can be passed over a chain.

    A step of the chain leads from a slot that serves units to another replica of its expert. Returns the first device
    below the peak, or -1, and how many devices were reached; these are the first ones in the queue of `scratch`.
    """
    start, slot, device_of, expert_of, _ = replicas
    queue, from_slot, to_slot, mark, _ = scratch
    depth = len(device_of) // len(load)
    stamp = begin_search(device, scratch)
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
