"""The instance of `recourse`: sampled batches, and a small mesh to place their experts on."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from formulations.batches.replica_routing import holders_of, least_peaks
from formulations.bounds.load import any_placement_bound, static_counts_bound
from formulations.kit.arrays import Ints
from formulations.rows.mesh_row import MeshRow

Devices = tuple[int, ...]
"""A set of devices, in ascending order."""


class RoutedBatches(NamedTuple):
    """The least peak of each batch `[batch]` in whole pairs, and for each batch the devices whose load forces it."""

    peaks: Ints
    forced_by: list[Devices]


@dataclass(frozen=True, eq=False)
class BatchInstance:
    """load `[batch, expert]` in whole pairs, and the number of devices, each with `slots_per_device` slots.

    Raises ValueError for loads of another shape, for negative ones, and for none at all.
    """

    load: Ints
    devices: int
    slots_per_device: int

    def __post_init__(self) -> None:
        if self.load.ndim != 2 or self.load.size == 0 or self.load.min() < 0:
            raise ValueError(f"load {self.load.shape} is no count of pairs [batch, expert]")

    @property
    def slots(self) -> int:
        """Number of expert slots on all devices together."""
        return self.devices * self.slots_per_device

    @cached_property
    def row(self) -> MeshRow:
        """The same instance as a mesh row without experts elsewhere; the floor is the load of a device outside."""
        nowhere = np.zeros((self.load.shape[1], 1), dtype=np.bool_)
        return MeshRow(self.load, nowhere, self.floor[:, None], self.devices, self.slots_per_device)

    @cached_property
    def floor(self) -> Ints:
        """A lower bound on the peak of each batch alone, `[batch]`."""
        return any_placement_bound(self.load, self.devices, self.slots)

    @cached_property
    def least(self) -> int:
        """A lower bound on the sum of the peaks of any one placement."""
        return round(static_counts_bound(self.load, self.devices, self.slots) * len(self.load))

    def routed(self, slots: Ints) -> RoutedBatches:
        """Every batch routed at best, with slots `[device, slot]`."""
        peaks, critical = least_peaks(self.load, holders_of(slots, self.load.shape[1]), "tokens")
        return RoutedBatches(peaks, [each.devices for each in critical])

    def total(self, slots: Ints) -> int:
        """The sum of the least peaks of all batches, with slots `[device, slot]`."""
        return int(self.routed(slots).peaks.sum())
