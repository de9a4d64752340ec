"""The policies that choose by load hints: they route batches in the order of time, and remember what they have seen.

What they remember is in `RoutingContext.memory`, so batches may come in parts of any size, as long as all parts are
routed with the same context.
"""

from collections.abc import Callable

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.network import rank_in_row
from optimizer.routing import static
from optimizer.routing.context import RoutingContext
from optimizer.routing.forecast import count_pairs
from optimizer.routing.hints import ENTRIES
from optimizer.routing.servers.vllm import hashed_rows


def hint(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """Each replica gets the share of its expert's pairs that would have levelled recent loads, dealt out by weighted
    round robin inside each source, whose remainders are carried from batch to batch.

    Needs load hints at run time, and what the source itself has counted.
    """
    memory = context.memory

    def choose(pairs: Ints, home: Ints) -> Ints:
        part, whole = memory.loads.parts()
        return static.deal_out(pairs, home, memory.credit, context.start, context.slot, part[None], whole[None])

    return _in_order(experts, source, context, choose)


def hint_table(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """Each source uses one replica of each expert, by a table that would have levelled recent loads.

    Needs load hints at run time, as a table that is replaced from time to time.
    """

    def choose(pairs: Ints, home: Ints) -> Ints:
        return static.by_table(pairs, home, context.slot[context.memory.loads.table()])

    return _in_order(experts, source, context, choose)


def hint_random(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """vLLM's hash of the token's place in its source's part of the batch picks one of the expert's entries, of which
    each replica has as many as the share that would have levelled recent loads.

    Needs load hints at run time, as a table of entries that is replaced from time to time.
    """
    start = np.arange(len(context.start), dtype=np.int32) * ENTRIES

    def choose(pairs: Ints, home: Ints) -> Ints:
        row = rank_in_row(home, context.network.sources)
        return hashed_rows(pairs, row, start, context.slot[context.memory.loads.entries()].ravel())

    return _in_order(experts, source, context, choose)


def hint_device(experts: Ints, source: Ints, context: RoutingContext) -> Ints:
    """Each pair goes to the replica on the device to which its source has sent the least, counting for each device
    what it has served too much of in recent batches.

    Needs the last known loads of devices at run time, and what the source itself has sent to each.
    """
    return context.memory.spilled(experts, source)


def _in_order(experts: Ints, source: Ints, context: RoutingContext, choose: Callable[[Ints, Ints], Ints]) -> Ints:
    """Route batch by batch, and let the hints learn of each; choose takes and gives one batch `[1, token, k]`."""
    chosen = np.empty(experts.shape, dtype=np.int32)
    counts = np.zeros((context.network.sources, len(context.start) - 1), dtype=np.int32)
    for batch in range(len(experts)):
        chosen[batch] = choose(experts[batch : batch + 1], source[batch : batch + 1])[0]
        count_pairs(experts[batch], source[batch], counts)
        context.memory.loads.observe(counts)
    return chosen
