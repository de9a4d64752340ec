"""Devices whose slots a large-neighbourhood search frees and fills anew: which ones, and the formulation for that.

The formulation of rows (`formulations.rows`) fills them, with the freed devices as the row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.rows.mesh_row import MeshRow
from optimizer.domain.placement import Placement


class View(NamedTuple):
    """What an order of devices looks at: slots `[device, slot]`, the mesh row `[device]`, whether a device is pinned
    because it holds a spread expert `[device]`, and the load `[device]` in one batch."""

    slots: Ints
    row: Ints
    pinned: Bools
    load: Floats


Order = Callable[[View, np.random.Generator], Ints]
"""Gives the devices that may be freed; the first ones are freed."""


def one_row(view: View, rng: np.random.Generator) -> Ints:
    """All devices of a random mesh row; the only way that frees spread experts, which then stay in their row."""
    return rng.permutation(np.flatnonzero(view.row == rng.choice(view.row)))


def linked(view: View, rng: np.random.Generator) -> Ints:
    """The fullest device, then in turn a device that shares experts with those before it, if there is one."""
    left = rng.permutation(np.flatnonzero(~view.pinned))
    order = left[[view.load[left].argmax()]] if len(left) else left
    while len(left := left[left != order[-1:]]):
        shared = np.isin(view.slots[left], view.slots[order]) & (view.slots[left] >= 0)
        order = np.append(order, left[shared.any(axis=1).argmax()])
    return order


def extremes(view: View, rng: np.random.Generator) -> Ints:
    """The fullest device, the emptiest, the second fullest, the second emptiest, and so on."""
    left = rng.permutation(np.flatnonzero(~view.pinned))
    falling = left[np.argsort(-view.load[left], kind="stable")]
    return np.stack([falling, falling[::-1]], axis=1).ravel()[: len(falling)]


def anywhere(view: View, rng: np.random.Generator) -> Ints:
    """Devices in random order."""
    return rng.permutation(np.flatnonzero(~view.pinned))


WAYS: tuple[tuple[Order, int], ...] = (
    (linked, 3), (linked, 4), (linked, 8), (extremes, 4), (anywhere, 6), (one_row, 8),
)  # fmt: skip
"""Ways of freeing devices, and how many devices each frees; a compromise: more devices allow greater changes
and take the repair longer."""


@dataclass(frozen=True, eq=False)
class Freed:
    """Some devices as a row that is to be filled from a pool of experts.

    devices `[freed]` ascending; names `[member]` the expert behind each member of the pool: first experts that may have
    any number of replicas, then, from `pinned` on, single replicas of spread experts, each with the load that it has
    now, which the row formulation may move but neither drop nor split. slots `[freed, slot]` the members that are in
    them now, -1 for an empty slot.
    """

    devices: Ints
    names: Ints
    pinned: int
    slots: Ints
    row: MeshRow

    @classmethod
    def of(cls, placement: Placement, devices: Ints, spread: Bools, units: Ints, flow: Floats) -> "Freed":
        """Free these devices; the pool is what they hold (with experts from elsewhere in it, results were worse).

        units `[batch, expert]`; flow `[batch, device, slot]` units that each slot serves in the same batches: on other
        devices, what is served for experts outside the pool stays as it is.
        """
        held = placement.slots[devices]
        single = (held >= 0) & spread[held]
        pool = np.unique(held[(held >= 0) & ~single])
        slots = np.where(held >= 0, np.searchsorted(pool, held), -1)
        slots[single] = len(pool) + np.arange(single.sum())
        load = np.concatenate([units[:, pool], flow[:, devices][:, single]], axis=1)
        outside = np.delete(np.arange(len(placement.slots)), devices)
        elsewhere = np.zeros((load.shape[1], len(outside)), dtype=np.bool_)
        elsewhere[: len(pool)] = (placement.slots[None, outside] == pool[:, None, None]).any(axis=2)
        stays = (flow * ~np.isin(placement.slots, pool)).sum(axis=2)[:, outside]
        names = np.append(pool, held[single])
        return cls(devices, names, len(pool), slots, MeshRow(load, elsewhere, stays, *held.shape))

    def is_legal(self, slots: Ints) -> bool:
        """Whether every replica of a spread expert has a slot, and no two of one expert share a device."""
        single = slots >= self.pinned
        places = set(zip(np.nonzero(single)[0].tolist(), self.names[slots[single]].tolist(), strict=True))
        return int(single.sum()) == len(places) == len(self.names) - self.pinned

    def filled(self, placement: Placement, slots: Ints) -> Placement:
        """The placement with these members in the freed slots `[freed, slot]`."""
        changed = placement.slots.copy()
        changed[self.devices] = np.where(slots >= 0, self.names[slots], -1)
        return Placement(changed)
