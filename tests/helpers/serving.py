"""Servers as they would route by a `Router`: they know nothing but what it tells them, and loop over pairs in plain
Python. A server takes the experts `[token, k]` and sources `[token]` of a batch, and gives flat slots `[token, k]`.
"""

from collections import Counter, defaultdict

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.routing.context import RoutingContext
from optimizer.runtime.router import Router

Slots = list[list[int]]


class Server:
    """What all servers do: route a batch by what the router says, and tell it what the batch has counted."""

    def __init__(self, router: Router, layer: int, context: RoutingContext) -> None:
        self.router, self.layer, self.sources = router, layer, context.network.sources
        self.depth, self.devices = context.slots_per_device, context.devices
        cut = zip(context.start, context.start[1:], strict=False)
        self.slots = [context.slot[first:last].tolist() for first, last in cut]
        self.begin()

    def begin(self) -> None:
        """What happens once, before the first batch."""

    def route(self, experts: Ints, source: Ints) -> Slots:
        """The slots of a batch."""
        raise NotImplementedError

    def tell(self, experts: Ints, source: Ints, chosen: Slots) -> None:
        """Tell the router of a batch that has run."""
        counts = np.zeros((self.sources, len(self.slots)), dtype=np.int64)
        np.add.at(counts, (source[:, None], experts), 1)
        self.router.observe(self.layer, counts)


class ByTable(Server):
    """Looks up."""

    def route(self, experts: Ints, source: Ints) -> Slots:
        table = self.router.table(self.layer)
        return [[int(table[home, expert]) for expert in token] for home, token in zip(source, experts, strict=True)]


class ByHash(Server):
    """Takes an entry by vLLM's hash of a token's place among those of its source."""

    def route(self, experts: Ints, source: Ints) -> Slots:
        entries, row, chosen = self.router.log2phy(self.layer), Counter[int](), []
        for home, token in zip(source.tolist(), experts, strict=True):
            place = (row[home] * 2654435769 & 0xFFFFFFFF) % entries.shape[1]
            chosen.append([int(entries[expert, place]) for expert in token])
            row[home] += 1
        return chosen


class ByShares(Server):
    """Deals out by weighted round robin; source s begins as if it had dealt out s pairs of each expert."""

    def begin(self) -> None:
        self.credit: dict[tuple[int, int], int] = defaultdict(int)
        share = self.router.shares(self.layer)
        for home in range(self.sources):
            for expert in range(len(self.slots)):
                for _ in range(home):
                    self._deal(home, expert, share.ravel())

    def route(self, experts: Ints, source: Ints) -> Slots:
        share = self.router.shares(self.layer).ravel()
        return [
            [self._deal(home, expert, share) for expert in token]
            for home, token in zip(source.tolist(), experts.tolist(), strict=True)
        ]

    def _deal(self, home: int, expert: int, share: Floats) -> int:
        """Give each slot its share of a credit, in millionths, and let the richest slot pay and serve."""
        slots = self.slots[expert]
        if len(slots) == 1:
            return int(slots[0])
        part = [round(share[slot] * 10**6) for slot in slots]
        for slot, gain in zip(slots, part, strict=True):
            self.credit[home, slot] += gain
        best = max(slots, key=lambda slot: (self.credit[home, slot], -slot))
        self.credit[home, best] -= sum(part)
        return int(best)


class ByDevices(Server):
    """Sends each pair to the device that weighs least for its source."""

    def route(self, experts: Ints, source: Ints) -> Slots:
        weight = self.router.weights(self.layer)
        chosen: Slots = []
        for home, token in zip(source, experts.tolist(), strict=True):
            chosen.append([])
            for expert in token:
                best = min(self.slots[expert], key=lambda slot: (weight[home, slot // self.depth], slot))
                weight[home, best // self.depth] += 1
                chosen[-1].append(best)
        return chosen

    def tell(self, experts: Ints, source: Ints, chosen: Slots) -> None:
        self.router.observe_devices(self.layer, np.bincount(np.ravel(chosen) // self.depth, minlength=self.devices))


SERVERS: dict[str, type[Server]] = {
    "hint": ByShares,
    "hint-table": ByTable,
    "hint-random": ByHash,
    "hint-device": ByDevices,
}
"""A server for each policy that chooses by load hints."""
