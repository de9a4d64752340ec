"""What some formats hold beside the experts of slots: tables by source device, and slots repeated by their shares."""

from collections.abc import Mapping, Sequence

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.placement import EMPTY, Placement
from optimizer.errors import InputError
from optimizer.exchange.arrays import slots_by_expert
from optimizer.planning.plan_file import Plan
from optimizer.routing.context import LearnedShares, RoutingContext
from optimizer.routing.expected_split import MILLION, repeat
from optimizer.routing.hints import ENTRIES


def device_tables(plan: Plan, layers: Sequence[int]) -> Ints:
    """The device to which each source device sends each expert, `[layer, source device, expert]` int32.

    The plan's learned tables where it is for the policy `table`, else those of nearest replicas. All devices of a row
    whose tokens are on all of them have the row's table.
    """
    network, model, cols = plan.network, plan.model, plan.mesh.cols
    source_of = np.arange(plan.mesh.devices) // (1 if network.sources == plan.mesh.devices else cols)
    found = []
    for layer in layers:
        part = plan.layers[layer]
        context = RoutingContext.of(part.placement, model, network, 1, 0, part.learned)
        slot = context.table_slot if plan.policy == "table" else context.nearest_slot
        found.append(context.device_of[slot][source_of])
    return np.array(found)


def weighted_entries(plan: Plan, layers: Sequence[int], rows: Ints, slots: Mapping[int, Ints]) -> Ints:
    """The slots of each expert as often as the plan's shares ask, `[layer, expert, entry]` int64 padded with -1.

    Shares are met to a thirty-second, but every slot is named at least once. rows `[layer, slot]` are the experts of
    the file's layers and slots those of the planned ones. Layers that were not planned have equal shares. Raises
    InputError where the plan has no shares of its slots.
    """
    experts, width = plan.model.routed_experts, ENTRIES
    found = np.full((len(layers), experts, width), EMPTY, dtype=np.int64)
    for row, layer in enumerate(layers):
        part = plan.layers.get(layer)
        if part is None:
            entries = slots_by_expert(rows[row : row + 1], experts)[0][0]
            found[row, :, : entries.shape[1]] = entries
            continue
        if part.learned is None or not np.array_equal(part.placement.slots, slots[layer]):
            raise InputError(f"layer {layer} has no shares of the slots that are written", "weighted")
        found[row] = _entries(part.placement, part.learned, experts)
    used = int((found != EMPTY).sum(axis=2).max())
    return found[:, :, :used]


def _entries(placement: Placement, learned: LearnedShares, experts: int) -> Ints:
    """The repeated slots of one layer's experts, `[expert, ENTRIES]` padded with -1."""
    start, slot = placement.replicas(experts)
    part = np.rint(learned.share.ravel()[slot] * MILLION).astype(np.int64)
    part[np.repeat(np.add.reduceat(part, start[:-1]) == 0, np.diff(start))] = 1
    whole = np.add.reduceat(part, start[:-1])
    chosen = np.zeros((experts, ENTRIES), dtype=np.int32)
    repeat(part, whole, start, chosen)
    found = np.full((experts, ENTRIES), EMPTY, dtype=np.int64)
    for expert in range(experts):
        replicas = slot[start[expert] : start[expert + 1]]
        often: Ints = np.bincount(chosen[expert] - start[expert], minlength=len(replicas))
        often = _at_least_one(often) if len(replicas) <= ENTRIES else np.ones_like(often)
        often //= np.gcd.reduce(often)
        named = np.repeat(replicas, often)
        if len(named) > ENTRIES:
            raise InputError(
                f"expert {expert} has more than {ENTRIES} replicas, which shares cannot tell apart", "weighted"
            )
        found[expert, : len(named)] = named
    return found


def _at_least_one(often: Ints) -> Ints:
    """The same number of entries with one at least for each replica, at the cost of those that have most."""
    found = often.copy()
    while not found.all():
        found[np.argmax(found)] -= 1
        found[np.argmin(found)] += 1
    return found
