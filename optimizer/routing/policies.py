"""Replica routing policies: which replica serves each token-expert pair.

A policy takes experts `[batch, token, k]`, the source of each token `[batch, token]` and the layer's `RoutingContext`,
and returns the flat slot that serves each pair, `[batch, token, k]` int32. Pairs are served in token order, then in the
order of the k. Loads are counted in units of `context.tile` tokens; tile-aware means that a tile is filled
before another is opened.
"""

from collections.abc import Callable

from formulations.kit.arrays import Ints
from optimizer.routing import load_aware as greedy
from optimizer.routing import static
from optimizer.routing.context import RoutingContext
from optimizer.routing.optimal import optimal

Policy = Callable[[Ints, Ints, RoutingContext], Ints]

MARGINS = {True: 1, False: 4}  # by tile-awareness, in tiles and tokens, see benchmarks/README.md


def primary(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """Always the replica of rank 0. Needs to know nothing at run time."""
    return context.slot[context.start[experts]]


def even(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """Round robin: an expert's i-th pair goes to the replica of rank i mod replicas.

    Needs global counts: a pair's number among the expert's, as servers that split evenly do.
    """
    return static.round_robin(experts, context.start, context.slot)


def hashed(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """A multiplicative hash of the pair's place in the batch, modulo replicas. Needs nothing but that place."""
    return static.hashed(experts, context.start, context.slot)


def nearest(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """The replica with the fewest hops from the token, ties shared out by expected load.

    Needs nothing at run time but a static table per source, as of a kernel mapping.
    """
    return static.by_table(experts, source, context.nearest_slot)


def capacity_fill(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """The nearest replica, the lowest rank on a tie, that has not taken its capacity; round robin when all have.

    Needs global counts of what each replica has taken. Tile-aware, the capacity is rounded up to whole tiles.
    """
    capacity = -(-context.capacity // context.tile) * context.tile
    return greedy.capacity_fill(
        experts, source, context.start, context.slot, context.device_of, context.distance, capacity
    )


def least_loaded(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """The device with the least load so far, the token's own row first, the lowest rank on a tie.

    A token leaves for a device elsewhere only where its own row's exceeds that by more than a margin. Tile-aware, a
    replica with a tile that is not full comes before all others. Needs the choices of all earlier tokens of the batch.
    """
    margin = MARGINS[context.tile > 1]
    return greedy.least_loaded(
        experts, source, context.start, context.slot, context.device_of, context.distance, context.tile, margin
    )  # fmt: skip


def weights(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """Fixed shares per replica, learned on train batches, dealt out by weighted round robin in token order.

    Needs global counts: a pair's number among the expert's.
    """
    return static.weighted_round_robin(experts, context.start, context.slot, context.share)


POLICIES: dict[str, Policy] = {
    "primary": primary,
    "even": even,
    "hash": hashed,
    "nearest": nearest,
    "capacity-fill": capacity_fill,
    "least-loaded": least_loaded,
    "weights": weights,
    "optimal": optimal,
}

TAUGHT = ("nearest", "weights", "optimal")
"""The policies that use what was learned on train batches."""
