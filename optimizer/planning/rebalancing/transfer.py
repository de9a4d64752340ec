"""How long weights take from device to device, over the links that tokens use, too."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.cost import Cost
from optimizer.domain.link_paths import UNITS, LinkPaths
from optimizer.domain.mesh import Mesh
from optimizer.domain.network import Network
from optimizer.planning.rebalancing.rounds import Chunk, WeightMove


class LinkUse(NamedTuple):
    """What moves do to one kind of links: how many moves pass such links, and how long the busiest one carries
    weights, summed over rounds, in microseconds."""

    moves: int
    busiest_us: float


@dataclass(frozen=True, eq=False)
class TransferTime:
    """How long moves take: rounds one after another, each as long as its busiest link. by_link: by the kind of link."""

    total_us: float
    by_link: dict[str, LinkUse]


@dataclass(frozen=True, eq=False)
class WeightLinks:
    """The links of a mesh as weights use them: every device sends its own, at the speed of dispatch [inferred].

    expert_us `[link]`: how long the weights of one expert keep a link busy; kind `[link]`: a number of `kinds`.
    """

    network: Network
    paths: LinkPaths
    expert_us: Floats
    kinds: tuple[str, ...]
    kind: Ints

    @classmethod
    def of(cls, mesh: Mesh, cost: Cost, weight_bytes: float) -> "WeightLinks":
        """The links of this hardware, for experts of so many bytes."""
        network = Network(mesh, "device", cost.preset.network.links)
        expert_us = cost.dispatch_message_us(network.remote) * (weight_bytes / cost.preset.dispatch.bytes_per_token)
        kinds, kind = ("inside nodes", "between nodes"), network.remote.astype(np.int64)
        if network.links == "switch":
            kinds = ("at the switch", "")
        elif network.links == "rings":
            kinds = ("along columns", "along rows")
            kind = (np.arange(len(network.remote)) >= network.column_edges).astype(np.int64)
        return cls(network, LinkPaths.of(network), expert_us, kinds, kind)

    def time(self, chunks: Iterable[Chunk]) -> TransferTime:
        """How long the moves of all chunks take, one after another."""
        passing, busiest, total = np.zeros(2, dtype=np.int64), np.zeros(2), 0.0
        for moves in (moves for chunk in chunks for moves in chunk.rounds):
            busy, passes = self._busy(moves)
            peaks = np.array([busy[self.kind == number].max(initial=0.0) for number in range(2)])
            total, busiest, passing = total + float(peaks.max()), busiest + peaks, passing + passes
        use = {
            name: LinkUse(int(passing[number]), float(busiest[number]))
            for number, name in enumerate(self.kinds)
            if passing[number]
        }
        return TransferTime(total, use)

    def _busy(self, moves: Sequence[WeightMove]) -> tuple[Floats, Ints]:
        """How long each link is busy in a round, `[link]` microseconds, and how many moves pass each kind of link."""
        busy, passes = np.zeros(self.paths.links), np.zeros(2, dtype=np.int64)
        for move in moves:
            path = move.target * self.network.mesh.devices + move.source
            entries = slice(self.paths.start[path], self.paths.start[path + 1])
            link = self.paths.link[entries]
            np.add.at(busy, link, self.paths.work[entries] / (2 * UNITS) * self.expert_us[link])
            passes[np.unique(self.kind[link])] += 1
        return busy, passes
