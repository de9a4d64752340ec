"""What a move of `moves.py` would change under even split or a server's rule, and making the change."""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.copying import copy
from formulations.kit.kernels import kernel
from optimizer.search.moves import decode
from optimizer.search.state import SearchState, fill_part, find_leaders


class Change(NamedTuple):
    """A move with the replica counts that its experts x and y have afterwards, 0 where there is no such expert."""

    a: int
    b: int
    x: int
    y: int
    x_copies: int
    y_copies: int


class Scratch(NamedTuple):
    """Working memory of `delta` and `apply`.

    touched `[device + 1]`: the devices whose cost changes, with their number in the last entry; place `[device]`: where
    a device stands in touched, or -1; cost `[touched, batch]`: the new cost of these devices; replicas
    `[2, device + 1]`: the new replica lists of experts x and y; peak `[batch]`; piece `[batch]`: one replica's cost.
    """

    touched: Ints
    place: Ints
    cost: Ints
    replicas: Ints
    peak: Ints
    piece: Ints


def scratch_for(state: SearchState) -> Scratch:
    """Working memory that fits this state and all that moves make of it."""
    devices = len(state.cost)
    return Scratch(
        touched=np.zeros(devices + 1, dtype=np.int64),
        place=np.full(devices, -1, dtype=np.int64),
        cost=np.zeros_like(state.cost),
        replicas=np.zeros((2, devices + 1), dtype=np.int64),
        peak=np.zeros_like(state.cost[0]),
        piece=np.zeros_like(state.cost[0]),
    )


@kernel
def add(values: Ints, out: Ints) -> None:
    """Add one row to another."""
    for batch in range(len(out)):
        out[batch] += values[batch]


@kernel
def subtract(values: Ints, out: Ints) -> None:
    """Take one row from another."""
    for batch in range(len(out)):
        out[batch] -= values[batch]


@kernel
def raise_to(values: Ints, out: Ints) -> None:
    """Raise each entry of a row to at least that of another row."""
    for batch in range(len(out)):
        out[batch] = max(out[batch], values[batch])


@kernel
def relist(old: Ints, copies: int, leaving: int, joining: int, new: Ints) -> int:
    """Copy an ascending list of slots without one of them and with another; returns the new length.

    old: only the first `copies` are valid; leaving, joining: slots, -1 for none.
    """
    length = 0
    for rank in range(copies):
        slot = old[rank]
        if joining >= 0 and joining < slot:
            new[length] = joining
            joining = -1
            length += 1
        if slot != leaving:
            new[length] = slot
            length += 1
    if joining >= 0:
        new[length] = joining
        length += 1
    return length


@kernel
def touch(device: int, scratch: Scratch, cost: Ints) -> Ints:
    """The row of scratch with the new cost of a device `[batch]`, which starts as its present cost."""
    touched, place = scratch.touched, scratch.place
    if place[device] < 0:
        place[device] = touched[-1]
        touched[touched[-1]] = device
        copy(cost[device], scratch.cost[touched[-1]])
        touched[-1] += 1
    row: Ints = scratch.cost[place[device]]
    return row


