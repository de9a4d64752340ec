"""A mutable placement with a split of every train batch's load over the replicas, as even as possible.

The split is integral in parts of a unit (a token or a tile) and kept nearly optimal: `fill` levels the devices of one
expert, and going over all replicated experts again and again (`sweep`) converges to the split whose sum of squared
device loads is least, which also has the least peak (block coordinate descent on a convex function). Every split that
is on the way is feasible, so the peak held here is an upper bound of the least peak; `balance.least_peak` is exact.

Batches lie in blocks of `LANES`, innermost: each step works on contiguous rows of one block, which stays in cache.
"""

from typing import NamedTuple

import numpy as np

from formulations.arrays import Ints
from formulations.kernels import kernel
from optimizer.placement import Placement
from optimizer.routing.balance import Graph, graph, least_peak, scratch_for

LANES = 64
PARTS = 64  # of a unit, so that what is rounded off is far below what a move changes; fewer where it would not fit
MOST_PARTS = 1 << 30  # that a batch may have
FEW = 4  # replicas
NEWTON = 2  # steps to the level of an expert with many replicas; what is off then is shared out all the same
SETTLE = 24  # sweeps from a split that is far from even


class Split(NamedTuple):
    """units `[block, expert, lane]`, flow `[block, slot, lane]` what each slot serves, load `[block, device, lane]` its
    sum over a device, peak `[block, lane]` the largest load; all int32 in `parts` of a unit. slots `[device, slot]`,
    copies `[expert]`, replicas `[expert, device]` flat slots, only the first `copies` valid; int64.

    Lanes beyond the number of batches hold no load.
    """

    units: Ints
    flow: Ints
    load: Ints
    peak: Ints
    slots: Ints
    copies: Ints
    replicas: Ints
    parts: int

    def placement(self) -> Placement:
        """The current placement."""
        return Placement(self.slots)

    def copy(self) -> "Split":
        """An independent state; units, which never change, are shared."""
        return self._replace(
            flow=self.flow.copy(),
            load=self.load.copy(),
            peak=self.peak.copy(),
            slots=self.slots.copy(),
            copies=self.copies.copy(),
            replicas=self.replicas.copy(),
        )


