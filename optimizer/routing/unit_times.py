"""Units of load where a slot takes another time for its first one than for each further one.

The time of a slot is then a staircase whose first step differs, and devices with the same load in units work for
different times. Arrays are those of `least_peak`; first and further: how long a slot takes for a unit; work `[device]`
is the sum over the slots of a device.
"""

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel
from optimizer.routing.least_peak import Graph, Scratch, begin_search


@kernel
def ease(
    replicas: Graph, peak: int, first: int, further: int, flow: Ints, load: Ints, work: Ints, scratch: Scratch
) -> int:
    """Pass single units off the device that works longest, over chains of devices that then work less than it did or no
    longer than before, until there is no such chain.

    So ever fewer devices work for that long. Fills work `[device]` and returns the longest. Loads stay within the peak.
    Nothing moves if first equals further.
    """
    device_of, from_slot, to_slot = replicas.device_of, scratch.from_slot, scratch.to_slot
    work[:] = 0
    for place in range(len(flow)):
        if flow[place] > 0:
            work[device_of[place]] += first + further * (flow[place] - 1)
    while first != further:
        device = int(work.argmax())
        at = _eased(device, replicas, peak, first, further, flow, load, work, scratch)
        if at < 0:
            return int(work[device])
        load[at] += 1
        load[device] -= 1
        while at != device:
            flow[from_slot[at]] -= 1
            work[device_of[from_slot[at]]] -= _unit(flow[from_slot[at]], first, further)
            work[at] += _unit(flow[to_slot[at]], first, further)
            flow[to_slot[at]] += 1
            at = device_of[from_slot[at]]
    return int(work.max())


@kernel
def _unit(units: int, first: int, further: int) -> int:
    """How long a slot with so many units takes for one more."""
    return first if units == 0 else further


@kernel
def _eased(
    device: int, replicas: Graph, peak: int, first: int, further: int, flow: Ints, load: Ints, work: Ints,
    scratch: Scratch,
) -> int:  # fmt: skip
    """The nearest device to which a unit of `device` can be passed over a chain, as of `least_peak.level`, after which
    none is above the peak, and all others on the chain work less than `device` does now, or no longer than before; -1
    if there is none.

    The chain is left in `scratch`.
    """
    start, slot, device_of, expert_of, _ = replicas
    queue, from_slot, to_slot, mark, _ = scratch
    depth, most, best, least = len(flow) // len(load), work[device], -1, work[device]
    stamp = begin_search(device, scratch)
    head, tail = 0, 1
    while head < tail and best < 0:
        at = queue[head]
        head += 1
        taken = 0 if at == device else _unit(flow[to_slot[at]], first, further)
        for place in range(at * depth, (at + 1) * depth):
            expert = expert_of[place]
            if expert < 0 or flow[place] == 0:
                continue
            left = work[at] + taken - _unit(flow[place] - 1, first, further)
            if at != device and left >= most and left > work[at]:
                continue
            for replica in range(start[expert], start[expert + 1]):
                there = device_of[slot[replica]]
                if mark[there] != stamp:
                    mark[there] = stamp
                    from_slot[there], to_slot[there] = place, slot[replica]
                    queue[tail] = there
                    tail += 1
                    then = work[there] + _unit(flow[slot[replica]], first, further)
                    if load[there] < peak and then < least:
                        best, least = there, then
    return best


@kernel
def use_room(
    replicas: Graph, want: Ints, peak: int, most: int, first: int, further: int, tile: int, flow: Ints, load: Ints,
    work: Ints,
) -> None:  # fmt: skip
    """Open more units on every device, at the replica that has least room for the tokens that are nearest to it.

    A device gets units only while its load stays within the peak and its work within `most`, so both maxima stay. Of
    many units several are opened at once.
    """
    depth = len(flow) // len(load)
    for device in range(len(load)):
        place = _tightest(device, replicas, want, most, first, further, tile, flow, work)
        while place >= 0 and load[device] < peak:
            opening = _unit(flow[place], first, further)
            opened = min(-(-(peak - load[device]) // depth), 1 + (most - work[device] - opening) // further)
            flow[place] += opened
            load[device] += opened
            work[device] += opening + (opened - 1) * further
            place = _tightest(device, replicas, want, most, first, further, tile, flow, work)


@kernel
def _tightest(
    device: int, replicas: Graph, want: Ints, most: int, first: int, further: int, tile: int, flow: Ints, work: Ints
) -> int:
    """The slot of a device that has least room for the tokens that are nearest to it, of those with replicas elsewhere
    that can have a unit more; -1 if there is none."""
    depth = len(flow) // len(work)
    found, least = -1, 0
    for place in range(device * depth, (device + 1) * depth):
        room = tile * flow[place] - want[place]
        fits = work[device] + _unit(flow[place], first, further) <= most
        if fits and replicas.expert_of[place] >= 0 and (found < 0 or room < least):
            found, least = place, room
    return found
