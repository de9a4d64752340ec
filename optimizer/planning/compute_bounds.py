"""How long devices compute a batch at least: with any placement, and with a peak that is known."""

import numpy as np

from formulations.bounds.load import any_placement_bound
from formulations.kit.arrays import Floats, Ints
from optimizer.domain.cost import NS_PER_US, Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.traces.batches import Batches


def least_compute_us(batches: Batches, model: Model, mesh: Mesh, cost: Cost) -> Floats:
    """The least time in which devices compute each batch with any placement, `[batch]` microseconds, by the op that
    packs tokens."""
    tiles = cost.tiles(batches.load(model.experts))
    peak = any_placement_bound(tiles, mesh.devices, mesh.slots)
    return compute_us(tiles, peak, mesh, cost) + beside_us(batches, mesh, cost)


def compute_us(units: Ints, peak: Ints, mesh: Mesh, cost: Cost) -> Floats:
    """Least compute time of each batch, `[batch]`, the largest of three bounds.

    units `[batch, expert]` tiles, or tokens where compute counts these; peak `[batch]` what some device has of them:

    1. that device takes as long as in the best case of its slots;
    2. some device has its part of all active experts, each in a slot of its own;
    3. some device has its part of all work, if each expert is split into replicas as is best.
    """
    most = int(max(peak.max(), units.max()))
    slot_ns = cost.slot_ns(most * cost.tile_tokens)[:: cost.tile_tokens]
    by_peak = _shared_out(slot_ns, mesh.slots_per_device)[peak]
    by_active = -(-np.count_nonzero(units, axis=1) // mesh.devices) * slot_ns[min(1, most)]
    by_work = -(-_shared_out(slot_ns, mesh.devices)[units].sum(axis=1) // mesh.devices)
    time: Floats = np.maximum.reduce([by_peak, by_active, by_work]) / NS_PER_US
    return time


def least_shared_replicas(limit_us: Floats, batches: Batches, model: Model, mesh: Mesh, cost: Cost) -> int:
    """How many replicas each shared expert has at least, but for placements that compute each batch for the time
    limit_us `[batch]` or longer.

    With n replicas some slot has the n-th part of an expert's tokens. Experts outside of slots have none.
    """
    if not model.shared_experts:
        return 1
    load = batches.load(model.experts)[:, model.routed_experts :].min(axis=1)
    slot_us = cost.slot_ns(int(load.max())) / NS_PER_US
    most = min(mesh.devices, (mesh.slots - model.routed_experts) // model.shared_experts)
    for replicas in range(1, most):
        if np.any(slot_us[-(-load // replicas)] < limit_us):
            return replicas
    return most


def beside_us(batches: Batches, mesh: Mesh, cost: Cost) -> Floats:
    """How long every device computes shared experts outside its slots at least, `[batch]` microseconds: as long as the
    device with the fewest tokens of its own."""
    if not cost.beside:
        return np.zeros(batches.count)
    network = Network.of(mesh, cost.preset.network)
    fewest = network.own_tokens(batches.source_on(network)).min(axis=1)
    time: Floats = cost.beside_ns(fewest) / NS_PER_US
    return time


def _shared_out(slot_ns: Ints, slots: int) -> Ints:
    """The least sum of times in which a number of units is done in at most `slots` slots, `[unit]` nanoseconds by that
    number; slot_ns `[unit]`: the time of one slot that has as many."""
    best = slot_ns
    for _ in range(slots - 1):
        tried = best.copy()
        for part in range(1, len(slot_ns)):
            np.minimum(tried[part:], best[: len(best) - part] + slot_ns[part], out=tried[part:])
        if (tried == best).all():
            break
        best = tried
    return best
