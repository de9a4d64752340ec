"""The links that results pass on their way from each device back to each source."""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.network import Network
from optimizer.domain.traffic import count_traffic

UNITS = 36  # of half a message on the slowest link: small, so that squares of sums fit, and tells 9:1 and 64:9 apart


class LinkPaths(NamedTuple):
    """Journey source * devices + device passes the links at start[journey] up to start[journey + 1]: link `[entry]`,
    and how long it keeps them busy, work `[entry]`, in `UNITS` of half a message on the slowest link. distance
    `[source, device]` hops; links: how many there are. int64.
    """

    start: Ints
    link: Ints
    work: Ints
    distance: Ints
    links: int

    @classmethod
    def of(cls, network: Network, message_us: Floats | None = None) -> "LinkPaths":
        """Sends one result from every device to every source; message_us `[link]`, None where all links are alike."""
        sources, devices = network.distance.shape
        device = np.tile(np.arange(devices), sources)[:, None, None]
        source = np.repeat(np.arange(sources, dtype=np.int32), devices)[:, None]
        back = count_traffic(device, source, np.arange(devices), network, False, False).back
        slow = np.ones(back.shape[1]) if message_us is None else message_us / max(float(message_us.max()), 1e-12)
        journey, link = np.nonzero(back)
        start = np.searchsorted(journey, np.arange(len(device) + 1))
        work = np.rint(UNITS * back[journey, link] * slow[link]).astype(np.int64)
        return cls(start, link, work, network.distance.astype(np.int64), back.shape[1])

    def passing(self) -> tuple[Ints, Ints]:
        """The link_paths that pass each link: those of link l at first[l] up to first[l + 1], `[entry]`."""
        order = np.argsort(self.link, kind="stable")
        journey = np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))[order]
        return np.searchsorted(self.link[order], np.arange(self.links + 1)), journey
