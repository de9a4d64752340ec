"""Replica routing policies: which replica serves each token-expert pair.

All policies have one signature, `Policy`. They take experts `[batch, token, k]` (expert ids), source `[batch, token]`
(where each token is before dispatch, as of `Network.source`) and the layer's `RoutingContext`. They return the flat
slot that serves each pair, `[batch, token, k]` int32; slot s of device d has the flat number d * slots_per_device + s.
Batches do not influence one another, but for the policies that choose by load hints (`REMEMBERING`): these take
batches in the order of time, and remember in the context what they have seen. Inside a batch pairs are served in token
order, and the pairs of one token in the order of its k experts.

A *tile* is a number of tokens that a device computes together: a tile that is partly filled takes as long as a full
one. `context.tile` is its size. A policy that counts loads in tiles therefore fills a tile that it has begun before it
begins another, which this module calls tile-aware. With `context.tile` 1 loads are plain numbers of pairs.

Every docstring says what the policy needs to know at run time, because this decides whether a server can run it, and
how long a batch waits for it (`INFORMATION`): nothing but the token itself or a table, what the token's own source has
counted, or counts over the tokens of all sources in the batch.
"""

from collections.abc import Callable

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.arrays import given_away
from optimizer.domain.cost import Cost, Information
from optimizer.domain.network import rank_in_row
from optimizer.errors import InputError
from optimizer.routing import load_aware, static
from optimizer.routing.context import RoutingContext
from optimizer.routing.hinted import hint, hint_device, hint_random, hint_table
from optimizer.routing.optimal import optimal
from optimizer.routing.servers import sglang
from optimizer.routing.servers.tensorrt_llm import blockwise_round_robin
from optimizer.routing.servers.vllm import hashed_rows
from optimizer.routing.servers.vllm_ascend import rank_table

Policy = Callable[[Ints, Ints, RoutingContext], Ints]

# By how much another row's device must be lighter before a token of `least-loaded` goes there: 1 tile if tile-aware,
# else 4 tokens. Of 0, 1 and 2 tiles, 1 has the least mean latency on DeepSeek-V2-Lite and GPT-OSS, and 2 on the
# built-in trace (benchmarks/README.md). The 4 tokens were measured by benchmarks/routing.py too.
MARGINS = {True: 1, False: 4}


