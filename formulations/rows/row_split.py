"""The least peak device load of a batch for a given placement, and descent over the placements of one mesh row.

The peak is exact and comes from augmenting paths (Ford and Fulkerson 1956). Experts are served one after the other, up
to a peak that is a lower bound all the time. Where an expert finds no room, all devices that its search reached are
full, and the load on them has nowhere else to go. So the peak must rise by the load that is left, shared out over them.
"""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.kernels import kernel

EPSILON = 1e-9  # fewer pairs than this count as none: sums of floats leave such rests


class RowSplit(NamedTuple):
    """load `[batch, expert]` pairs to serve; fixed `[batch, device]` pairs that stay where they are; floor `[batch]`, a
    lower bound on the peak. All are float64 in C order."""

    load: Floats
    fixed: Floats
    floor: Floats


class SplitScratch(NamedTuple):
    """Working arrays of `least_peak`: flow `[expert, device]` pairs served; room `[device]` up to the peak; copies
    `[expert]` replicas; the search's queue `[expert]`; came_to_expert `[expert]`, the device from which the search
    reached an expert, and came_to_device `[device]`, the expert from which it reached a device."""

    flow: Floats
    room: Floats
    copies: Ints
    queue: Ints
    came_to_expert: Ints
    came_to_device: Ints


class RowGoal(NamedTuple):
    """What a move has to reach: a tail mean at this level below the limit.

    weight `[batch]` of the peaks now in the tail mean; order `[batch]` in which batches are looked at; fresh `[batch]`
    takes the peaks after a move.
    """

    level: float
    limit: float
    weight: Floats
    order: Ints
    fresh: Floats

    @classmethod
    def below(cls, peak: Floats, level: float, split: RowSplit) -> "RowGoal":
        """The goal to be better than these peaks `[batch]`; batches that weigh most above their floor come first."""
        weight = tail_weights(peak, level)
        limit = tail_mean(peak, level) * (1 - 1e-9)
        return cls(level, limit, weight, np.argsort(-weight * (peak - split.floor)), peak.copy())


class Moves(NamedTuple):
    """place `[move]`, a flat slot; other `[move]`, a slot to exchange with, or slots + 1 + the expert to put there."""

    place: Ints
    other: Ints


def work_for(there: Bools) -> SplitScratch:
    """Working arrays for there `[expert, device]`, the devices on which experts have replicas."""
    (experts, devices), whole = there.shape, np.int64
    integers = [np.zeros(size, dtype=whole) for size in (experts, experts, experts, devices)]
    return SplitScratch(np.zeros((experts, devices)), np.zeros(devices), *integers)


@kernel
def least_peak(load: Floats, there: Bools, fixed: Floats, floor: float, work: SplitScratch) -> float:
    """The least peak of one batch: load `[expert]`, there `[expert, device]` where replicas are, fixed `[device]`."""
    peak = _serve_single(load, there, fixed, floor, work)
    for expert in range(len(load)):
        if work.copies[expert] > 1:
            work.flow[expert] = 0.0
            left = _pour(expert, load[expert], there, work)
            while left > EPSILON:
                end, reached = _find_room(expert, there, work)
                if end < 0:
                    peak += left / reached
                    for device in range(len(fixed)):
                        work.room[device] += left / reached
                else:
                    left -= _push(expert, end, left, work)
    return peak


@kernel
def _serve_single(load: Floats, there: Bools, fixed: Floats, floor: float, work: SplitScratch) -> float:
    """Serve the experts with one device, set the room up to the least peak that they allow, and return that peak."""
    for device in range(len(fixed)):
        work.room[device] = -fixed[device]
    for expert in range(len(load)):
        copies, last = 0, -1
        for device in range(len(fixed)):
            if there[expert, device]:
                copies, last = copies + 1, device
        work.copies[expert] = copies
        if copies == 1:
            work.room[last] -= load[expert]
    peak = floor
    for device in range(len(fixed)):
        peak = max(peak, -work.room[device])
    for device in range(len(fixed)):
        work.room[device] += peak
    return peak


@kernel
def _pour(expert: int, left: float, there: Bools, work: SplitScratch) -> float:
    """Fill the devices of an expert, the one with most room first; returns the load that is left."""
    while left > EPSILON:
        best, most = -1, EPSILON
        for device in range(len(work.room)):
            if there[expert, device] and work.room[device] > most:
                best, most = device, work.room[device]
        if best < 0:
            break
        part = min(left, most)
        work.flow[expert, best] += part
        work.room[best] -= part
        left -= part
    return left


@kernel
def _find_room(expert: int, there: Bools, work: SplitScratch) -> tuple[int, int]:
    """A device with room, reached by moving experts served before, or -1; and the number of devices reached."""
    work.came_to_expert[:], work.came_to_device[:] = -1, -1
    work.queue[0], head, tail, reached = expert, 0, 1, 0
    while head < tail:
        mover = work.queue[head]
        head += 1
        for device in range(len(work.room)):
            if not there[mover, device] or work.came_to_device[device] >= 0:
                continue
            work.came_to_device[device] = mover
            reached += 1
            if work.room[device] > EPSILON:
                return device, reached
            for other in range(expert):
                if work.copies[other] > 1 and work.came_to_expert[other] < 0 and work.flow[other, device] > EPSILON:
                    work.came_to_expert[other] = device
                    work.queue[tail] = other
                    tail += 1
    return -1, reached


