"""The two moves, `swap` and `replace`: what they would change, and making the change.

A move is a number. Below slots * slots it swaps the contents of slot m // slots and slot m % slots; above, it gives
slot (m - slots * slots) // experts to expert (m - slots * slots) % experts, whose replica count grows while that of the
former owner shrinks. An empty slot is swapped like any other, and given to an expert as long as replicas are within
budget; no move empties a slot. `delta` never changes the state and `apply` never judges.
"""

import numpy as np

from formulations.kit.arrays import Bools, Ints
from formulations.kit.kernels import kernel
from optimizer.search.state import SearchState, fill_part, find_leaders

NO_LIMIT = 1 << 62  # to the replicas of all experts together

Scratch = tuple[Ints, ...]
Change = tuple[int, int, int, int, int, int]
"""Slots a and b (b = -1: none), the experts x leaving a for b and y coming to a (-1: none), their new counts."""


def scratch_for(state: SearchState) -> Scratch:
    """Working memory of `delta` and `apply` for a state and its successors.

    touched `[device + 1]`, the last entry saying how many are; place of a device in touched or -1 `[device]`; new
    cost `[touched, batch]`; new replica lists of the two experts `[2, device + 1]`; peak `[batch]`; one replica's
    cost `[batch]`.
    """
    devices = len(state.cost)
    return (
        np.zeros(devices + 1, dtype=np.int64),
        np.full(devices, -1, dtype=np.int64),
        np.zeros_like(state.cost),
        np.zeros((2, devices + 1), dtype=np.int64),
        np.zeros_like(state.cost[0]),
        np.zeros_like(state.cost[0]),
    )


@kernel
def copy(values: Ints, out: Ints) -> None:
    """Loops over batches are spelt out, as numba compiles them far faster than array expressions."""
    for batch in range(len(out)):
        out[batch] = values[batch]


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
    """Raise a row to at least another."""
    for batch in range(len(out)):
        out[batch] = max(out[batch], values[batch])


@kernel
def holds(slots: Ints, device: int, expert: int) -> bool:
    """Whether a device holds a replica of this expert."""
    for slot in range(slots.shape[1]):
        if slots[device, slot] == expert:
            return True
    return False


