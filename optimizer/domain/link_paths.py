"""The links that results pass on their way from each device back to each source."""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.arrays import given_away
from optimizer.domain.network import Network
from optimizer.domain.traffic import count_traffic

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
        """Send one result from every device to every source, and note which links it passes.

        message_us `[link]` says how long a whole message keeps a link busy; None: all links are equally fast.
        """
        sources, devices = network.distance.shape
        each = np.arange(devices, dtype=np.int32)
        device = np.tile(each, sources)[:, None, None]
        source = given_away(np.repeat(np.arange(sources, dtype=np.int32), devices)[:, None])
        back = count_traffic(device, source, each, network, False, False).back
        slow = np.ones(back.shape[1]) if message_us is None else message_us / max(float(message_us.max()), 1e-12)
        journey, link = map(np.ascontiguousarray, np.nonzero(back))
        start = np.searchsorted(journey, np.arange(len(device) + 1))
        work = np.rint(UNITS * back[journey, link] * slow[link]).astype(np.int64)
        return cls(start, link, work, network.distance.astype(np.int64), back.shape[1])

    def passing(self) -> tuple[Ints, Ints]:
        """Which paths pass a link: for link l those at first[l] up to first[l + 1] of the second array, `[entry]`.

        Returns first `[link + 1]` and the numbers of paths `[entry]`.
        """
        order = np.argsort(self.link, kind="stable")
        journey = np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))[order]
        return np.searchsorted(self.link[order], np.arange(self.links + 1)), journey
