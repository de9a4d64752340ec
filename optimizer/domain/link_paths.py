"""The links that results pass on their way from each device back to each source."""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.network import BOTH_WAYS, CLIMBS, DESCENDS, Network

UNITS = 36
"""How many units of work half a message is on the slowest link. Faster links are rounded to whole units: 36 is large
enough to tell speeds of 9:1 and 64:9 apart, and small enough that squares of sums fit into int64."""


class LinkPaths(NamedTuple):
    """Which links a result passes on its way back, and how long it keeps each of them busy; all arrays int64.

    The path from a device to a source has the number source * devices + device. Its entries are those from start[path]
    up to start[path + 1]: link `[entry]` is a link's number, work `[entry]` how long the link is busy, in `UNITS` of
    half a message on the slowest link. distance `[source, device]` counts hops; links is how many links there are.
    """

    start: Ints
    link: Ints
    work: Ints
    distance: Ints
    links: int

    @classmethod
    def of(cls, network: Network, message_us: Floats | None = None) -> "LinkPaths":
        """The links of all paths, in the order of their numbers on each path.

        message_us `[link]` says how long a whole message keeps a link busy; None: all links are equally fast.
        """
        links = len(network.remote)
        slow = np.ones(links) if message_us is None else message_us / max(float(message_us.max()), 1e-12)
        path, link, halves = _on_rings(network) if network.links == "rings" else _through_ports(network)
        order = np.argsort(path * links + link)
        path, link, halves = path[order], link[order], halves[order]
        start = np.searchsorted(path, np.arange(network.distance.size + 1))
        work = np.rint(UNITS * halves * slow[link]).astype(np.int64)
        return cls(start, link, work, network.distance.astype(np.int64), links)

    def passing(self) -> tuple[Ints, Ints]:
        """Which paths pass a link: for link l those at first[l] up to first[l + 1] of the second array, `[entry]`.

        Returns first `[link + 1]` and the numbers of paths `[entry]`.
        """
        order = np.argsort(self.link, kind="stable")
        journey = np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))[order]
        return np.searchsorted(self.link[order], np.arange(self.links + 1)), journey


def _on_rings(network: Network) -> tuple[Ints, Ints, Ints]:
    """Path, link, and half messages on it, of every link that a path passes on rings, each `[entry]` int64.

    A result runs along the column ring of the device that sends tokens to its device, and then, where tokens travel
    along rows too, along the row ring of its device: opposite to the direction in which its token came.
    """
    mesh, device = network.mesh, np.arange(network.mesh.devices)
    row, col = np.divmod(device, mesh.cols)
    column = _along(*network.along_column, network.sender % mesh.cols, row, mesh.rows)
    if not network.across:
        return column
    path, link, halves = _along(*network.along_row, np.broadcast_to(row, network.distance.shape), col, mesh.cols)
    line = path, link + network.column_edges, halves
    path, link, halves = (np.concatenate(both) for both in zip(column, line, strict=True))
    return path, link, halves


def _along(way: Ints, hops: Ints, ring: Ints, place: Ints, length: int) -> tuple[Ints, Ints, Ints]:
    """As `_on_rings`, along rings of one kind: way, hops and ring `[source, device]`, where the result of a device
    begins, place `[device]`, and the length of a ring."""
    found = []
    for direction, came in enumerate((DESCENDS, CLIMBS)):
        path = np.flatnonzero((way == came) | (way == BOTH_WAYS))
        many = hops.ravel()[path]
        number = np.repeat(path, many)
        step = np.arange(len(number)) - np.repeat(many.cumsum() - many, many)
        at = (place[number % len(place)] + (1 - 2 * direction) * step) % length
        link = (ring.ravel()[number].astype(np.int64) * 2 + direction) * length + at
        found.append((number, link, np.where(way.ravel()[number] == BOTH_WAYS, 1, 2)))
    path, link, halves = (np.concatenate(both) for both in zip(*found, strict=True))
    return path, link, halves


def _through_ports(network: Network) -> tuple[Ints, Ints, Ints]:
    """As `_on_rings`, through ports: out of the device that holds the expert, and into the one that sent the token."""
    devices, far = network.mesh.devices, network.distance.ravel()
    path = np.flatnonzero(far)
    slow = 2 * devices * (far[path].astype(np.int64) - 1)
    link = np.concatenate([slow + path % devices, slow + devices + network.sender.ravel()[path]])
    return np.tile(path, 2), link, np.full(len(link), 2)
