"""A mutable placement with a split of every train batch's load over the replicas, as even as possible.

The split is integral in parts of a unit (a token or a tile) and kept nearly optimal: `fill` levels the devices of one
expert, which lowers the sum of squared device loads; where that sum is least the peak is least, too. Going over all
replicated experts again and again (`sweep`) leads to the least sum, up to rounding. Every split on the way is feasible,
so the peak held here is an upper bound of the least peak (after moves .1 of a unit above it); `exact_peaks` is exact.

Batches lie in blocks of `LANES`, innermost: each step works on contiguous rows of one block, which stays in cache.
"""

from typing import Any, NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.placement import Placement
from optimizer.routing.least_peak import Graph, graph, least_peak, scratch_for

LANES = 64  # batches of a block: few enough that a block stays in cache, and a whole number of vector registers
PARTS = 64  # parts of a unit, so that rounding is far below what a move changes; fewer where int32 would overflow
MOST_PARTS = 1 << 30  # parts that a batch may have in all, so that sums of two loads still fit into int32
LEAST_KNOWN = 16  # parts that are expected of any expert at least, a quarter of a token: of nothing no part is a share
SETTLE = 120
"""Sweeps for a new state. On the sparse expanders that searches begin from, load passes over many devices and levels
slowly: peaks lie .65 tokens above the least ones after 24 sweeps at 512 tokens, .19 after 48 and .04 after 96. What is
left over makes moves look good that only level more, and a search then ruins its start."""


class SplitState(NamedTuple):
    """A placement with a split of the load of all batches; only searches change it.

    units `[block, expert, lane]` the load of each expert, flow `[block, slot, lane]` what each slot serves, load
    `[block, device, lane]` the sum of flow over a device, peak `[block, lane]` the largest load; all int32 in `parts`
    of a unit.

    Where the split is made by loads that are known beforehand, units are those, and the batch brings others: ratio
    `[block, expert, lane]` float32 is what comes for each part that was expected, served `[block, device, lane]` int32
    what devices then serve, in parts, and peak is the largest of that. Otherwise both have no blocks.

    slots `[device, slot]`, copies `[expert]`, replicas `[expert, device]` flat slots, only the first
    `copies` valid; int64. Lanes beyond the number of batches hold no load.
    """

    units: Ints
    flow: Ints
    load: Ints
    peak: Ints
    ratio: Floats
    served: Ints
    slots: Ints
    copies: Ints
    replicas: Ints
    parts: int

    def placement(self) -> Placement:
        """The placement that the search is at now, as an object of its own that later moves do not change."""
        return Placement(self.slots)

    def copy(self) -> "SplitState":
        """An independent state; units and ratio, which never change, are shared."""
        return self._replace(
            flow=self.flow.copy(),
            load=self.load.copy(),
            peak=self.peak.copy(),
            served=self.served.copy(),
            slots=self.slots.copy(),
            copies=self.copies.copy(),
            replicas=self.replicas.copy(),
        )


