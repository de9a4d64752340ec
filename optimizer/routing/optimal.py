"""The `optimal` policy: the least peak device load of every batch, and at that peak few hops.

Per batch, tile being the tokens of one unit of load (1, or a tile's):

1. each expert's units go where its tokens would go to the nearest replica, or as many of them as it has;
2. `balance.level` moves the fewest units it must until the peak is the least possible;
3. where the first unit of a slot takes another time than further ones, single units move on until the device that
   works longest can pass none to one that would work less; then units are opened that make no device work longer, at
   replicas that tokens are near to and had none to spare;
4. every expert's tokens take the replicas' places, those (source, replica) pairs first that save the most hops against
   the source's next best replica. For two replicas this is the cheapest decomposition, for more a greedy one.

5. while busy links can be relieved, a token goes to another replica that has room for it (`links.relieve`).

The peak is exact; before step 5 the hops are the fewest for the quotas of step 3, with at most two replicas, and in all
about as few as a min-cost flow would find (measured in `benchmarks/routing.py`). Needs the whole batch's loads at run
time.
"""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel
from optimizer.routing.context import RoutingContext
from optimizer.routing.least_peak import Graph, graph, level, mean_peak, scratch_for
from optimizer.routing.link_relief import Ways, relieve


class Lanes(NamedTuple):
    """Every (source, replica) of the replicated experts, best first: those of the i-th replicated expert are lanes
    first[i]:first[i + 1]; source, slot `[lane]`; nearest `[source, expert]` flat slot with the fewest hops."""

    first: Ints
    source: Ints
    slot: Ints
    nearest: Ints


