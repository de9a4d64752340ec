"""Messages on rings: when each message arrives.

A message runs along a column and along a row of the mesh, each of which is a ring. Its part on one kind of ring is a
*leg*. Messages that share a ring, a direction and a token may share a *packet*.
"""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.network import BOTH_WAYS, CLIMBS, DESCENDS, NOWHERE, Network
from optimizer.simulation.queueing.lines import line_up
from optimizer.simulation.queueing.messages import collect, deliver, list_messages

AGAINST = np.array([NOWHERE, DESCENDS, CLIMBS, BOTH_WAYS], dtype=np.int32)
"""`[way]`: how a result runs along a ring, by how the message for its token ran there."""


class Leg(NamedTuple):
    """The parts of all paths between sources and devices that run along one kind of ring, columns or rows.

    All `[source, device]` int32: ring, the number of the ring; start, the place on the ring where the leg begins; way,
    how it runs (`network.CLIMBS` and others); hops, how far. There are `rings` rings of `length` places each; `first`
    is the number of the first link of ring 0.
    """

    ring: Ints
    start: Ints
    way: Ints
    hops: Ints
    rings: int
    length: int
    first: int


class Packets(NamedTuple):
    """The packets that run along a leg.

    `[packet]`: edge, the link where the packet starts, counted from the leg's first link; release, when it may start;
    hops, how many links it runs; whole, on how many of these links it is a whole message, before it is half a message.
    of `[message, direction]`: the packet that carries the message, or half of it, in that direction; -1 for none.
    """

    edge: Ints
    whole: Ints
    hops: Ints
    release: Floats
    of: Ints


class Lines(NamedTuple):
    """Which packets wait at which edge of one ring and direction; all int32.

    The packets that start at place p are fresh[start[p] : start[p + 1]], in order of release. done `[packet]`: how many
    hops a packet has run. after `[packet]`: the packet that comes next behind it from the edge before, or -1.
    """

    start: Ints
    fresh: Ints
    done: Ints
    after: Ints


def ring_legs(network: Network) -> tuple[tuple[Leg, Leg], tuple[Leg, Leg]]:
    """The legs of dispatch (along the column, then along the row) and of combine (the row, then the column)."""
    rows, cols = network.mesh.rows, network.mesh.cols
    device = np.arange(network.mesh.devices, dtype=np.int32)
    row, col, sender_col = device // cols, device % cols, network.sender % cols
    (column_way, column_hops), (row_way, row_hops) = network.along_column, network.along_row

    def in_column(start: Ints, way: Ints) -> Leg:
        return Leg(sender_col, _table(start, sender_col), way, column_hops, cols, rows, 0)

    def in_row(start: Ints, way: Ints) -> Leg:
        ring = _table(row, sender_col)
        return Leg(ring, _table(start, sender_col), way, row_hops, rows, cols, network.column_edges)

    out = in_column(network.home_row[:, None], column_way), in_row(sender_col, row_way)
    return out, (in_row(col, AGAINST[row_way]), in_column(row, AGAINST[column_way]))


def _table(values: Ints, like: Ints) -> Ints:
    """The values, broadcast to the shape of `like` `[source, device]`, as an int32 array of its own."""
    return np.broadcast_to(values, like.shape).astype(np.int32, order="C")


@kernel
def on_rings(
    chosen: Ints,
    source: Ints,
    device_of: Ints,
    release: Floats,
    legs: tuple[Leg, Leg],
    multicast: bool,
    per_expert: bool,
    link_us: Floats,
    hop_us: float,
) -> Floats:
    """When the message that carries each pair arrives, `[batch, token, k]` microseconds; a dropped pair: its release.

    chosen (flat slots) and release (when a pair may leave) `[batch, token, k]`, source `[batch, token]`, device_of
    `[slot]`, link_us `[link]`: how long a message keeps each link busy. multicast: whether the messages of one token
    share one packet per ring and direction.
    """
    arrival = release.copy()
    for batch in range(len(chosen)):
        message, token, device = list_messages(chosen[batch], device_of, per_expert)
        time = collect(message, release[batch], len(token))
        group = token if multicast else np.arange(len(token)).astype(np.int32)
        for leg in legs:
            packets = _pack(leg, group, source[batch][token], device, time)
            reached = _run(packets, leg, link_us, hop_us)
            for number in range(len(token)):
                hops = leg.hops[source[batch, token[number]], device[number]]
                for packet in packets.of[number]:
                    if packet >= 0:
                        time[number] = max(time[number], reached[packet, hops])
        deliver(message, time, arrival[batch])
    return arrival


