"""Replica routing policies: which replica serves each token-expert pair.

Every policy takes experts `[batch, token, k]` and the replica table of `Placement.replicas` (start
`[expert + 1]`, slot: flat slot numbers, a replica's rank being its place among its expert's ascending
slots), and returns the flat slot that serves each pair, `[batch, token, k]` int32. Pairs are served in token
order, then in the order of the k.
"""

from collections.abc import Callable

import numpy as np

from formulations.arrays import Ints
from optimizer.kernels import kernel
from optimizer.mesh import Mesh

Policy = Callable[[Ints, Ints, Ints, Mesh], Ints]


def primary(experts: Ints, start: Ints, slot: Ints, mesh: Mesh) -> Ints:
    """Always the replica of rank 0. Needs to know nothing at run time."""
    return slot[start[experts]]


def even(experts: Ints, start: Ints, slot: Ints, mesh: Mesh) -> Ints:
    """Round robin inside the batch: an expert's i-th token goes to the replica of rank i mod replicas.

    Needs the position of a token among the expert's tokens, as servers that split evenly do.
    """
    return _even(experts, start, slot)


def least_loaded(experts: Ints, start: Ints, slot: Ints, mesh: Mesh) -> Ints:
    """The replica on the device with the fewest pairs so far in this batch, the lowest rank on a tie.

    Needs the choices made for all earlier tokens of the batch.
    """
    return _least_loaded(experts, start, slot, mesh.devices, mesh.slots_per_device)


POLICIES: dict[str, Policy] = {"primary": primary, "even": even, "least-loaded": least_loaded}


@kernel
def _even(experts: Ints, start: Ints, slot: Ints) -> Ints:
    batches, tokens, k = experts.shape
    chosen = np.empty((batches, tokens, k), dtype=np.int32)
    turn = np.empty(len(start) - 1, dtype=np.int32)
    for batch in range(batches):
        turn[:] = start[:-1]
        for token in range(tokens):
            for choice in range(k):
                expert = experts[batch, token, choice]
                chosen[batch, token, choice] = slot[turn[expert]]
                turn[expert] += 1
                if turn[expert] == start[expert + 1]:
                    turn[expert] = start[expert]
    return chosen


@kernel
def _least_loaded(experts: Ints, start: Ints, slot: Ints, devices: int, slots_per_device: int) -> Ints:
    batches, tokens, k = experts.shape
    chosen = np.empty((batches, tokens, k), dtype=np.int32)
    load = np.empty(devices, dtype=np.int32)
    for batch in range(batches):
        load[:] = 0
        for token in range(tokens):
            for choice in range(k):
                expert = experts[batch, token, choice]
                best = slot[start[expert]]
                for rank in range(start[expert] + 1, start[expert + 1]):
                    if load[slot[rank] // slots_per_device] < load[best // slots_per_device]:
                        best = slot[rank]
                load[best // slots_per_device] += 1
                chosen[batch, token, choice] = best
    return chosen
