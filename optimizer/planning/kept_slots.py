"""A new placement with its devices numbered, and their slots ordered, so that most experts stay where they were."""

import numpy as np
from scipy.optimize import linear_sum_assignment

from formulations.kit.arrays import Ints


def renumbered(new: Ints, old: Ints, nodes: int, experts: int) -> Ints:
    """The new placement `[device, slot]` with its devices in another order: that in which most replicas stay.

    With several nodes, nodes are matched first, and then the devices of each.
    Ids of the old placement `[device, slot]` that are no expert's, such as -1, match nothing.
    """
    found = np.empty_like(new)
    now, before = (each.reshape(nodes, -1, new.shape[1]) for each in (new, old))
    place = _matched(_overlap(now.reshape(nodes, -1), before.reshape(nodes, -1), experts))
    parts = found.reshape(nodes, -1, new.shape[1])
    for node, taken in enumerate(place):
        order = _matched(_overlap(now[node], before[taken], experts))
        parts[taken][order] = now[node]
    return found


def _matched(overlap: Ints) -> Ints:
    """The place of each row, `[row]`, in the assignment with the greatest overlap."""
    place: Ints = linear_sum_assignment(overlap, maximize=True)[1]
    return place


def _overlap(new: Ints, old: Ints, experts: int) -> Ints:
    """How many replicas of each row of new ids are of experts that each row of old ids has, `[new row, old row]`."""
    present = np.zeros((experts, len(old)), dtype=np.uint8)
    row, place = np.nonzero((old >= 0) & (old < experts))
    present[old[row, place], row] = 1
    overlap: Ints = present[new].sum(axis=1, dtype=np.int64)
    return overlap


def reordered(new: Ints, old: Ints) -> Ints:
    """The new placement `[device, slot]` with each device's experts in the slots where the old one had them.

    The new placement has no expert twice on a device. Experts that are new on a device take the slots that are left.
    """
    same = new[:, :, None] == old[:, None, :]
    stays, where = same.any(axis=2), same.argmax(axis=2)
    found, taken = np.empty_like(new), np.zeros(new.shape, dtype=np.bool_)
    device, slot = np.nonzero(stays)
    found[device, where[device, slot]] = new[device, slot]
    taken[device, where[device, slot]] = True
    found[~taken] = new[~stays]  # both device by device, and each device has as many of one as of the other
    return found