def primary(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """Every pair goes to the replica of rank 0 of its expert. Needs to know nothing at run time."""
    return context.slot[context.start[experts]]


def even_ideal(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """The i-th pair of an expert in the batch goes to the replica of rank i modulo the number of replicas.

    An ideal that no server runs: it needs to know how many pairs of the expert came before this one from all sources.
    """
    together = given_away(np.zeros(source.shape, dtype=np.int32))
    return static.round_robin(experts, together, 1, context.start, context.slot)


def even_source(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """The i-th pair that a source has of an expert goes to the replica of rank i modulo the number of replicas.

    Needs nothing at run time but what the source itself has counted.
    """
    return static.round_robin(experts, source, context.network.sources, context.start, context.slot)


def near_source(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """Weighted round robin inside each source, in which a replica's share halves with every hop that it is farther
    away than the nearest one; pairs of an expert that the source's own row or rank holds stay there.

    Near sources save hops, and sources that have several replicas about equally near deal them out, so that chance
    seldom brings a replica more pairs than its tile holds, as it often does where each source uses one replica. Needs
    nothing at run time but what the source itself has counted.
    """
    shares = static.near_shares(context.start, context.distance[:, context.device_of[context.slot]])
    return static.weighted_round_robin(experts, source, context.network.sources, context.start, context.slot, shares)


def hashed(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """The replica's rank is a multiplicative hash of the pair's place in the batch, modulo the number of replicas.

    Needs nothing at run time but that place: token number times k plus the place among the token's k experts.
    """
    return static.hashed(experts, context.start, context.slot)


def nearest(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """The replica with the fewest hops from the token; expected loads decide between replicas that are equally near.

    Needs nothing at run time but a static table that says for each source which replica of each expert to use
    (`RoutingContext.nearest_slot`), such as a dispatch kernel can hold.
    """
    return static.by_table(experts, source, context.nearest_slot)


def table(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """The replica that a learned dispatch table names for the token's source and the expert (`learned_tables`).

    Needs nothing at run time but that static table. Without a learned one it is `nearest`.
    """
    return static.by_table(experts, source, context.table_slot)


def capacity_fill(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """The nearest replica that has taken fewer pairs than its capacity; round robin once all replicas have taken it.

    Of equally near replicas the one of the lowest rank is taken. With tiles the capacity is rounded up to whole tiles.
    Needs global counts at run time: how many pairs each replica has taken so far.
    """
    capacity = -(-context.capacity // context.tile) * context.tile
    return load_aware.capacity_fill(
        experts, source, context.start, context.slot, context.device_of, context.distance, capacity
    )


def least_loaded(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """The replica on the device with the least load so far; a device that the token must travel to needs a margin.

    A device elsewhere is taken only if its load is lower by more than `MARGINS` than that of a device where the token
    already is. Of equal devices the replica of the lowest rank is taken. Tile-aware, a replica whose last tile is not
    full comes before all others. Needs the choices of all earlier tokens of the batch at run time.
    """
    margin = MARGINS[context.tile > 1]
    return load_aware.least_loaded(
        experts, source, context.start, context.slot, context.device_of, context.distance, context.tile, margin
    )  # fmt: skip


def weights(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """Each replica gets a fixed share of its expert's pairs, dealt out by weighted round robin inside each source.

    The shares were learned on train batches (`learned_shares`). Needs nothing at run time but what the source itself
    has counted.
    """
    return static.weighted_round_robin(
        experts, source, context.network.sources, context.start, context.slot, context.share[None]
    )


def least_active(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """The device that works on most experts works on as few as it can, which is best where reading their weights takes
    longer than multiplying.

    It is `optimal` in units of as many tokens as cost no more than one (`context.read_tokens`). So an expert with no
    more tokens than that is one unit, whose weights need be read on one device alone, and the least peak is that of
    METRO (Yu, Ma et al., arXiv 2512.09277), max over sets S of experts with tokens of ceil(|S| / |N(S)|). METRO counts
    an expert as one unit however many tokens it has; here one with more is worth reading in several places. A second
    replica of a small expert may serve tokens that are nearer to it, if the peak stays. Needs the loads of the whole
    batch at run time.
    """
    return optimal(experts, source, context.in_reads)


def vllm(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """What vLLM does: a hash of the token's place in its source's part of the batch, the same for all its experts.

    Needs nothing at run time but that place.
    """
    row = rank_in_row(source, context.network.sources)
    return hashed_rows(experts, row, context.start, context.slot)


def tensorrt_llm(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """What TensorRT-LLM does: round robin inside the source, begun anew by each block of 1,024 pairs.

    Needs nothing at run time but what the source itself has counted.
    """
    return blockwise_round_robin(experts, source, context.network.sources, context.start, context.slot)


def vllm_ascend(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """What vllm-ascend does: a source uses one replica of each expert, that of its own number modulo their number.

    Needs nothing at run time but that static table.
    """
    return static.by_table(experts, source, rank_table(context.start, context.slot, context.network.sources))


def sglang_static(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """What SGLang does by default with an all-to-all back end: a source uses one replica of each expert, a near one if
    there is any, else one that is dealt out at random when the server starts, with a fixed seed for all layers.

    Needs nothing at run time but that static table. It depends on the layers before this one (`sglang.static_table`).
    """
    of = context.start, context.slot, context.network, context.slots_per_device
    return static.by_table(experts, source, sglang.static_table(*of, context.layers_before))


def sglang_rows(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """What SGLang does with `dynamic` where no all-to-all back end brings tokens to experts: the token's place in the
    batch modulo the copies of each of its experts.

    Every rank computes all tokens there, so all must choose alike, and no near copy comes first. Needs nothing at run
    time but that place.
    """
    copies = np.diff(context.start)
    row = np.arange(experts.shape[1])[:, None]
    chosen: Ints = context.slot[context.start[experts] + row % copies[experts]]
    return chosen


def sglang_dynamic(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """What SGLang does with `--ep-dispatch-algorithm dynamic`: a near replica if there is any, else a random one for
    each pair.

    Needs nothing at run time.
    """
    near = sglang.near_copy(context.start, context.slot, context.network, context.slots_per_device)
    return sglang.dynamic(experts, source, context.start, context.slot, near)


LEAST_ACTIVE = "least-active"
"""The policy that levels the experts that devices work on, where reading their weights takes most of the time."""

POLICIES: dict[str, Policy] = {
    "primary": primary,
    "even-ideal": even_ideal,
    "even-source": even_source,
    "near-source": near_source,
    "hash": hashed,
    "nearest": nearest,
    "table": table,
    "capacity-fill": capacity_fill,
    "least-loaded": least_loaded,
    "weights": weights,
    "optimal": optimal,
    LEAST_ACTIVE: least_active,
    "hint": hint,
    "hint-table": hint_table,
    "hint-random": hint_random,
    "hint-device": hint_device,
    "sglang-static": sglang_static,
    "sglang-dynamic": sglang_dynamic,
    "sglang-rows": sglang_rows,
    "vllm": vllm,
    "tensorrt-llm": tensorrt_llm,
    "vllm-ascend": vllm_ascend,
}


INFORMATION: dict[str, Information] = {
    "primary": "none",
    "even-ideal": "batch",
    "even-source": "own",
    "near-source": "own",
    "hash": "none",
    "nearest": "none",
    "table": "none",
    "capacity-fill": "batch",
    "least-loaded": "batch",
    "weights": "own",
    "optimal": "batch",
    LEAST_ACTIVE: "batch",
    "hint": "hint",
    "hint-table": "hint",
    "hint-random": "hint",
    "hint-device": "hint",
    "sglang-static": "none",
    "sglang-dynamic": "none",
    "sglang-rows": "none",
    "vllm": "none",
    "tensorrt-llm": "own",
    "vllm-ascend": "none",
}
"""What each policy must know at run time, which decides its price."""


def price_us(cost: Cost, policy: str) -> float:
    """How long a batch waits until this policy has chosen replicas, in microseconds."""
    return cost.routing_us(policy, INFORMATION[policy])


FORMER_NAMES = {"even": "even-ideal"}
"""Names that policies had in earlier versions, by which plans of that time call them."""


def check_policy(name: str, field: str = "routing") -> None:
    """Raise InputError, of this field, for a name that is not in `POLICIES`."""
    if name in FORMER_NAMES:
        said = f"'{name}' is two policies now: even-source is round robin inside each source, as servers do it; "
        raise InputError(said + "even-ideal is round robin over the whole batch, which no server does", field)
    if name not in POLICIES:
        raise InputError(f"'{name}' is not a known policy; there are {', '.join(POLICIES)}", field)


LEARNING = ("nearest", "table", "weights", "optimal", LEAST_ACTIVE, "hint", "hint-table", "hint-random")
"""The policies whose choices depend on what was learned on train batches (`RoutingContext.load`, `share`, `table`)."""

REMEMBERING = ("hint", "hint-table", "hint-random", "hint-device")
"""The policies that choose by load hints, and so by the batches that came before."""

ONE_REPLICA = ("primary", "nearest", "table", "sglang-static", "vllm-ascend")
"""The policies by which each source uses one replica of each expert, the same in every batch."""

TILE_AWARE = ("capacity-fill", "least-loaded", "optimal", LEAST_ACTIVE)
"""The policies that count loads in tiles where the unit is tiles, and so fill a tile before they begin another."""

FIXED = ("weights", "table")
"""The policies that choose by what train batches taught alone: shares of replicas, or one replica for each source."""
