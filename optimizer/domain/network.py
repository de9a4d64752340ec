"""Where tokens live before dispatch, and the links on which they travel to the devices of their experts.

A token starts at a *source*: its mesh row, where its hidden state is on all devices of the row (`tokens = "row"`) or
on the first of them alone ("column"), or one device, the tokens of a row being dealt out to its devices in turn
("device").

Rings. Each column is a ring of rows with two directed edges per neighbouring pair, and so is each row where tokens also
travel along it. Direction 0 climbs: its edge p leads from place p to place p + 1 (mod length); direction 1 descends:
its edge p leads from p to p - 1. A message first runs along the column of the device that sends it, then along the row
of its target; results come back the other way round. What goes to the antipode is sent half either way, so traffic is
counted in half messages.

Switch and nodes. Every device has a port in and a port out, in a fast network (of its node, which is a mesh row, or of
all devices where there is one switch) and in a slow one between nodes.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from formulations.kit.arrays import Bools, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.arrays import given_away
from optimizer.domain.mesh import Mesh

if TYPE_CHECKING:  # what runs beside a server imports this module, and need not wait for pydantic
    from optimizer.domain.presets.schema import NetworkSection

TokensAt = Literal["row", "column", "device"]
"""Where the tokens of a mesh row live before dispatch."""

NOWHERE, CLIMBS, DESCENDS, BOTH_WAYS = 0, 1, 2, 3
"""How a message runs along a ring: it stays, climbs, descends, or goes half in either direction, to the antipode."""


@dataclass(frozen=True)
class Network:
    """The links of a mesh, and where its tokens live.

    tokens, links and hop_us (the latency of one hop in microseconds) mean what they mean in a hardware preset.
    """

    mesh: Mesh
    tokens: TokensAt = "row"
    links: Literal["rings", "switch", "nodes"] = "rings"
    hop_us: float = 0.0

    @classmethod
    def of(cls, mesh: Mesh, preset: "NetworkSection") -> "Network":
        """The network that a hardware preset describes, on this mesh.

        The same arguments give the same object, as its arrays take longer to make than to use.
        """
        return _network(mesh, preset.tokens, preset.links, preset.hop_us)

    @property
    def across(self) -> bool:
        """Whether messages travel along rows too. They do not where tokens are on all devices of their row."""
        return self.links == "rings" and self.tokens != "row"

    @property
    def sources(self) -> int:
        """The number of sources, which are mesh rows or, where each device holds tokens of its own, devices."""
        return self.mesh.devices if self.tokens == "device" else self.mesh.rows

    def source(self, source_row: Ints) -> Ints:
        """The source of each token, `[batch, token]` int32, from its mesh row `[batch, token]`.

        It is read-only as rows of `Batches` are, because kernels are compiled anew for arrays that can be written to.
        Where sources are devices, the tokens of a row are dealt out to the row's devices in turn. `Batches.source_on`
        asks this only where it is not known on which devices tokens live.
        """
        if self.tokens != "device":
            return source_row
        return given_away(source_row * self.mesh.cols + rank_in_row(source_row, self.mesh.rows) % self.mesh.cols)

    def own_tokens(self, source: Ints) -> Ints:
        """How many tokens of its own each device has, `[batch, device]` int64, from the sources `[batch, token]`.

        The tokens of a row that its devices share count as dealt out to them, rounded up.
        """
        batches = len(source)
        places = np.arange(batches)[:, None] * self.sources + source
        count = np.bincount(places.ravel(), minlength=batches * self.sources).reshape(batches, self.sources)
        if self.tokens == "device":
            return count
        shared: Ints = np.repeat(-(-count // self.mesh.cols), self.mesh.cols, axis=1)
        return shared

    @cached_property
    def home_row(self) -> Ints:
        """The mesh row in which each source lies, `[source]` int32."""
        source = np.arange(self.sources, dtype=np.int32)
        return source // self.mesh.cols if self.tokens == "device" else source

    @cached_property
    def sender(self) -> Ints:
        """Which device sends the tokens of a source to a device, `[source, device]` int32."""
        col = np.arange(self.mesh.devices) % self.mesh.cols
        own = {"row": col, "column": 0 * col, "device": 0 * col}[self.tokens]
        first = self.home_row * self.mesh.cols + (np.arange(self.sources) % self.mesh.cols) * (self.tokens == "device")
        sender: Ints = (first[:, None] + own).astype(np.int32)
        return sender

    @cached_property
    def along_column(self) -> tuple[Ints, Ints]:
        """How and how far a message runs along the sender's column, both `[source, device]` int32."""
        target = np.arange(self.mesh.devices) // self.mesh.cols
        return _ring_journey(self.home_row[:, None], target[None], self.mesh.rows)

    @cached_property
    def along_row(self) -> tuple[Ints, Ints]:
        """How and how far a message runs along the target's row, both `[source, device]` int32."""
        target = np.arange(self.mesh.devices) % self.mesh.cols
        return _ring_journey(self.sender % self.mesh.cols, target[None], self.mesh.cols)

    @cached_property
    def distance(self) -> Ints:
        """Hops from a source to a device, `[source, device]` int32.

        On rings every edge is a hop. Elsewhere a device is 0 hops from itself, 1 from those in its node or behind the
        same switch, and 2 from those in another node.
        """
        if self.links == "rings":
            hops: Ints = self.along_column[1] + self.along_row[1]
            return hops
        target = np.arange(self.mesh.devices)
        far: Ints = (self.sender != target).astype(np.int32)
        if self.links == "nodes":
            far += (target // self.mesh.cols)[None] != self.home_row[:, None]
        return far

    @property
    def column_edges(self) -> int:
        """The number of directed edges of all column rings; edge (col * 2 + direction) * rows + row is a link."""
        return 2 * self.mesh.devices

    @cached_property
    def remote(self) -> Bools:
        """Which links belong to the slow network, `[link]`; none does on rings.

        On rings the links are the edges of the columns and then, where messages travel along rows, the edges
        (row * 2 + direction) * cols + col. Elsewhere they are ports: out of each device and into each device in the
        fast network, then the same in the slow one if there are nodes.
        """
        if self.links == "rings":
            return np.zeros(self.column_edges * (2 if self.across else 1), dtype=np.bool_)
        slow = np.repeat([False, True], 2 * self.mesh.devices)
        return slow if self.links == "nodes" else slow[: 2 * self.mesh.devices]

    def link_name(self, link: int) -> str:
        """Describe a link in words, such as `column 3, row 0 to 1`."""
        rows, cols = self.mesh.rows, self.mesh.cols
        if self.links != "rings":
            network, port = divmod(link, 2 * self.mesh.devices)
            way, device = divmod(port, self.mesh.devices)
            where = "between nodes" if network else "inside" if self.links == "nodes" else "at the switch"
            return f"device {device}, {'in' if way else 'out'}, {where}"
        line, length, kind, of = link // rows, rows, "column", "row"
        if link >= self.column_edges:
            link -= self.column_edges
            line, length, kind, of = link // cols, cols, "row", "column"
        start = link % length
        return f"{kind} {line // 2}, {of} {start} to {(start + (-1 if line % 2 else 1)) % length}"


@cache
def _network(mesh: Mesh, tokens: TokensAt, links: Literal["rings", "switch", "nodes"], hop_us: float) -> Network:
    return Network(mesh, tokens, links, hop_us)


def _ring_journey(start: Ints, end: Ints, length: int) -> tuple[Ints, Ints]:
    """In which way (see `NOWHERE`) and how many hops a message runs between places of a ring of this length."""
    climb, descend = (end - start) % length, (start - end) % length
    way = np.where(climb < descend, CLIMBS, np.where(descend < climb, DESCENDS, BOTH_WAYS))
    way = np.where(climb == 0, NOWHERE, way)
    return way.astype(np.int32), np.minimum(climb, descend).astype(np.int32)


@kernel
def rank_in_row(source_row: Ints, rows: int) -> Ints:
    """Count the tokens of the same mesh row that come before a token in its batch, `[batch, token]` int32."""
    rank = np.empty(source_row.shape, dtype=np.int32)
    before = np.empty(rows, dtype=np.int32)
    for batch in range(len(source_row)):
        before[:] = 0
        for token in range(source_row.shape[1]):
            row = source_row[batch, token]
            rank[batch, token] = before[row]
            before[row] += 1
    return rank