@kernel
def rebalance(expert: int, length: int, new: Ints, state: SearchState, scratch: Scratch) -> None:
    """Move the cost of one expert, in scratch, from its present replicas to the first `length` slots of `new`."""
    part, cost, depth = state.part, state.cost, state.slots.shape[1]
    present, copies = state.replicas[expert], state.copies[expert]
    anew = length != copies or len(state.rule.by_row) > 0  # whether shares change, and not their places alone
    for rank in range(copies):
        slot = present[rank]
        if anew or new[rank] != slot:
            subtract(part[slot], touch(slot // depth, scratch, cost))
    for rank in range(length):
        slot = new[rank]
        if anew:
            fill_part(expert, new, length, rank, state, scratch.piece)
            add(scratch.piece, touch(slot // depth, scratch, cost))
        elif present[rank] != slot:  # the share of a rank does not depend on where its replica is
            add(part[present[rank]], touch(slot // depth, scratch, cost))


@kernel
def prepare(move: int, state: SearchState, scratch: Scratch) -> Change:
    """Work out the new costs and replica lists of a move in scratch."""
    a, b, x, y = decode(move, state.slots, len(state.copies))
    replicas, copies, lists = state.replicas, state.copies, scratch.replicas
    x_copies = y_copies = 0
    if x >= 0:
        x_copies = relist(replicas[x], copies[x], a, b, lists[0])
        rebalance(x, x_copies, lists[0], state, scratch)
    if y >= 0:
        y_copies = relist(replicas[y], copies[y], b, a, lists[1])
        rebalance(y, y_copies, lists[1], state, scratch)
    return Change(a, b, x, y, x_copies, y_copies)


@kernel
def forget(scratch: Scratch) -> None:
    """Make scratch ready for the next move."""
    touched = scratch.touched
    for index in range(touched[-1]):
        scratch.place[touched[index]] = -1
    touched[-1] = 0


@kernel
def saved_after(device: int, change: Change, slots: Ints, copies: Ints, together: Ints) -> int:
    """What co-location saves on a device once the change is made, summed over its pairs of slots."""
    a, b, x, y, x_copies, y_copies = change
    depth = slots.shape[1]
    total = 0
    for one in range(device * depth, device * depth + depth):
        first = y if one == a else (x if one == b else slots[device, one % depth])
        first_copies = x_copies if first == x else (y_copies if first == y else copies[first])
        for two in range(device * depth, one):
            second = y if two == a else (x if two == b else slots[device, two % depth])
            second_copies = x_copies if second == x else (y_copies if second == y else copies[second])
            if first >= 0 and second >= 0:
                total += together[first, second] // (first_copies * second_copies)
    return total


@kernel
def delta(move: int, state: SearchState, scratch: Scratch) -> int:
    """Change of the objective that a legal move would make, in the unit of the state's `value`."""
    cost, leaders, leading, tail = state.cost, state.leaders, state.leading, state.tail
    touched, place, peak = scratch.touched, scratch.place, scratch.peak
    change = prepare(move, state, scratch)
    copy(scratch.cost[0], peak)
    for index in range(1, touched[-1]):
        raise_to(scratch.cost[index], peak)
    difference = 0
    for batch in range(len(peak)):
        leader = 0
        while leader < len(leaders) and place[leaders[leader, batch]] >= 0:
            leader += 1
        if leader < len(leaders):
            peak[batch] = max(peak[batch], leading[leader, batch])
        else:
            for device in range(len(cost)):
                if place[device] < 0:
                    peak[batch] = max(peak[batch], cost[device, batch])
        old, new = leading[0, batch], peak[batch]
        difference += new - old + tail[1] * (max(new - tail[0], 0) - max(old - tail[0], 0))
    for index in range(touched[-1]):
        device = touched[index]
        difference += state.saved[device] - saved_after(device, change, state.slots, state.copies, state.together)
    forget(scratch)
    return difference


@kernel
def apply(move: int, state: SearchState, scratch: Scratch) -> None:
    """Make a legal move, and bring everything that the state holds of its placement up to date."""
    slots, copies, part, depth = state.slots, state.copies, state.part, state.slots.shape[1]
    change = prepare(move, state, scratch)
    a, b, x, y, x_copies, y_copies = change
    for index in range(scratch.touched[-1]):
        device = scratch.touched[index]
        copy(scratch.cost[index], state.cost[device])
        state.saved[device] = saved_after(device, change, slots, copies, state.together)
    forget(scratch)
    subtract(part[a], part[a])
    slots[a // depth, a % depth] = y
    if b >= 0:
        subtract(part[b], part[b])
        slots[b // depth, b % depth] = x
    for expert, length, which in ((x, x_copies, 0), (y, y_copies, 1)):
        if expert >= 0:
            copies[expert] = length
            for rank in range(length):
                state.replicas[expert, rank] = scratch.replicas[which, rank]
            for rank in range(length):
                slot = state.replicas[expert, rank]
                fill_part(expert, state.replicas[expert], length, rank, state, part[slot])
    find_leaders(state.cost, state.leaders, state.leading)