def split_of(placement: Placement, units: Ints) -> Split:
    """The state of a valid placement; units `[batch, expert]`: what each expert has to do in each batch.

    Batch b is in block b mod blocks, as neighbouring batches are alike and each block is to stand for all.
    """
    batches, experts = units.shape
    devices, depth = placement.slots.shape
    blocks = -(-batches // LANES)
    padded = np.zeros((blocks * LANES, experts), dtype=np.int32)
    parts = max(1, min(PARTS, MOST_PARTS // max(1, int(units.sum(axis=1, dtype=np.int64).max(initial=0)))))
    padded[:batches] = units * parts
    start, slot = placement.replicas(experts)
    replicas = np.full((experts, devices), -1, dtype=np.int64)
    for expert in range(experts):
        replicas[expert, : start[expert + 1] - start[expert]] = slot[start[expert] : start[expert + 1]]
    split = Split(
        units=np.ascontiguousarray(padded.reshape(LANES, blocks, experts).transpose(1, 2, 0)),
        flow=np.zeros((blocks, devices * depth, LANES), dtype=np.int32),
        load=np.zeros((blocks, devices, LANES), dtype=np.int32),
        peak=np.zeros((blocks, LANES), dtype=np.int32),
        slots=placement.slots.astype(np.int64),
        copies=np.diff(start).astype(np.int64),
        replicas=replicas,
        parts=parts,
    )
    _pour(split)
    sweep(split, SETTLE)
    return split


@kernel
def _pour(split: Split) -> None:
    """Everything to the first replica."""
    for block in range(len(split.units)):
        for expert in range(len(split.copies)):
            first = split.replicas[expert, 0]
            for lane in range(LANES):
                split.flow[block, first, lane] = split.units[block, expert, lane]
                split.load[block, first // split.slots.shape[1], lane] += split.units[block, expert, lane]


@kernel
def sweep(split: Split, times: int) -> None:
    """Level all replicated experts in turn, forwards and backwards alternately, and find the peaks."""
    depth, experts = split.slots.shape[1], len(split.copies)
    work = np.empty((4, LANES), dtype=np.int32)
    for block in range(len(split.units)):
        for turn in range(times):
            for place in range(experts):
                expert = place if turn % 2 == 0 else experts - 1 - place
                if split.copies[expert] > 1:
                    fill(
                        split.flow[block], split.load[block], split.replicas[expert], split.copies[expert], depth, work
                    )
        find_peak(split.load[block], split.peak[block])


@kernel
def find_peak(load: Ints, peak: Ints) -> None:
    """peak `[lane]` of load `[device, lane]`."""
    for lane in range(LANES):
        peak[lane] = load[0, lane]
    for device in range(1, len(load)):
        for lane in range(LANES):
            peak[lane] = max(peak[lane], load[device, lane])


@kernel
def fill(flow: Ints, load: Ints, held: Ints, count: int, depth: int, work: Ints) -> None:
    """Split one expert anew over its replicas `held`, so that the lightest of their devices rise to one level.

    flow `[slot, lane]`, load `[device, lane]`, work `[4, lane]`. With a few replicas they are levelled two by two,
    which is faster and in the end as good.
    """
    if count > FEW:
        _fill_many(flow, load, held, count, depth, work)
    else:
        for rank in range(1, count):
            for other in range(rank):
                _fill_two(flow, load, held[other], held[rank], held[other] // depth, held[rank] // depth)


@kernel
def _fill_two(flow: Ints, load: Ints, a: int, b: int, at_a: int, at_b: int) -> None:
    """Half of the difference changes sides, as far as there is flow to change."""
    for lane in range(LANES):
        moved = (load[at_b, lane] - load[at_a, lane]) >> 1
        moved = max(min(moved, flow[b, lane]), -flow[a, lane])
        flow[a, lane] += moved
        flow[b, lane] -= moved
        load[at_a, lane] += moved
        load[at_b, lane] -= moved


@kernel
def _fill_many(flow: Ints, load: Ints, held: Ints, count: int, depth: int, work: Ints) -> None:
    """The level is found by Newton's method from above (Michelot 1986), which drops devices that are higher already."""
    left, level = work[0], work[1]
    for lane in range(LANES):
        left[lane], level[lane] = 0, 0
    for rank in range(count):
        slot, device = held[rank], held[rank] // depth
        for lane in range(LANES):
            left[lane] += flow[slot, lane]
            level[lane] += load[device, lane]
            load[device, lane] -= flow[slot, lane]
    for lane in range(LANES):
        level[lane] = np.int32(np.float32(level[lane]) / np.float32(count))
    for _ in range(NEWTON):
        _lower(load, held, count, depth, work)
    for rank in range(count):
        slot, device = held[rank], held[rank] // depth
        for lane in range(LANES):
            given = min(max(level[lane] + np.int32(1) - load[device, lane], np.int32(0)), left[lane])
            flow[slot, lane] = given
            load[device, lane] += given
            left[lane] -= given
    for lane in range(LANES):
        flow[held[0], lane] += left[lane]
        load[held[0] // depth, lane] += left[lane]


@kernel
def _lower(load: Ints, held: Ints, count: int, depth: int, work: Ints) -> None:
    """The level at which the devices that are below the present one would take up what is left."""
    left, level, total, below = work[0], work[1], work[2], work[3]
    for lane in range(LANES):
        total[lane], below[lane] = left[lane], 0
    for rank in range(count):
        device = held[rank] // depth
        for lane in range(LANES):
            under = load[device, lane] < level[lane]
            total[lane] += load[device, lane] if under else np.int32(0)
            below[lane] += np.int32(1) if under else np.int32(0)
    for lane in range(LANES):
        level[lane] = np.int32(np.float32(total[lane]) / np.float32(max(below[lane], np.int32(1))))


def exact_peaks(placement: Placement, units: Ints) -> Ints:
    """The exact least peak of each batch, `[batch]` units; units `[batch, expert]`."""
    start, slot = placement.replicas(units.shape[1])
    return _exact_peaks(units.astype(np.int64), graph(start, slot, *placement.slots.shape), len(placement.slots))


@kernel
def _exact_peaks(units: Ints, replicas: Graph, devices: int) -> Ints:
    found = np.empty(len(units), dtype=np.int64)
    flow, load = np.zeros(len(replicas.device_of), dtype=np.int64), np.zeros(devices, dtype=np.int64)
    scratch = scratch_for(devices)
    for batch in range(len(units)):
        found[batch] = least_peak(units[batch], replicas, flow, load, scratch)
    return found
