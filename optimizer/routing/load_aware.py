"""Policies that watch what this batch has given the replicas so far, as kernels over whole batches."""

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel


@kernel
def least_loaded(
    experts: Ints, source: Ints, start: Ints, slot: Ints, device_of: Ints, distance: Ints, tile: int, margin: int
) -> Ints:
    """Each pair to the device with the least load so far, in units of `tile` tokens; one that is not where the token
    is must be lighter by more than `margin`. Before that, with tile > 1, to a replica whose last tile is not full.

    experts and the result `[batch, token, k]`, source `[batch, token]`; the others as in `Site`.
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
                    weight = 2 * load[device]
                    if home[device] > 0:
                        weight += 2 * margin + 1  # 1, so that on a tie the token stays, whatever the ranks
                    if room[slot[replica]] > 0:
                        weight -= worst
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
    """Each pair to the nearest replica that has taken less than `capacity`; round robin once there is none.

    Arrays as in `least_loaded`.
    """
    batches, tokens, k = experts.shape
    chosen = np.empty((batches, tokens, k), dtype=np.int32)
    taken = np.empty(len(device_of), dtype=np.int32)
    turn = np.empty(len(start) - 1, dtype=np.int32)
    for batch in range(batches):
        taken[:] = 0
        turn[:] = start[:-1]
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