@kernel
def _pack(leg: Leg, group: Ints, home: Ints, device: Ints, release: Floats) -> Packets:
    """Make one packet per group of messages, ring and direction; messages of a group must be neighbours.

    group, home (the source), device and release `[message]`. A packet is a whole message as far as its farthest target
    in this direction that is not the antipode, and half a message from there on to the antipode.
    """
    edge, whole, hops = np.empty((3, 2 * len(group)), dtype=np.int32)
    leaves = np.empty(2 * len(group))
    of = np.full((len(group), 2), -1, dtype=np.int32)
    reach = np.zeros((leg.rings, 4), dtype=np.int32)
    latest = np.full((leg.rings, 2), -1, dtype=np.int32)
    count, first = 0, 0
    while first < len(group):
        last, earlier = first, count
        while last < len(group) and group[last] == group[first]:
            farthest = reach[leg.ring[home[last], device[last]]]
            way = leg.way[home[last], device[last]]
            farthest[way] = max(farthest[way], leg.hops[home[last], device[last]])
            last += 1
        for number in range(first, last):
            ring, way = leg.ring[home[number], device[number]], leg.way[home[number], device[number]]
            for direction in range(2):
                if way != BOTH_WAYS and way != CLIMBS + direction:
                    continue
                if latest[ring, direction] < earlier:
                    edge[count] = (2 * ring + direction) * leg.length + leg.start[home[number], device[number]]
                    whole[count] = reach[ring, CLIMBS + direction]
                    hops[count] = max(whole[count], reach[ring, BOTH_WAYS])
                    leaves[count] = release[number]
                    latest[ring, direction] = count
                    count += 1
                of[number, direction] = latest[ring, direction]
        for number in range(first, last):
            reach[leg.ring[home[number], device[number]]] = 0
        first = last
    return Packets(edge[:count], whole[:count], hops[:count], leaves[:count], of)


@kernel
def _run(packets: Packets, leg: Leg, link_us: Floats, hop_us: float) -> Floats:
    """When each packet has run 0, 1, 2, ... hops, `[packet, hops]`; on a tie the packet of the lower number goes first.

    link_us `[link]`; hop_us: from when a link has carried a message until the message is at its far end.
    """
    places = leg.length
    reached = np.empty((len(packets.edge), places // 2 + 1))
    for packet in range(len(reached)):
        reached[packet, 0] = packets.release[packet]
    start, fresh = line_up(packets.edge, packets.release, 2 * leg.rings * places)
    done, after = np.zeros((2, len(fresh)), dtype=np.int32)
    for line in range(2 * leg.rings):
        first = line * places
        begin = start[first : first + places + 1]
        if begin[0] < begin[places]:
            link = leg.first + first
            lines = Lines(begin, fresh, done, after)
            _go_round(packets, lines, 1 - 2 * (line % 2), link_us[link : link + places], hop_us, reached)
    return reached


@kernel
def _go_round(packets: Packets, lines: Lines, step: int, link_us: Floats, hop_us: float, reached: Floats) -> None:
    """Run the packets of one ring and direction, and write when they get where to reached `[packet, hops]`.

    link_us `[place]`: how long a message keeps the edge after each place busy; step: 1 or -1, from a place to the next.
    Two lines meet at an edge, and each of them is in order already: packets that start at the edge, and packets that
    come from the edge before. The edges are visited in turn. Each serves all packets that come before `bound`, the
    earliest time at which another packet may come from the edge before. It also serves the packet that is `first` of
    all on the ring, which is the only one known to be next where links take no time.
    """
    places = len(link_us)
    start, fresh, done, after = lines
    head, tail = np.full((2, places), -1, dtype=np.int32)
    free, begin = np.full(places, -np.inf), start[:-1].copy()
    soonest, front = np.full(places, np.inf), np.full(places, -1, dtype=np.int32)
    for place in range(places):
        if begin[place] < start[place + 1]:
            front[place] = fresh[begin[place]]
            soonest[place] = reached[front[place], 0]
    place, bound = 0, -np.inf
    while True:
        now, first = np.inf, -1
        for other in range(places):
            if soonest[other] < now or (soonest[other] == now and front[other] < first):
                now, first = soonest[other], front[other]
        if first < 0:
            break
        bound = max(bound, now + link_us[(place - step) % places] / 2 + hop_us)
        for _ in range(places):
            following = (place + step) % places
            while True:
                time, packet = np.inf, -1
                if begin[place] < start[place + 1]:
                    packet = fresh[begin[place]]
                    time = reached[packet, 0]
                if head[place] >= 0:
                    other = head[place]
                    came = reached[other, done[other]]
                    if came < time or (came == time and other < packet):
                        time, packet = came, other
                if time >= bound and packet != first:
                    break
                hop = done[packet]
                if hop == 0:
                    begin[place] += 1
                else:
                    head[place] = after[packet]
                share = 1.0 if hop < packets.whole[packet] else 0.5
                free[place] = max(free[place], time) + share * link_us[place]
                there = free[place] + hop_us
                done[packet] = hop + 1
                reached[packet, hop + 1] = there
                if hop + 1 < packets.hops[packet]:
                    after[packet] = -1
                    if head[following] >= 0:
                        after[tail[following]] = packet
                    else:
                        head[following] = packet
                        if there < soonest[following] or (there == soonest[following] and packet < front[following]):
                            soonest[following], front[following] = there, packet
                    tail[following] = packet
            soonest[place], front[place] = time, packet
            bound = max(free[place], min(time, bound)) + link_us[place] / 2 + hop_us
            place = following
