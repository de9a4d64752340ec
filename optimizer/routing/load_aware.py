"""Kernels of the policies that choose pair by pair, by what the replicas have been given so far in the same batch.

Both take experts `[batch, token, k]` and source `[batch, token]` and return the flat slot of each pair,
`[batch, token, k]` int32. start, slot, device_of and distance are the arrays of `RoutingContext` of these names.
"""

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.copying import copy
from formulations.kit.kernels import kernel


@kernel
def least_loaded(
    experts: Ints, source: Ints, start: Ints, slot: Ints, device_of: Ints, distance: Ints, tile: int, margin: int
) -> Ints:
    """Send each pair to the device with the least load so far, in units of `tile` tokens.

    A device to which the token must travel needs a load that is lower by more than `margin` units. If tile is more than
    1, a replica whose last tile is not full comes first: one token more in that tile costs its device nothing.
    """
    batches, tokens, k = experts.shape
    chosen = np.empty((batches, tokens, k), dtype=np.int32)
    load = np.empty(distance.shape[1], dtype=np.int32)
    room = np.empty(len(device_of), dtype=np.int32)
    worst = np.int32(1 << 30)
    for batch in range(batches):
        load[:], room[:] = 0, 0
        for token in range(tokens):
            home = distance[source[batch, token]]
            for choice in range(k):
                expert = experts[batch, token, choice]
                best, least = slot[start[expert]], worst
                for replica in range(start[expert], start[expert + 1]):
                    device = device_of[slot[replica]]
                    weight = 2 * load[device]  # doubled, so that there is a whole number between two loads
                    if home[device] > 0:
                        weight += 2 * margin + 1  # the 1 keeps the token where it is if loads differ by the margin
                    if room[slot[replica]] > 0:
                        weight -= worst  # a tile with room comes before every device without one
                    if weight < least:
                        best, least = slot[replica], weight
                if room[best] == 0:
                    load[device_of[best]] += 1
                    room[best] = tile
                room[best] -= 1
                chosen[batch, token, choice] = best
    return chosen


@kernel
def capacity_fill(
    experts: Ints, source: Ints, start: Ints, slot: Ints, device_of: Ints, distance: Ints, capacity: int
) -> Ints:
    """Send each pair to the nearest replica that has taken fewer than `capacity` pairs of this batch.

    Once no replica of the expert is below the capacity, the expert's further pairs go to its replicas in turn.
    """
    batches, tokens, k = experts.shape
    chosen = np.empty((batches, tokens, k), dtype=np.int32)
    taken = np.empty(len(device_of), dtype=np.int32)
    turn = np.empty(len(start) - 1, dtype=np.int32)
    for batch in range(batches):
        taken[:] = 0
        copy(start, turn)
        for token in range(tokens):
            home = distance[source[batch, token]]
            for choice in range(k):
                expert = experts[batch, token, choice]
                best, nearest = -1, np.int32(1 << 30)
                for replica in range(start[expert], start[expert + 1]):
                    hops = home[device_of[slot[replica]]]
                    if hops < nearest and taken[slot[replica]] < capacity:
                        best, nearest = slot[replica], hops
                if best < 0:
                    best = slot[turn[expert]]
                    turn[expert] += 1
                    if turn[expert] == start[expert + 1]:
                        turn[expert] = start[expert]
                taken[best] += 1
                chosen[batch, token, choice] = best
    return chosen
