"""One layer's placement: which expert lives in which slot."""

from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Bools, Ints
from optimizer.domain.arrays import fitting, frozen

EMPTY = -1


@dataclass(frozen=True, eq=False)
class Placement:
    """slots `[device, slot]` expert ids (int32), -1 = empty. A flat slot number is device * slots + slot.

    The array is copied and made read-only. Raises ValueError where it is not two-dimensional and integral, or holds
    an id below -1 or beyond int32; everything else that can be wrong is said by `violations`.
    """

    slots: Ints

    def __post_init__(self) -> None:
        given = np.asarray(self.slots)
        if given.ndim != 2 or given.dtype.kind not in "iu":
            raise ValueError(f"slots must be integers [device, slot], not {given.dtype} {given.shape}")
        object.__setattr__(self, "slots", frozen(fitting("slots", given, np.int32, lowest=EMPTY)))

    def violations(self, experts: int, devices: int, slots_per_device: int) -> list[str]:
        """Describe every rule that this placement breaks, in a sentence each; none if it may be deployed."""
        if self.slots.shape != (devices, slots_per_device):
            found = f"{self.slots.shape[0]} devices x {self.slots.shape[1]} slots"
            return [f"slot count: {found} instead of {devices} x {slots_per_device}"]
        outside = sorted(set(self.slots[self.slots >= experts].tolist()))
        found_ids = set(self.slots.ravel().tolist())
        missing = [expert for expert in range(experts) if expert not in found_ids]
        faults = []
        if outside:
            faults.append(f"id out of range: {_some(outside)}; ids are 0..{experts - 1}, or -1 for an empty slot")
        if missing:
            faults.append(f"expert without a slot: {_some(missing)}")
        return faults + self._doubled()

    def _doubled(self) -> list[str]:
        """Describe every expert that a device holds twice."""
        ordered = np.sort(self.slots, axis=1)
        same = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != EMPTY)
        where = np.argwhere(same)
        pairs = sorted({(int(device), int(ordered[device, slot])) for device, slot in where})
        return [f"expert {expert} twice on device {device}" for device, expert in pairs]

    def counts(self, experts: int) -> Ints:
        """Count the replicas of each expert, `[expert]`."""
        return np.bincount(self.slots[self.slots != EMPTY], minlength=experts)

    def with_slots(self, slots_per_device: int) -> "Placement":
        """The same placement on devices with so many slots, of which the last are empty."""
        more = slots_per_device - self.slots.shape[1]
        return Placement(np.pad(self.slots, ((0, 0), (0, more)), constant_values=EMPTY)) if more else self

    def weights_to_load(self, before: "Placement") -> int:
        """Count the expert weights that devices must load where this placement follows another of the same shape: the
        pairs of a device and an expert on it that the device did not hold before. In which slot it is does not count.
        """
        there = (self.slots[:, :, None] == before.slots[:, None, :]).any(axis=2)
        return int((~there & (self.slots != EMPTY)).sum())

    def held(self, experts: int) -> Bools:
        """Whether a device holds an expert, `[device, expert]`."""
        found = np.zeros((len(self.slots), experts), dtype=np.bool_)
        device, slot = np.nonzero(self.slots != EMPTY)
        found[device, self.slots[device, slot]] = True
        return found

    def replicas(self, experts: int) -> tuple[Ints, Ints]:
        """Find the flat slots of each expert: expert e has `slot[start[e]:start[e + 1]]`, in ascending order.

        Policies mean this order by a replica's rank; the policy `primary` uses the first. Returns start
        `[expert + 1]` and slot `[replica]`, both int32.
        """
        flat = self.slots.ravel()
        filled = np.flatnonzero(flat != EMPTY)
        order = np.argsort(flat[filled], kind="stable")
        start = np.zeros(experts + 1, dtype=np.int32)
        np.cumsum(self.counts(experts), out=start[1:])
        return start, filled[order].astype(np.int32)


def _some(ids: list[int], most: int = 5) -> str:
    """The first few ids as text, and how many more there are; five make a line that is still easy to read."""
    rest = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(map(str, ids[:most])) + rest
