"""Microseconds of dispatch, compute and combine: the only home of the objective.

Kernels count (tokens, tiles, half-tokens on ring edges); this file alone turns counts into time.
"""

from dataclasses import dataclass

import numpy as np

from formulations.arrays import Floats, Ints
from optimizer.mesh import Mesh
from optimizer.presets import HardwarePreset, LinkDispatch

NS_PER_US = 1000


@dataclass(frozen=True)
class Cost:
    """The cost model of one hardware preset, `name` being what the user called it."""

    name: str
    preset: HardwarePreset

    @property
    def combine_per_expert(self) -> bool:
        """Whether results travel back one message per (token, expert) instead of per (token, device)."""
        return self.preset.combine.message_per == "expert"

    def tiles(self, load: Ints) -> Ints:
        """Tiles that a slot with this many tokens works through; any shape, same shape back."""
        return -(-load // self.preset.compute.tile_tokens)

    def slot_ns(self, most_tokens: int) -> Ints:
        """Compute time of one slot by its load, `[most_tokens + 1]` int64 nanoseconds.

        Whole nanoseconds, so that searches and simulator can be compared with ==.
        """
        compute = self.preset.compute
        tiles = self.tiles(np.arange(most_tokens + 1))
        first = round(compute.first_tile_us * NS_PER_US)
        further = round(compute.further_tile_us * NS_PER_US)
        return np.where(tiles > 0, first + further * (tiles - 1), 0).astype(np.int64)

    def compute_us(self, slot_load: Ints) -> Floats:
        """Compute time of each batch: the slowest device, whose active slots run one after another.

        slot_load `[batch, device, slot]` tokens; returns `[batch]` microseconds.
        """
        spent = self.slot_ns(int(slot_load.max(initial=0)))[slot_load]
        slowest: Floats = spent.sum(axis=2).max(axis=1) / NS_PER_US
        return slowest

    def message_ns(self, mesh: Mesh) -> int:
        """What one message less on the way back saves in nanoseconds, if all ring edges are used alike.

        A message crosses rows / 4 edges on average (a little less on odd rings), of 2 * rows * cols in all.
        """
        hops = sum(mesh.hops(0, row) for row in range(mesh.rows)) / mesh.rows
        combine = self.preset.combine
        microseconds = combine.bytes_per_token / (combine.gigabytes_per_second * 1e3)
        return round(NS_PER_US * microseconds * hops / (2 * mesh.rows * mesh.cols))

    def dispatch_us(self, edge_halves: Ints) -> Floats:
        """Dispatch time of each batch; edge_halves `[batch, col, direction, row]`, see `simulator.py`."""
        return _busiest_edge_us(self.preset.dispatch, edge_halves)

    def combine_us(self, edge_halves: Ints) -> Floats:
        """Combine time of each batch; edge_halves as for dispatch."""
        return _busiest_edge_us(self.preset.combine, edge_halves)


def _busiest_edge_us(link: LinkDispatch, edge_halves: Ints) -> Floats:
    """Base time plus the busiest edge's tokens (counted in halves, as the antipode splits) over its bandwidth."""
    busiest = edge_halves.max(axis=(1, 2, 3)) / 2
    time: Floats = link.base_us + busiest * link.bytes_per_token / (link.gigabytes_per_second * 1e3)
    return time