@kernel
def _push(expert: int, end: int, left: float, work: SplitScratch) -> float:
    """Move as much as fits along the path found, which ends in device `end`; returns how much that was."""
    part: float = min(left, work.room[end])
    device = end
    while work.came_to_device[device] != expert:
        mover = work.came_to_device[device]
        device = work.came_to_expert[mover]
        part = min(part, work.flow[mover, device])
    work.room[end] -= part
    device = end
    while work.came_to_device[device] != expert:
        mover = work.came_to_device[device]
        work.flow[mover, device] += part
        device = work.came_to_expert[mover]
        work.flow[mover, device] -= part
    work.flow[expert, device] += part
    return part


def peaks(split: RowSplit, there: Bools) -> Floats:
    """The least peak of every batch, `[batch]`, with replicas at there `[expert, device]`."""
    found = np.empty(len(split.load))
    _peaks(split, there, work_for(there), found)
    return found


@kernel
def _peaks(split: RowSplit, there: Bools, work: SplitScratch, found: Floats) -> None:
    """Write the least peak of every batch into found `[batch]`."""
    for batch in range(len(found)):
        found[batch] = least_peak(split.load[batch], there, split.fixed[batch], split.floor[batch], work)


@kernel
def tail_mean(peak: Floats, level: float) -> float:
    """Conditional value at risk: the mean of the worst 1 - level share of batches; level 0.0 means all of them.

    It is the least, over all starts, of start + (mean excess over start) / (1 - level) (Rockafellar and Uryasev 2000),
    and one of the peaks is such a start.
    """
    best = np.inf
    for start in peak:
        beyond = 0.0
        for value in peak:
            beyond += max(value - start, 0.0)
        best = min(best, start + beyond / ((1.0 - level) * len(peak)))
    return best


def tail_weights(peak: Floats, level: float) -> Floats:
    """Weights `[batch]` with which `tail_mean` sums these peaks; with them, other peaks sum up to their own at most."""
    share = (1 - level) * len(peak)
    weight = np.empty(len(peak))
    weight[np.argsort(-peak)] = np.clip(share - np.arange(len(peak)), 0, 1) / share
    return weight


@kernel
def find_better(
    split: RowSplit, goal: RowGoal, slots: Ints, there: Bools, moves: Moves, number: int, tries: int, work: SplitScratch
) -> tuple[int, int, bool]:
    """Take the first move that lowers the tail mean, of at most `tries` from `number` on and round again.

    slots `[device, slot]` and there `[expert, device]` are changed in place, and peaks are left in goal.fresh. Returns
    the next number, how many moves were looked at and whether the last of them was taken.
    """
    held = slots.ravel()
    for tried in range(tries):
        place, other = moves.place[number], moves.other[number]
        number, old = (number + 1) % len(moves.place), held[place]
        if not _allowed(slots, there, place, other):
            continue
        _apply(slots, there, place, other)
        if _is_better(split, goal, there, work):
            return number, tried + 1, True
        _apply(slots, there, place, other if other < len(held) else len(held) + 1 + old)
    return number, tries, False


@kernel
def _is_better(split: RowSplit, goal: RowGoal, there: Bools, work: SplitScratch) -> bool:
    """Whether the tail mean is below the limit.

    The tail mean is the largest sum over all weights, so the sum with the weights of now is a lower bound; the look at
    batches ends as soon as that reaches the limit.
    """
    total = 0.0
    for batch in range(len(split.floor)):
        total += goal.weight[batch] * split.floor[batch]
    for batch in goal.order:
        goal.fresh[batch] = least_peak(split.load[batch], there, split.fixed[batch], split.floor[batch], work)
        total += goal.weight[batch] * (goal.fresh[batch] - split.floor[batch])
        if total >= goal.limit:
            return False
    return tail_mean(goal.fresh, goal.level) < goal.limit


@kernel
def _allowed(slots: Ints, there: Bools, place: int, other: int) -> bool:
    """Whether a move is legal: no expert comes on a device twice, and none loses its last replica."""
    held, depth = slots.ravel(), slots.shape[1]
    old = held[place]
    if other >= len(held):
        new = other - len(held) - 1
        return not there[new, place // depth] and (old < 0 or there[old].sum() > 1)
    new = held[other]
    return (
        place // depth != other // depth
        and old != new
        and (old < 0 or not there[old, other // depth])
        and (new < 0 or not there[new, place // depth])
    )


@kernel
def _apply(slots: Ints, there: Bools, place: int, other: int) -> None:
    """Make a move: put an expert into a slot, or exchange the experts of two slots."""
    held = slots.ravel()
    if other >= len(held):
        _put(slots, there, place, other - len(held) - 1)
        return
    old, new = held[place], held[other]
    _put(slots, there, place, -1)
    _put(slots, there, other, old)
    _put(slots, there, place, new)


@kernel
def _put(slots: Ints, there: Bools, place: int, expert: int) -> None:
    """Put an expert, or -1, into a slot instead of the one that is there."""
    held, device = slots.ravel(), place // slots.shape[1]
    if held[place] >= 0:
        there[held[place], device] = False
    if expert >= 0:
        there[expert, device] = True
    held[place] = expert
