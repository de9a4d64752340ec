"""Relief of busy links: tokens go to other replicas of their experts, as long as that makes the busiest link less busy.

Combine ends when the busiest link has carried its last result. The `optimal` policy has decided how many tokens each
replica serves; here single tokens change to replicas that still have room, so no device gets more units of load. The
load of a link is how long the results on it keep it busy, in the units of `LinkPaths.work`.

A *path* belongs to a pair of source and device and has the number source * devices + device: it consists of the links
that a result passes on its way from the device to the source. Arrays of the kernels: quota `[source, slot]` is how many
tokens of replicated experts a replica serves for a source; room `[slot]` is how many more tokens it may serve.
"""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Bools, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.link_paths import LinkPaths
from optimizer.routing.least_peak import Graph

# A link is busy from this share of the busiest link's load on; tokens whose path has no busy link stay where they are.
# A compromise of time against quality: a lower share looks at more tokens in every sweep.
BUSY = 0.9
# How often `_even_out` goes over all tokens on busy paths. With 3 sweeps the busiest link has .6 messages more at 512
# tokens, with 8 sweeps .2 fewer, at more time.
SWEEPS = 5


class Ways(NamedTuple):
    """`LinkPaths` as the kernels take them, int64, and the load of each link.

    Path p passes the links link[start[p] : start[p + 1]] and keeps each of them busy for work[start[p] : start[p + 1]].
    The paths that pass link l are path[first[l] : first[l + 1]]. load `[link]` is working memory that `relieve` fills.
    """

    start: Ints
    link: Ints
    work: Ints
    first: Ints
    path: Ints
    load: Ints

    @classmethod
    def of(cls, link_paths: LinkPaths) -> "Ways":
        """The same paths with fresh working memory."""
        load = np.zeros(link_paths.links, dtype=np.int64)
        return cls(link_paths.start, link_paths.link, link_paths.work, *link_paths.passing(), load)


@kernel
def relieve(quota: Ints, room: Ints, alone: Ints, replicas: Graph, ways: Ways) -> None:
    """Move single tokens to other replicas of their experts until the busiest link cannot be relieved any more.

    quota `[source, slot]` and room `[slot]` change. alone `[expert, source]` tokens: those of experts with a single
    replica cannot move, but their results are on the links as well; other entries are not read.

    1. All busy links are made less busy at the expense of links that are not, as this makes room for tokens that the
       busiest link has to get rid of.
    2. Then every move takes a token off the busiest link, and makes no other link as busy as that link was.
    """
    _fill_links(quota, alone, replicas, ways)
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
    """Move one token of source `home` from slot `place` to slot `there`, and keep quota, room and link loads right."""
    quota[home, place] -= 1
    quota[home, there] += 1
    room[place] += 1
    room[there] -= 1
    _pass(home * devices + replicas.device_of[place], -1, ways)
    _pass(home * devices + replicas.device_of[there], 1, ways)


@kernel
def _even_out(quota: Ints, room: Ints, replicas: Graph, ways: Ways, devices: int) -> None:
    """Move tokens whose path has a busy link to where the sum of prices is least (`_price`), in a few sweeps."""
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
    """Whether each path passes a busy link, `[path]`."""
    found, limit = np.zeros(len(ways.start) - 1, dtype=np.bool_), BUSY * ways.load.max()
    for link in range(len(ways.load)):
        if ways.load[link] > limit:
            for entry in range(ways.first[link], ways.first[link + 1]):
                found[ways.path[entry]] = True
    return found


@kernel
def _cheaper(
    home: int, expert: int, place: int, room: Ints, most: int, replicas: Graph, ways: Ways, devices: int
) -> int:
    """The slot to which a token of source `home` in slot `place` should move so that prices become least; -1 for none.

    A slot counts if it has room, and if no link on its path gets a load above `most`.
    """
    start, slot, device_of, _, _ = replicas
    here, found = home * devices + device_of[place], -1
    _pass(here, -1, ways)
    least = _price(here, most, ways) * (1 - 1e-9)  # a gain within rounding is none, or tokens might go to and fro
    for replica in range(start[expert], start[expert + 1]):
        there = slot[replica]
        if there != place and room[there] > 0:
            price = _price(home * devices + device_of[there], most, ways)
            if price < least:
                least, found = price, there
    _pass(here, 1, ways)
    return found


@kernel
def _price(path: int, most: int, ways: Ways) -> float:
    """What one token more on a path adds to the sum over all links of (load / most) to the power of 32.

    A power this high stands for the maximum, and yet tells whether links below the maximum get busier. The price is
    infinite if a link would get a load above `most`.
    """
    total, scale = 0.0, 1 / most
    for entry in range(ways.start[path], ways.start[path + 1]):
        load = ways.load[ways.link[entry]]
        if load + ways.work[entry] > most:
            return np.inf
        total += _power(load + ways.work[entry], scale) - _power(load, scale)
    return total


@kernel
def _power(load: int, scale: float) -> float:
    """(load * scale) to the power of 32 by five squarings, as `**` takes several times as long."""
    found = load * scale
    found *= found
    found *= found
    found *= found
    found *= found
    return found * found


@kernel
def _fill_links(quota: Ints, alone: Ints, replicas: Graph, ways: Ways) -> None:
    """Compute the load of all links from scratch."""
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
def _pass(path: int, tokens: int, ways: Ways) -> None:
    """Add the results of `tokens` tokens to the links of a path; a negative number takes results away."""
    for entry in range(ways.start[path], ways.start[path + 1]):
        ways.load[ways.link[entry]] += tokens * ways.work[entry]


@kernel
def _detour(link: int, quota: Ints, room: Ints, replicas: Graph, ways: Ways, devices: int) -> tuple[int, int, int]:
    """The move that takes a token off `link` and keeps the busiest link of its new path as little busy as possible.

    Returns the token's source, its slot and its new slot; -1 for all three if every new path would have a link at least
    as busy as `link` is now.
    """
    start, slot, device_of, expert_of, _ = replicas
    depth = len(device_of) // devices
    least, found = ways.load[link], (-1, -1, -1)
    for entry in range(ways.first[link], ways.first[link + 1]):
        home, device = divmod(ways.path[entry], devices)
        left = False
        for place in range(device * depth, (device + 1) * depth):
            expert = expert_of[place]
            if expert < 0 or quota[home, place] == 0:
                continue
            if not left:
                _pass(ways.path[entry], -1, ways)
                left = True
            for replica in range(start[expert], start[expert + 1]):
                there = slot[replica]
                if there != place and room[there] > 0:
                    busy = _busiest(home * devices + device_of[there], ways)
                    if busy < least:
                        least, found = busy, (home, place, there)
        if left:
            _pass(ways.path[entry], 1, ways)
    return found


@kernel
def _busiest(path: int, ways: Ways) -> int:
    """The largest load on the links of a path if it carried the result of one token more."""
    most = 0
    for entry in range(ways.start[path], ways.start[path + 1]):
        most = max(most, ways.load[ways.link[entry]] + ways.work[entry])
    return most
