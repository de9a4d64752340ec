"""Relieving busy links: tokens go to another replica of their expert, as long as that makes the peak lower."""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Bools, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.link_paths import LinkPaths
from optimizer.routing.least_peak import Graph

BUSY = 0.9  # of the busiest link's load: tokens on ways with no such link stay
SWEEPS = 5  # over tokens on busy ways; with 3 the busiest link has .6 messages more at 512 tokens, with 8 .2 less


class Ways(NamedTuple):
    """`LinkPaths` as the kernel takes them: start, link, work; and the paths that pass each link, those of link l at
    first[l] up to first[l + 1], journey `[entry]`. load `[link]` is working memory."""

    start: Ints
    link: Ints
    work: Ints
    first: Ints
    journey: Ints
    load: Ints

    @classmethod
    def of(cls, link_paths: LinkPaths) -> "Ways":
        """With working memory of its own."""
        load = np.zeros(link_paths.links, dtype=np.int64)
        return cls(link_paths.start, link_paths.link, link_paths.work, *link_paths.passing(), load)


@kernel
def relieve(quota: Ints, room: Ints, alone: Ints, replicas: Graph, ways: Ways) -> None:
    """Move single tokens until the busiest link cannot be relieved.

    quota `[source, slot]` tokens of replicated experts that each replica serves for a source, and room `[slot]` how
    many more it may serve: both change; alone `[expert, source]` tokens, of which those of experts with one replica
    are on links as well. First all busy links are made less busy at the expense of others, as that makes room for what
    is on the busiest; then every move makes the busiest link less busy, and no other as busy as that was.
    """
    _lay(quota, alone, replicas, ways)
    devices = (len(ways.start) - 1) // len(quota)
    _even_out(quota, room, replicas, ways, devices)
    while True:
        link = int(ways.load.argmax())
        home, place, there = _detour(link, quota, room, replicas, ways, devices)
        if place < 0:
            return
        _move(home, place, there, quota, room, replicas, ways, devices)


@kernel
def _move(
    home: int, place: int, there: int, quota: Ints, room: Ints, replicas: Graph, ways: Ways, devices: int
) -> None:
    """One token from slot to slot."""
    quota[home, place] -= 1
    quota[home, there] += 1
    room[place] += 1
    room[there] -= 1
    _pass(home * devices + replicas.device_of[place], -1, ways)
    _pass(home * devices + replicas.device_of[there], 1, ways)


@kernel
def _even_out(quota: Ints, room: Ints, replicas: Graph, ways: Ways, devices: int) -> None:
    """Move tokens of busy ways to where the sum of prices is least, in a few sweeps over all."""
    start, slot, device_of, _, replicated = replicas
    most = ways.load.max()
    for _ in range(SWEEPS):
        busy, moved = _busy(ways), False
        for home in range(len(quota)):
            for expert in replicated:
                for replica in range(start[expert], start[expert + 1]):
                    place = slot[replica]
                    there = place
                    while there >= 0 and quota[home, place] > 0 and busy[home * devices + device_of[place]]:
                        there = _cheaper(home, expert, place, room, most, replicas, ways, devices)
                        if there >= 0:
                            _move(home, place, there, quota, room, replicas, ways, devices)
                            moved = True
        if not moved:
            return


@kernel
def _busy(ways: Ways) -> Bools:
    """Whether each journey passes a busy link, `[journey]`."""
    found, limit = np.zeros(len(ways.start) - 1, dtype=np.bool_), BUSY * ways.load.max()
    for link in range(len(ways.load)):
        if ways.load[link] > limit:
            for entry in range(ways.first[link], ways.first[link + 1]):
                found[ways.journey[entry]] = True
    return found


@kernel
def _cheaper(
    home: int, expert: int, place: int, room: Ints, most: int, replicas: Graph, ways: Ways, devices: int
) -> int:
    """The slot where a token in `place` makes the prices of links least, without any link above `most`; else -1."""
    start, slot, device_of, _, _ = replicas
    here, found = home * devices + device_of[place], -1
    _pass(here, -1, ways)
    least = _price(here, most, ways) * (1 - 1e-9)
    for replica in range(start[expert], start[expert + 1]):
        there = slot[replica]
        if there != place and room[there] > 0:
            price = _price(home * devices + device_of[there], most, ways)
            if price < least:
                least, found = price, there
    _pass(here, 1, ways)
    return found


@kernel
def _price(journey: int, most: int, ways: Ways) -> float:
    """What one token more adds to the sum over links of the 32nd powers of load / most; infinite where that gets above
    one. So high a power stands for the maximum, and still tells whether links below it get busier."""
    total, scale = 0.0, 1 / most
    for entry in range(ways.start[journey], ways.start[journey + 1]):
        load = ways.load[ways.link[entry]]
        if load + ways.work[entry] > most:
            return np.inf
        total += _power(load + ways.work[entry], scale) - _power(load, scale)
    return total


@kernel
def _power(load: int, scale: float) -> float:
    """Spelt out, as `**` takes several times as long."""
    found = load * scale
    found *= found
    found *= found
    found *= found
    found *= found
    return found * found


@kernel
def _lay(quota: Ints, alone: Ints, replicas: Graph, ways: Ways) -> None:
    """The load of all links, from scratch."""
    start, slot, device_of, _, _ = replicas
    devices = (len(ways.start) - 1) // len(quota)
    ways.load[:] = 0
    for home in range(len(quota)):
        for place in range(quota.shape[1]):
            if quota[home, place] > 0:
                _pass(home * devices + device_of[place], quota[home, place], ways)
        for expert in range(len(alone)):
            if start[expert + 1] - start[expert] == 1 and alone[expert, home] > 0:
                _pass(home * devices + device_of[slot[start[expert]]], alone[expert, home], ways)


@kernel
def _pass(journey: int, tokens: int, ways: Ways) -> None:
    for entry in range(ways.start[journey], ways.start[journey + 1]):
        ways.load[ways.link[entry]] += tokens * ways.work[entry]


@kernel
def _detour(link: int, quota: Ints, room: Ints, replicas: Graph, ways: Ways, devices: int) -> tuple[int, int, int]:
    """The token that leaves a link (source, slot) and the slot where its way is least busy; -1 where there is none
    that is less busy than the link."""
    start, slot, device_of, expert_of, _ = replicas
    depth = len(device_of) // devices
    least, found = ways.load[link], (-1, -1, -1)
    for entry in range(ways.first[link], ways.first[link + 1]):
        home, device = divmod(ways.journey[entry], devices)
        left = False
        for place in range(device * depth, (device + 1) * depth):
            expert = expert_of[place]
            if expert < 0 or quota[home, place] == 0:
                continue
            if not left:
                _pass(ways.journey[entry], -1, ways)
                left = True
            for replica in range(start[expert], start[expert + 1]):
                there = slot[replica]
                if there != place and room[there] > 0:
                    busy = _busiest(home * devices + device_of[there], ways)
                    if busy < least:
                        least, found = busy, (home, place, there)
        if left:
            _pass(ways.journey[entry], 1, ways)
    return found


@kernel
def _busiest(journey: int, ways: Ways) -> int:
    """The largest load on a way with one token more."""
    most = 0
    for entry in range(ways.start[journey], ways.start[journey + 1]):
        most = max(most, ways.load[ways.link[entry]] + ways.work[entry])
    return most
