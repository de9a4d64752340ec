"""Which device takes which part of a new placement, and which slot which expert, so that few weights are loaded.

Devices that a placement treats alike may be exchanged. The exchange that keeps most weights where they are is an
assignment problem (Kuhn 1955), which scipy solves.
"""

from collections.abc import Iterator

import numpy as np
from scipy.optimize import linear_sum_assignment

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.placement import EMPTY, Placement


def relabelled(current: Placement, target: Placement, mesh: Mesh) -> Iterator[Placement]:
    """The target as it is, and with its devices exchanged to save most weights: inside whole mesh rows, which keeps
    what travels between rows as it is, and freely. Slots are those of `with_slots_kept`.
    """
    common = _common(current, target)
    orders: list[Ints] = [np.arange(mesh.devices)]
    orders += [_by_rows(common, mesh)] if mesh.rows > 1 and mesh.cols > 1 else []
    orders.append(_assigned(common))
    seen = set()
    for order in orders:
        if order.tobytes() not in seen:
            seen.add(order.tobytes())
            yield with_slots_kept(current, Placement(target.slots[order]))


def with_slots_kept(current: Placement, target: Placement) -> Placement:
    """The target with every expert that stays on its device in its present slot, and the others in the slots that are
    left.

    Servers that count by slot, as SGLang does, then copy nothing inside a device. To which replica tokens go does not
    depend on slots inside a device.
    """
    slots = np.full(current.slots.shape, EMPTY, dtype=np.int32)
    stays = (current.slots[:, :, None] == target.slots[:, None, :]).any(axis=2) & (current.slots != EMPTY)
    slots[stays] = current.slots[stays]
    for device, wanted in enumerate(target.slots):
        new = wanted[~np.isin(wanted, slots[device]) & (wanted != EMPTY)]
        slots[device, np.flatnonzero(~stays[device])[: len(new)]] = new
    return Placement(slots)


def refilled(current: Placement, target: Placement) -> Placement:
    """The target with the present experts in slots that it would empty: many servers want no slot empty, and nothing
    has to be loaded for it."""
    kept = with_slots_kept(current, target).slots
    return Placement(np.where(kept == EMPTY, current.slots, kept))


def _common(current: Placement, target: Placement) -> Ints:
    """How many experts a device of the target has in common with a device of the current placement,
    `[target device, current device]`."""
    experts = int(max(current.slots.max(), target.slots.max())) + 1
    common: Ints = target.held(experts).astype(np.int64) @ current.held(experts).astype(np.int64).T
    return common


def _assigned(common: Ints) -> Ints:
    """Which device of the target goes where, `[device]`, so that most experts stay."""
    target, place = linear_sum_assignment(-common)
    order: Ints = target[np.argsort(place)]
    return order


def _by_rows(common: Ints, mesh: Mesh) -> Ints:
    """As `_assigned`, with whole rows exchanged, and devices inside rows."""
    blocks = common.reshape(mesh.rows, mesh.cols, mesh.rows, mesh.cols).transpose(0, 2, 1, 3)
    inside = np.array([[_assigned(block) for block in row] for row in blocks])
    kept = np.take_along_axis(blocks, inside[:, :, None, :], axis=2)[:, :, 0].sum(axis=2)
    row = _assigned(kept)
    return np.concatenate([row[place] * mesh.cols + inside[row[place], place] for place in range(mesh.rows)])
