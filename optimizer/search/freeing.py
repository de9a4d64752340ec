"""Devices whose slots are freed and filled anew: which ones, and the row formulation of what they may hold."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.rows.mesh_row import MeshRow
from optimizer.domain.placement import Placement


class View(NamedTuple):
    """slots `[device, slot]`, the mesh row of each `[device]`, whether it holds a spread expert `[device]`, and the
    load of each `[device]` in one batch."""

    slots: Ints
    row: Ints
    pinned: Bools
    load: Floats


Order = Callable[[View, np.random.Generator], Ints]
"""Devices that may be freed, the first ones first."""


def one_row(view: View, rng: np.random.Generator) -> Ints:
    """All of a mesh row; the only way to free devices with spread experts, which stay in their row then."""
    return rng.permutation(np.flatnonzero(view.row == rng.choice(view.row)))


def linked(view: View, rng: np.random.Generator) -> Ints:
    """The fullest, then those that share experts with the ones before, then the others."""
    left = rng.permutation(np.flatnonzero(~view.pinned))
    order = left[[view.load[left].argmax()]] if len(left) else left
    while len(left := left[left != order[-1:]]):
        shared = np.isin(view.slots[left], view.slots[order]) & (view.slots[left] >= 0)
        order = np.append(order, left[shared.any(axis=1).argmax()])
    return order


def extremes(view: View, rng: np.random.Generator) -> Ints:
    """The fullest and the emptiest in turn."""
    left = rng.permutation(np.flatnonzero(~view.pinned))
    falling = left[np.argsort(-view.load[left], kind="stable")]
    return np.stack([falling, falling[::-1]], axis=1).ravel()[: len(falling)]


def anywhere(view: View, rng: np.random.Generator) -> Ints:
    """At random."""
    return rng.permutation(np.flatnonzero(~view.pinned))


WAYS: tuple[tuple[Order, int], ...] = (
    (linked, 3), (linked, 4), (linked, 8), (extremes, 4), (anywhere, 6), (one_row, 8),
)  # fmt: skip
"""Ways of freeing devices, and how many are freed."""


@dataclass(frozen=True, eq=False)
class Freed:
    """Some devices as a row to fill from a pool.

    devices `[freed]` ascending; names `[member]` the expert behind each member of the pool: first experts that may have
    any number of replicas, then, from `pinned` on, single replicas of spread experts, each with the load that it has
    now, which the row formulation may move but neither drop nor share out. slots `[freed, slot]` the members that are
    there now, -1 = empty.
    """

    devices: Ints
    names: Ints
    pinned: int
    slots: Ints
    row: MeshRow

    @classmethod
    def of(cls, placement: Placement, devices: Ints, spread: Bools, units: Ints, flow: Floats) -> "Freed":
        """The pool is what these devices hold; experts from elsewhere as guests were found to do harm.

        units `[batch, expert]`; flow `[batch, device, slot]` units that each slot serves in the same batches: what is
        not of experts in the pool stays there.
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
        """Whether each replica of a spread expert is there once, and no two of one expert are on one device."""
        single = slots >= self.pinned
        places = set(zip(np.nonzero(single)[0].tolist(), self.names[slots[single]].tolist(), strict=True))
        return int(single.sum()) == len(places) == len(self.names) - self.pinned

    def filled(self, placement: Placement, slots: Ints) -> Placement:
        """The placement with these slots `[freed, slot]` of members."""
        changed = placement.slots.copy()
        changed[self.devices] = np.where(slots >= 0, self.names[slots], -1)
        return Placement(changed)
