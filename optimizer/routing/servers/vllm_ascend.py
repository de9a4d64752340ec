"""vllm-ascend's choice with a static expert map, as of its release 0.23: rank r uses copy r modulo the copies."""

import numpy as np

from formulations.kit.arrays import Ints


def rank_table(start: Ints, slot: Ints, sources: int) -> Ints:
    """The flat slot that each source uses of each expert, `[source, expert]` int32; start `[expert + 1]` and slot
    `[replica]` are those of `RoutingContext`."""
    copies = np.diff(start)
    table: Ints = slot[start[:-1] + np.arange(sources)[:, None] % copies]
    return table
