"""The instance of `row_placement`: one mesh row to fill, with everything outside it fixed."""

from dataclasses import dataclass, replace

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.rows.row_split import RowSplit, peaks, tail_mean


@dataclass(frozen=True, eq=False)
class MeshRow:
    """One mesh row to fill, and the devices outside it.

    load `[batch, expert]` pairs of the pool, which are the experts that may have replicas in the row; elsewhere
    `[expert, outside]` whether the expert has a replica on that device outside the row; fixed `[batch, outside]` pairs
    that stay on those devices, from experts that are not in the pool. level: 0 for the mean peak over batches, .95 for
    the mean over the worst twentieth of them.
    Raises ValueError where the shapes do not fit, or for a level outside [0, 1).
    """

    load: Ints | Floats
    elsewhere: Bools
    fixed: Ints | Floats
    devices: int
    slots_per_device: int
    level: float = 0.0

    def __post_init__(self) -> None:
        batches, experts = self.load.shape
        if self.elsewhere.shape[0] != experts or self.fixed.shape != (batches, self.elsewhere.shape[1]):
            raise ValueError(f"load {self.load.shape}, elsewhere {self.elsewhere.shape}, fixed {self.fixed.shape}")
        object.__setattr__(self, "level", float(self.level))  # kernels are compiled for floats
        if not 0 <= self.level < 1:
            raise ValueError(f"no batches are in the tail beyond {self.level}")

    @property
    def bound_to_row(self) -> Ints:
        """The pool experts without a replica outside the row."""
        return np.flatnonzero(~self.elsewhere.any(axis=1))

    def violations(self, slots: Ints) -> list[str]:
        """The faults of slots `[device, slot]` of pool experts, one sentence each; empty if there are none."""
        if slots.shape != (self.devices, self.slots_per_device):
            return [f"shape {slots.shape}, not {self.devices} x {self.slots_per_device}"]
        if slots.min(initial=-1) < -1 or slots.max(initial=-1) >= self.load.shape[1]:
            return ["experts that are not in the pool"]
        count = self.there(slots)[:, : self.devices].sum(axis=1)
        found = [f"expert {e} has no replica" for e in self.bound_to_row if count[e] == 0]
        twice = np.bincount(slots[slots >= 0], minlength=len(count)) > count
        return found + [f"expert {e} is on a device twice" for e in np.flatnonzero(twice)]

    def there(self, slots: Ints) -> Bools:
        """Whether an expert has a replica on a device, `[expert, device]`: row devices, then those outside."""
        held = np.zeros((self.load.shape[1], self.devices), dtype=np.bool_)
        device, slot = np.nonzero(slots >= 0)
        held[slots[device, slot], device] = True
        return np.ascontiguousarray(np.concatenate([held, self.elsewhere], axis=1))

    def peaks(self, slots: Ints) -> Floats:
        """The least peak of each batch with these slots, `[batch]`, in parts of pairs; rounded up for whole pairs."""
        return peaks(self.split(), self.there(slots))

    def worth(self, slots: Ints) -> float:
        """The objective with these slots: the tail mean of the peaks."""
        return float(tail_mean(self.peaks(slots), self.level))

    def compact(self) -> "MeshRow":
        """The same row with fewer devices outside: those without a pool expert become one, with the largest load."""
        touched = self.elsewhere.any(axis=0)
        rest = self.fixed[:, ~touched].max(axis=1, initial=0)
        none = np.zeros((len(self.elsewhere), 1), dtype=np.bool_)
        elsewhere = np.concatenate([self.elsewhere[:, touched], none], axis=1)
        return replace(self, elsewhere=elsewhere, fixed=np.concatenate([self.fixed[:, touched], rest[:, None]], axis=1))

    def floor(self) -> Floats:
        """What the peak of each batch does not go below, `[batch]`, whatever is in the row.

        It is the largest of the load that stays on an outside device, the mean of all devices that the pool may use,
        and the mean of the row's devices if they serve the experts alone that no other device can serve.
        """
        used = self.elsewhere.any(axis=0)
        everything = self.load.sum(axis=1) + self.fixed[:, used].sum(axis=1)
        bound = self.load[:, self.bound_to_row].sum(axis=1)
        means = np.maximum(everything / (self.devices + used.sum()), bound / self.devices)
        floor: Floats = np.maximum(means, self.fixed.max(axis=1, initial=0))
        return floor

    def split(self) -> RowSplit:
        """The row for the kernels."""
        fixed = np.concatenate([np.zeros((len(self.load), self.devices)), self.fixed], axis=1)
        load, fixed, floor = (np.ascontiguousarray(part, dtype=np.float64) for part in (self.load, fixed, self.floor()))
        return RowSplit(load, fixed, floor)