def optimal(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """The replica of each pair, `[batch, token, k]` flat slots; loads in units of `context.tile` tokens."""
    replicas = graph(context.start, context.slot, context.devices, len(context.device_of) // context.devices)
    lanes, ways = _lanes(context, replicas.replicated), Ways.of(context.link_paths)
    return _optimal(experts, source, replicas, lanes, ways, context.devices, context.tile, *context.unit_ns)


def _lanes(context: RoutingContext, replicated: Ints) -> Lanes:
    """Lanes by how much farther the source's next best replica is, the largest advantage first.

    Of equal ones those of `nearest` come first, so that where the peak does not bind all tokens go as they would there.
    """
    first, sources, slots = [0], [], []
    for expert in replicated:
        held = context.slot[context.start[expert] : context.start[expert + 1]]
        hops = context.distance[:, context.device_of[held]]
        best = np.sort(hops, axis=1)
        others = np.where(hops == best[:, :1], best[:, 1:2], best[:, :1])
        elsewhere = held[None] != context.nearest_slot[:, expert, None]
        order = np.lexsort((elsewhere.ravel(), (hops - others).ravel()))
        sources.append(order // len(held))
        slots.append(held[order % len(held)])
        first.append(first[-1] + len(order))
    joined = [np.concatenate(parts or [np.empty(0)]).astype(np.int32) for parts in (sources, slots)]
    return Lanes(np.array(first, dtype=np.int32), joined[0], joined[1], context.nearest_slot)


@kernel
def _optimal(
    experts: Ints,
    source: Ints,
    replicas: Graph,
    lanes: Lanes,
    ways: Ways,
    devices: int,
    tile: int,
    first: int,
    further: int,
) -> Ints:
    batches, tokens, k = experts.shape
    sources, number = lanes.nearest.shape
    chosen = np.empty((batches, tokens, k), dtype=np.int32)
    count = np.empty((number, sources), dtype=np.int32)
    total = np.empty(number, dtype=np.int64)
    quota = np.zeros((sources, len(replicas.device_of)), dtype=np.int32)
    flow = np.empty(len(replicas.device_of), dtype=np.int64)
    want = np.empty(len(replicas.device_of), dtype=np.int64)
    load = np.empty(devices, dtype=np.int64)
    scratch = scratch_for(devices)
    work = np.empty(devices, dtype=np.int64)
    for batch in range(batches):
        count[:] = 0
        for token in range(tokens):
            home = source[batch, token]
            for choice in range(k):
                count[experts[batch, token, choice], home] += 1
        for expert in range(number):
            total[expert] = count[expert].sum()
        _go_nearest(count, total, replicas, lanes.nearest, tile, want, flow, load)
        peak = level(mean_peak(load), replicas, flow, load, scratch)
        _go_nearest(count, total, replicas, lanes.nearest, tile, want, flow, load)
        level(peak, replicas, flow, load, scratch)  # again, with the peak known: moves no unit that may stay
        most = _ease(replicas, peak, first, further, flow, load, work)
        _use_room(replicas, want, peak, most, first, further, tile, flow, load, work)
        _share_out(count, replicas, lanes, flow, tile, quota)
        relieve(quota, flow, count, replicas, ways)
        _serve(experts[batch], source[batch], replicas, quota, chosen[batch])
    return chosen


@kernel
def _go_nearest(
    count: Ints, total: Ints, replicas: Graph, nearest: Ints, tile: int, want: Ints, flow: Ints, load: Ints
) -> None:
    """want `[slot]` tokens that would go to the nearest replica; flow `[slot]` whole units of it, the last ones where
    most tokens are left over; load `[device]` units."""
    start, slot, device_of, _, replicated = replicas
    want[:], flow[:], load[:] = 0, 0, 0
    for expert in range(len(total)):
        if start[expert + 1] - start[expert] == 1:
            flow[slot[start[expert]]] = -(-total[expert] // tile)
            load[device_of[slot[start[expert]]]] += flow[slot[start[expert]]]
    for expert in replicated:
        for home in range(len(nearest)):
            want[nearest[home, expert]] += count[expert, home]
        left = -(-total[expert] // tile)
        for replica in range(start[expert], start[expert + 1]):
            flow[slot[replica]] = want[slot[replica]] // tile
            left -= flow[slot[replica]]
        for _ in range(left):
            best, most = slot[start[expert]], -1
            for replica in range(start[expert], start[expert + 1]):
                over = want[slot[replica]] - tile * flow[slot[replica]]
                if over > most:
                    best, most = slot[replica], over
            flow[best] += 1
        for replica in range(start[expert], start[expert + 1]):
            load[device_of[slot[replica]]] += flow[slot[replica]]


@kernel
def _ease(replicas: Graph, peak: int, first: int, further: int, flow: Ints, load: Ints, work: Ints) -> int:
    """Move single units to where they make the longest work `[device]` shorter, until none does; returns it."""
    work[:] = 0
    for place in range(len(flow)):
        if flow[place] > 0:
            work[replicas.device_of[place]] += first + further * (flow[place] - 1)
    while first != further:
        device = int(work.argmax())
        place, there = _lighter(device, replicas, peak, first, further, flow, load, work)
        if place < 0:
            return int(work[device])
        other = replicas.device_of[there]
        work[device] -= first if flow[place] == 1 else further
        work[other] += first if flow[there] == 0 else further
        flow[place] -= 1
        flow[there] += 1
        load[device] -= 1
        load[other] += 1
    return int(work.max())


@kernel
def _lighter(
    device: int, replicas: Graph, peak: int, first: int, further: int, flow: Ints, load: Ints, work: Ints
) -> tuple[int, int]:
    """A slot of a device, and the other replica of its expert that could take a unit with the least work then; -1 where
    none would work less than the device does."""
    start, slot, device_of, expert_of, _ = replicas
    depth = len(flow) // len(load)
    found, target, least = -1, -1, work[device]
    for place in range(device * depth, (device + 1) * depth):
        expert = expert_of[place]
        if expert < 0 or flow[place] == 0:
            continue
        for replica in range(start[expert], start[expert + 1]):
            there = slot[replica]
            then = work[device_of[there]] + (first if flow[there] == 0 else further)
            if there != place and load[device_of[there]] < peak and then < least:
                found, target, least = place, there, then
    return found, target


@kernel
def _use_room(
    replicas: Graph, want: Ints, peak: int, most: int, first: int, further: int, tile: int, flow: Ints, load: Ints,
    work: Ints,
) -> None:  # fmt: skip
    """Open more units at replicas where more tokens are nearest than the units there hold.

    A device gets such units only while its load stays within the peak and its work within `most`, so both maxima stay.
    """
    start, slot, device_of, _, replicated = replicas
    for expert in replicated:
        for replica in range(start[expert], start[expert + 1]):
            place = slot[replica]
            device = device_of[place]
            missing, room = -(-want[place] // tile) - flow[place], most - work[device]
            opened = min(missing, peak - load[device])
            opening = first if flow[place] == 0 else further
            if opened > 0 and room >= opening:
                opened = min(opened, 1 + (room - opening) // further)
                flow[place] += opened
                load[device] += opened
                work[device] += opening + (opened - 1) * further


@kernel
def _share_out(count: Ints, replicas: Graph, lanes: Lanes, flow: Ints, tile: int, quota: Ints) -> None:
    """quota `[source, slot]`: tokens of each source that each replica serves, within its units. Uses up count."""
    for place in range(len(replicas.replicated)):
        expert = replicas.replicated[place]
        for replica in range(replicas.start[expert], replicas.start[expert + 1]):
            flow[replicas.slot[replica]] *= tile
        for lane in range(lanes.first[place], lanes.first[place + 1]):
            home, there = lanes.source[lane], lanes.slot[lane]
            served = min(count[expert, home], flow[there])
            if served > 0:
                quota[home, there] = served
                count[expert, home] -= served
                flow[there] -= served


@kernel
def _serve(experts: Ints, source: Ints, replicas: Graph, quota: Ints, chosen: Ints) -> None:
    """Pairs in token order take what is left of their source's quota, which ends at zero."""
    start, slot = replicas.start, replicas.slot
    tokens, k = experts.shape
    for token in range(tokens):
        left = quota[source[token]]
        for choice in range(k):
            expert = experts[token, choice]
            replica = start[expert]
            if start[expert + 1] - replica > 1:
                while left[slot[replica]] == 0:
                    replica += 1
                left[slot[replica]] -= 1
            chosen[token, choice] = slot[replica]