@kernel
def is_legal(move: int, slots: Ints, count: Ints, spread: Bools, cols: int, most: int = NO_LIMIT) -> bool:
    """Whether a move keeps the placement valid, spread experts in their rows, and replicas at `most` so many in all.

    Swaps count one way round only.
    """
    devices, depth = slots.shape
    size = devices * depth
    if move < size * size:
        a, b = move // size, move % size
        device_a, device_b = a // depth, b // depth
        x, y = slots[device_a, a % depth], slots[device_b, b % depth]
        if a >= b or device_a == device_b or x == y:
            return False
        pinned = (x >= 0 and spread[x]) or (y >= 0 and spread[y])
        if pinned and device_a // cols != device_b // cols:
            return False
        return not (x >= 0 and holds(slots, device_b, x)) and not (y >= 0 and holds(slots, device_a, y))
    a, y = (move - size * size) // len(count), (move - size * size) % len(count)
    x = slots[a // depth, a % depth]
    if x == y or spread[y] or count[y] == devices or holds(slots, a // depth, y):
        return False
    if x < 0:
        return int(count.sum()) < most
    return bool(count[x] > 1 and not spread[x])


@kernel
def relist(old: Ints, count: int, leaving: int, joining: int, new: Ints) -> int:
    """Copy an ascending list of slots without one (-1: none) and with another (-1: none); returns its length."""
    length = 0
    for rank in range(count):
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
def touch(device: int, touched: Ints, place: Ints, new_cost: Ints, cost: Ints) -> Ints:
    """The row of new_cost of a device, which gets one if it has none."""
    if place[device] < 0:
        place[device] = touched[-1]
        touched[touched[-1]] = device
        copy(cost[device], new_cost[touched[-1]])
        touched[-1] += 1
    row: Ints = new_cost[place[device]]
    return row


@kernel
def rebalance(expert: int, length: int, new: Ints, state: tuple[Ints, ...], scratch: Scratch) -> None:
    """Move the cost of one expert from its present replicas to the `new` ones, in new_cost."""
    load, value, slots, count, replicas, part, cost = state[:7]
    touched, place, new_cost, _, _, piece = scratch
    depth = slots.shape[1]
    same_count = length == count[expert]
    for rank in range(count[expert]):
        slot = replicas[expert, rank]
        if not same_count or new[rank] != slot:
            subtract(part[slot], touch(slot // depth, touched, place, new_cost, cost))
    for rank in range(length):
        slot = new[rank]
        if not same_count:
            fill_part(load[expert], value, length, rank, piece)
            add(piece, touch(slot // depth, touched, place, new_cost, cost))
        elif replicas[expert, rank] != slot:  # the share of a rank does not depend on where its replica is
            add(part[replicas[expert, rank]], touch(slot // depth, touched, place, new_cost, cost))


@kernel
def prepare(move: int, state: tuple[Ints, ...], scratch: Scratch) -> Change:
    """Work out the new costs and replica lists of a move in scratch."""
    slots, count, replicas = state[2], state[3], state[4]
    lists = scratch[3]
    depth, size = slots.shape[1], slots.size
    x_length = y_length = 0
    if move < size * size:
        a, b = move // size, move % size
        y = slots[b // depth, b % depth]
    else:
        a, b = (move - size * size) // len(count), -1
        y = (move - size * size) % len(count)
    x = slots[a // depth, a % depth]
    if x >= 0:
        x_length = relist(replicas[x], count[x], a, b, lists[0])
        rebalance(x, x_length, lists[0], state, scratch)
    if y >= 0:
        y_length = relist(replicas[y], count[y], b, a, lists[1])
        rebalance(y, y_length, lists[1], state, scratch)
    return a, b, x, y, x_length, y_length


@kernel
def forget(touched: Ints, place: Ints) -> None:
    """Make scratch ready for the next move."""
    for index in range(touched[-1]):
        place[touched[index]] = -1
    touched[-1] = 0


@kernel
def saved_after(device: int, change: Change, slots: Ints, count: Ints, together: Ints) -> int:
    """What co-location saves on a device once the change is made."""
    a, b, x, y, x_length, y_length = change
    depth = slots.shape[1]
    total = 0
    for one in range(device * depth, device * depth + depth):
        first = y if one == a else (x if one == b else slots[device, one % depth])
        first_count = x_length if first == x else (y_length if first == y else count[first])
        for two in range(device * depth, one):
            second = y if two == a else (x if two == b else slots[device, two % depth])
            second_count = x_length if second == x else (y_length if second == y else count[second])
            if first >= 0 and second >= 0:
                total += together[first, second] // (first_count * second_count)
    return total


@kernel
def delta(move: int, state: tuple[Ints, ...], scratch: Scratch) -> int:
    """Change of the objective that a legal move would make."""
    slots, count, cost = state[2], state[3], state[6]
    leaders, leading, together, saved, tail = state[7:]
    touched, place, new_cost, _, peak, _ = scratch
    change = prepare(move, state, scratch)
    copy(new_cost[0], peak)
    for index in range(1, touched[-1]):
        raise_to(new_cost[index], peak)
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
        difference += saved[device] - saved_after(device, change, slots, count, together)
    forget(touched, place)
    return difference


@kernel
def apply(move: int, state: tuple[Ints, ...], scratch: Scratch) -> None:
    """Make a legal move."""
    load, value, slots, count, replicas, part, cost, leaders, leading, together, saved, _ = state
    touched, place, new_cost, lists, _, _ = scratch
    depth = slots.shape[1]
    change = prepare(move, state, scratch)
    a, b, x, y, x_length, y_length = change
    for index in range(touched[-1]):
        device = touched[index]
        copy(new_cost[index], cost[device])
        saved[device] = saved_after(device, change, slots, count, together)
    forget(touched, place)
    subtract(part[a], part[a])
    slots[a // depth, a % depth] = y
    if b >= 0:
        subtract(part[b], part[b])
        slots[b // depth, b % depth] = x
    for expert, length, which in ((x, x_length, 0), (y, y_length, 1)):
        if expert >= 0:
            count[expert] = length
            for rank in range(length):
                replicas[expert, rank] = lists[which, rank]
                fill_part(load[expert], value, length, rank, part[lists[which, rank]])
    find_leaders(cost, leaders, leading)
