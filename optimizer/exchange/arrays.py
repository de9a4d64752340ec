"""From lists of slots to sets of experts on devices and lists of slots of experts, and back."""

import numpy as np

from formulations.kit.arrays import Bools, Ints

EMPTY = -1


def experts_in(table: Ints) -> int:
    """How many experts ids of any shape show: one more than the largest of them, at least 1."""
    return max(1, int(table.max(initial=0)) + 1)


def held(by_rank: Ints, experts: int) -> Bools:
    """Whether each rank holds each expert, `[layer, rank, expert]`. by_rank: ids `[layer, rank, slot]`, all below
    `experts`; negative ones are empty slots."""
    layers, ranks, _ = by_rank.shape
    found = np.zeros((layers, ranks, experts), dtype=np.bool_)
    layer, rank, slot = np.nonzero(by_rank >= 0)
    found[layer, rank, by_rank[layer, rank, slot]] = True
    return found


def slots_of(found: Bools) -> Ints:
    """The experts of each rank in ascending order, `[layer, rank * slots + slot]` int32, from `[layer, rank, expert]`.

    All ranks get as many slots as the fullest one needs; -1 fills those of the others.
    """
    width = max(1, int(found.sum(axis=2).max()))
    order = np.argsort(~found, axis=2, kind="stable")[:, :, :width]
    ids = np.where(np.take_along_axis(found, order, axis=2), order, EMPTY)
    return ids.reshape(len(found), -1).astype(np.int32)


def slots_by_expert(table: Ints, experts: int) -> tuple[Ints, Ints]:
    """The slots of each expert in ascending order, `[layer, expert, copy]` padded with -1, and their numbers
    `[layer, expert]`, both int64, from ids `[layer, slot]`, all from 0 to experts - 1."""
    layers, slots = table.shape
    cell = (np.arange(layers)[:, None] * experts + table).ravel()
    count = np.bincount(cell, minlength=layers * experts)
    order = np.argsort(cell, kind="stable")
    place = np.arange(cell.size) - np.repeat(np.cumsum(count) - count, count)
    found = np.full((layers * experts, max(1, int(count.max()))), EMPTY, dtype=np.int64)
    found[cell[order], place] = order % slots
    return found.reshape(layers, experts, -1), count.reshape(layers, experts)
