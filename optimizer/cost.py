"""Microseconds of dispatch, compute and combine: the only home of the objective.

Kernels count (tokens, tiles, half-tokens on ring edges); this file alone turns counts into time.
"""

from dataclasses import dataclass

import numpy as np

from formulations.arrays import Floats, Ints
from optimizer.presets import HardwarePreset, LinkDispatch

TICKS_PER_US = 10


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

    def slot_ticks(self, most_tokens: int) -> Ints:
        """Compute time of one slot by its load, `[most_tokens + 1]` int64, in ticks of 0.1 us.

        Whole ticks, so that searches and simulator can be compared with ==.
        """
        compute = self.preset.compute
        tiles = self.tiles(np.arange(most_tokens + 1))
        first = round(compute.first_tile_us * TICKS_PER_US)
        further = round(compute.further_tile_us * TICKS_PER_US)
        return np.where(tiles > 0, first + further * (tiles - 1), 0).astype(np.int64)

    def compute_us(self, slot_load: Ints) -> Floats:
        """Compute time of each batch: the slowest device, whose active slots run one after another.

        slot_load `[batch, device, slot]` tokens; returns `[batch]` microseconds.
        """
        ticks = self.slot_ticks(int(slot_load.max(initial=0)))[slot_load]
        slowest: Floats = ticks.sum(axis=2).max(axis=1) / TICKS_PER_US
        return slowest

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