def split_of(placement: Placement, units: Ints, known: Floats | None = None) -> SplitState:
    """The state of a valid placement; units `[batch, expert]`: the load of each expert in tokens or tiles.

    known `[batch, expert]`: the loads by which they are split, in the same units; None for the units themselves.
    Batch b is in block b mod blocks, as neighbouring batches are alike and each block is to stand for all.
    """
    batches, experts = units.shape
    devices, depth = placement.slots.shape
    blocks = -(-batches // LANES)
    parts = max(1, min(PARTS, MOST_PARTS // max(1, int(units.sum(axis=1, dtype=np.int64).max(initial=0)))))
    expected = units * parts if known is None else np.maximum(np.rint(known * parts), LEAST_KNOWN)
    ratio, served = np.zeros((0, experts, LANES), dtype=np.float32), 0
    if known is not None:
        ratio, served = _in_blocks(units * parts / expected, np.float32), blocks
    start, slot = placement.replicas(experts)
    replicas = np.full((experts, devices), -1, dtype=np.int64)
    for expert in range(experts):
        replicas[expert, : start[expert + 1] - start[expert]] = slot[start[expert] : start[expert + 1]]
    split = SplitState(
        units=_in_blocks(expected, np.int32),
        flow=np.zeros((blocks, devices * depth, LANES), dtype=np.int32),
        load=np.zeros((blocks, devices, LANES), dtype=np.int32),
        peak=np.zeros((blocks, LANES), dtype=np.int32),
        ratio=ratio,
        served=np.zeros((served, devices, LANES), dtype=np.int32),
        slots=placement.slots.astype(np.int64),
        copies=np.diff(start).astype(np.int64),
        replicas=replicas,
        parts=parts,
    )
    _pour(split)
    sweep(split, SETTLE)
    return split


def _in_blocks(values: Floats | Ints, dtype: type[np.generic]) -> Any:
    """Values `[batch, expert]` as `[block, expert, lane]`; lanes without a batch have zeros."""
    blocks = -(-len(values) // LANES)
    padded = np.zeros((blocks * LANES, values.shape[1]), dtype=dtype)
    padded[: len(values)] = values
    return np.ascontiguousarray(padded.reshape(LANES, blocks, -1).transpose(1, 2, 0))


@kernel
def _pour(split: SplitState) -> None:
    """Send all load of each expert to its first replica."""
    for block in range(len(split.units)):
        for expert in range(len(split.copies)):
            first = split.replicas[expert, 0]
            for lane in range(LANES):
                split.flow[block, first, lane] = split.units[block, expert, lane]
                split.load[block, first // split.slots.shape[1], lane] += split.units[block, expert, lane]


@kernel
def sweep(split: SplitState, times: int) -> None:
    """Level all replicated experts in turn, forwards and backwards alternately, and find the peaks."""
    experts, depth = len(split.copies), split.slots.shape[1]
    copies, replicas = split.copies, split.replicas
    work = np.empty((4, LANES), dtype=np.int32)
    for block in range(len(split.flow)):
        flow, load = split.flow[block], split.load[block]
        for turn in range(times):
            for place in range(experts):
                expert = place if turn % 2 == 0 else experts - 1 - place
                if copies[expert] > 1:
                    fill(flow, load, replicas, expert, copies[expert], depth, 2, work)
        if len(split.ratio) == 0:
            find_peak(block, split.load, split.peak)
        else:
            for device in range(len(split.slots)):
                serve(split, block, device)
            find_peak(block, split.served, split.peak)


@kernel
def serve(split: SplitState, block: int, device: int) -> None:
    """Find what a device serves in the batches of a block where these bring other loads than were expected."""
    depth = split.slots.shape[1]
    ratio, flow, served = split.ratio[block], split.flow[block], split.served[block]
    for lane in range(LANES):
        served[device, lane] = 0
    for place in range(depth):
        expert, slot = split.slots[device, place], device * depth + place
        if expert >= 0:
            for lane in range(LANES):
                served[device, lane] += np.int32(np.float32(flow[slot, lane]) * ratio[expert, lane])


@kernel
def find_peak(block: int, load: Ints, peak: Ints) -> None:
    """Find the peaks of one block; load `[block, device, lane]`, peak `[block, lane]`."""
    for lane in range(LANES):
        peak[block, lane] = load[block, 0, lane]
    for device in range(1, load.shape[1]):
        for lane in range(LANES):
            peak[block, lane] = max(peak[block, lane], load[block, device, lane])


@kernel
def fill(flow: Ints, load: Ints, replicas: Ints, expert: int, copies: int, depth: int, few: int, work: Ints) -> None:
    """Split the load of one expert anew over its replicas, so that the lightest of their devices rise to one level.

    flow `[slot, lane]`, load `[device, lane]`, work `[4, lane]` working memory. Up to `few` replicas are levelled with
    their neighbours in the list only: fast, and exact for two. Rows are indexed, not cut out, because numba counts the
    references to every view of an array, which takes time here.
    """
    if copies > few:
        _fill_many(flow, load, replicas, expert, copies, depth, work)
    else:
        for rank in range(1, copies):
            a, b = replicas[expert, rank - 1], replicas[expert, rank]
            _fill_two(flow, load, a, b, a // depth, b // depth)


@kernel
def _fill_two(flow: Ints, load: Ints, a: int, b: int, at_a: int, at_b: int) -> None:
    """Level two devices: half of their difference changes sides, as far as there is flow of the expert to change."""
    for lane in range(LANES):
        here, there, heavy, light = flow[a, lane], flow[b, lane], load[at_a, lane], load[at_b, lane]
        moved = np.int32(np.int32(light - heavy) >> np.int32(1))
        moved = np.int32(max(min(moved, there), np.int32(-here)))
        flow[a, lane] = here + moved
        flow[b, lane] = there - moved
        load[at_a, lane] = heavy + moved
        load[at_b, lane] = light - moved


@kernel
def _fill_many(flow: Ints, load: Ints, replicas: Ints, expert: int, copies: int, depth: int, work: Ints) -> None:
    """Level the devices of an expert by one step of Newton's method (Michelot 1986) from the devices with a share now.

    The step is exact where those devices are the ones with a share at the end; repeated steps lead to the exact level.
    """
    _take(flow, load, replicas, expert, copies, depth, work)
    _lower(load, replicas, expert, copies, depth, work)
    _give(flow, load, replicas, expert, copies, depth, work)


@kernel
def _take(flow: Ints, load: Ints, replicas: Ints, expert: int, copies: int, depth: int, work: Ints) -> None:
    """Take all flow of an expert away.

    work[0] is then what is to be shared out, and work[1] the mean load of the devices that had a share.
    """
    for lane in range(LANES):
        work[0, lane], work[1, lane], work[3, lane] = 0, 0, 0
    for rank in range(copies):
        slot, device = replicas[expert, rank], replicas[expert, rank] // depth
        for lane in range(LANES):
            here, weight = flow[slot, lane], load[device, lane]
            work[0, lane] += here
            work[1, lane] += weight if here > 0 else np.int32(0)
            work[3, lane] += np.int32(1) if here > 0 else np.int32(0)
            load[device, lane] = weight - here
    for lane in range(LANES):
        sharing = np.float32(max(work[3, lane], np.int32(1)))
        work[1, lane] = np.int32(np.float32(work[1, lane]) / sharing) + np.int32(1)


@kernel
def _lower(load: Ints, replicas: Ints, expert: int, copies: int, depth: int, work: Ints) -> None:
    """Set work[1] to the level at which the devices below the present level would take up all that is shared out."""
    for lane in range(LANES):
        work[2, lane], work[3, lane] = work[0, lane], 0
    for rank in range(copies):
        device = replicas[expert, rank] // depth
        for lane in range(LANES):
            under = load[device, lane] < work[1, lane]
            work[2, lane] += load[device, lane] if under else np.int32(0)
            work[3, lane] += np.int32(1) if under else np.int32(0)
    for lane in range(LANES):
        below = np.float32(max(work[3, lane], np.int32(1)))
        work[1, lane] = np.int32(np.float32(work[2, lane]) / below) + np.int32(1)


@kernel
def _give(flow: Ints, load: Ints, replicas: Ints, expert: int, copies: int, depth: int, work: Ints) -> None:
    """Raise devices to the level in turn; what rounding leaves at the end goes to the first replica."""
    for rank in range(copies):
        slot, device = replicas[expert, rank], replicas[expert, rank] // depth
        for lane in range(LANES):
            given = np.int32(min(max(np.int32(work[1, lane] - load[device, lane]), np.int32(0)), work[0, lane]))
            flow[slot, lane] = given
            load[device, lane] += given
            work[0, lane] -= given
    slot = replicas[expert, 0]
    for lane in range(LANES):
        flow[slot, lane] += work[0, lane]
        load[slot // depth, lane] += work[0, lane]


def exact_peaks(placement: Placement, units: Ints) -> Ints:
    """The exact least peak of each batch under optimal split, `[batch]` units; units `[batch, expert]`."""
    start, slot = placement.replicas(units.shape[1])
    return _exact_peaks(units.astype(np.int64), graph(start, slot, *placement.slots.shape), len(placement.slots))


@kernel
def _exact_peaks(units: Ints, replicas: Graph, devices: int) -> Ints:
    """Find the least peak of each batch; units `[batch, expert]`."""
    found = np.empty(len(units), dtype=np.int64)
    flow, load = np.zeros(len(replicas.device_of), dtype=np.int64), np.zeros(devices, dtype=np.int64)
    scratch = scratch_for(devices)
    for batch in range(len(units)):
        found[batch] = least_peak(units[batch], replicas, flow, load, scratch)
    return found
