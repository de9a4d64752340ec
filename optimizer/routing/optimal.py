"""The `optimal` policy: the least peak device load of every batch, and at that peak few hops and evenly used links.

The peak is the load of the fullest device, in units of `tile` tokens. With tile 1 units are token-expert pairs. With
the size of a hardware tile, t tokens of an expert in one slot are ceil(t / tile) units, as a tile that is partly filled
costs as much as a full one. So a unit is room for `tile` tokens: an expert with t tokens in all needs ceil(t / tile)
units, wherever they are, and its tokens can be shared out in many ways within these units. Steps for each batch:

1. The units of each expert are given to its replicas by how many of its tokens have which replica as their nearest
   (`_go_nearest`).
2. `least_peak.level` moves as few units as it can, by path reversal, until the peak is the least possible.
3. If the first unit of a slot takes another time than further ones (the cost of a slot is a staircase), single units
   move on until the device that works longest can pass none on over a chain of devices that would all work less, or no
   longer than before (`unit_times.ease`). Then units are added as far as this makes neither the longest work longer nor
   the peak higher, where replicas have least room for the tokens that are nearest to them (`unit_times.use_room`).
4. Each expert's tokens are given to the units of its replicas. The (source, replica) pairs that save the most hops
   against the source's next best replica choose first (`_share_out`). With two replicas this needs the fewest hops that
   these units allow; with more replicas it is a greedy choice.
5. While busy links can be relieved, tokens go to other replicas that have room for them (`link_relief.relieve`).
6. The pairs of the batch take their slots in token order (`_serve`).

The peak is exact. Before step 5 the hops are about as few as a min-cost flow at this peak would find; the figures are
in benchmarks/README.md. The policy needs the loads of the whole batch at run time.
"""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel
from optimizer.routing.context import RoutingContext
from optimizer.routing.least_peak import Graph, graph, level, mean_peak, scratch_for
from optimizer.routing.link_relief import Ways, relieve
from optimizer.routing.unit_times import ease, use_room


class Lanes(NamedTuple):
    """In which order the (source, replica) pairs, here called lanes, of each replicated expert choose; all int32.

    The lanes of the i-th replicated expert are first[i]..first[i + 1] - 1, the one that saves the most hops first.
    source and slot `[lane]` say what a lane connects. nearest `[source, expert]`: the flat slot with the fewest hops.
    """

    first: Ints
    source: Ints
    slot: Ints
    nearest: Ints


def optimal(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """The flat slot that serves each pair, `[batch, token, k]` int32, so that the peak of each batch is the least.

    experts `[batch, token, k]` and source `[batch, token]` as for all policies; units are `context.tile` tokens.
    """
    replicas = graph(context.start, context.slot, context.devices, len(context.device_of) // context.devices)
    lanes, ways = _lanes(context, replicas.replicated), Ways.of(context.link_paths)
    return _optimal(experts, source, replicas, lanes, ways, context.devices, context.tile, *context.unit_ns)


def _lanes(context: RoutingContext, replicated: Ints) -> Lanes:
    """The lanes of all replicated experts; those that save the most hops against the next best replica come first.

    Of lanes with equal savings those of the `nearest` policy come first: then, where the peak leaves the choice free,
    all tokens go as they would under that policy.
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
    """The policy's kernel: steps 1 to 6 of the module for each batch.

    tile: tokens per unit; first and further: how long a slot takes for its first unit and for each further one.
    """
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
        _go_nearest(count, total, replicas, lanes.nearest, tile, want, flow, load)  # 1
        peak = level(mean_peak(load), replicas, flow, load, scratch)  # 2
        # From a bound below the least peak, units move that could stay. So the peak is only taken from the first
        # levelling, and a second one starts from the nearest replicas again with the peak known.
        _go_nearest(count, total, replicas, lanes.nearest, tile, want, flow, load)
        level(peak, replicas, flow, load, scratch)
        most = ease(replicas, peak, first, further, flow, load, work, scratch)  # 3
        use_room(replicas, want, peak, most, first, further, tile, flow, load, work)
        _share_out(count, replicas, lanes, flow, tile, quota)  # 4
        relieve(quota, flow, count, replicas, ways)  # 5
        _serve(experts[batch], source[batch], replicas, quota, chosen[batch])  # 6
    return chosen


@kernel
def _go_nearest(
    count: Ints, total: Ints, replicas: Graph, nearest: Ints, tile: int, want: Ints, flow: Ints, load: Ints
) -> None:
    """Give every expert's units to its replicas by how many of its tokens are nearest to each of them.

    count `[expert, source]` and total `[expert]` tokens. Filled in: want `[slot]`, the tokens that are nearest to a
    replica; flow `[slot]`, its units; load `[device]`, their sum. A replica gets the units that its tokens fill. The
    units of the expert that are left go, one by one, to the replica with the most tokens that have no unit yet.
    """
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
def _share_out(count: Ints, replicas: Graph, lanes: Lanes, flow: Ints, tile: int, quota: Ints) -> None:
    """Fill quota `[source, slot]`: how many tokens of each source each replica serves, within the units of its flow.

    Tokens that are shared out are taken off count `[expert, source]`. flow `[slot]`, which held units, then holds how
    many more tokens each replica has room for.
    """
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
    """Fill chosen `[token, k]`: each pair, in token order, takes the first replica with quota left for its source.

    Every pair takes one off quota `[source, slot]`, which so ends at zero and is ready for the next batch.
    """
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
