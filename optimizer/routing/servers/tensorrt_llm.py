"""TensorRT-LLM's choice, as of its release 1.2: round robin inside a rank, which every block of its pairs begins anew.

Read in the kernel moeComputeRouteKernel and in its caller. A thread block takes 256 x 4 pairs of the rank. It counts
the pairs of each expert from its own number in the grid on, and from the rank's number on, where every rank has tokens
of its own (attention data parallelism), as the sources here have.
"""

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel

BLOCK = 1024  # pairs that a thread block takes: 256 threads, 4 pairs each


@kernel
def blockwise_round_robin(experts: Ints, source: Ints, sources: int, start: Ints, slot: Ints) -> Ints:
    """A pair goes to copy (pairs of its expert before it in the block + block + source) mod copies: the flat slots,
    `[batch, token, k]` int32.

    experts `[batch, token, k]`; source `[batch, token]`, of which there are `sources`. Pairs of a source are numbered
    in token order, and those of a token in the order of its experts. start `[expert + 1]` and slot `[replica]` are
    those of `RoutingContext`.
    """
    batches, tokens, k = experts.shape
    chosen = np.empty((batches, tokens, k), dtype=np.int32)
    before = np.empty((sources, len(start) - 1), dtype=np.int64)
    pairs = np.empty(sources, dtype=np.int64)
    for batch in range(batches):
        before[:] = 0
        pairs[:] = 0
        for token in range(tokens):
            home = source[batch, token]
            for choice in range(k):
                block, place = divmod(pairs[home], BLOCK)
                if place == 0:
                    before[home] = 0
                pairs[home] += 1
                expert = experts[batch, token, choice]
                copies = start[expert + 1] - start[expert]
                chosen[batch, token, choice] = slot[start[expert] + (before[home, expert] + block + home) % copies]
                before[home, expert] += 1
    return chosen
