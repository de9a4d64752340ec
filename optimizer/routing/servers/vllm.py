"""vLLM's choice, as of its release 0.33: a hash of the token's row in its own rank's batch."""

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel

HASH = 2654435769  # 2^32 over the golden ratio, vLLM's own constant


@kernel
def hashed_rows(experts: Ints, row: Ints, start: Ints, slot: Ints) -> Ints:
    """A token goes to copy (row * `HASH` mod 2^32) mod copies of each of its experts, `[batch, token, k]` int32.

    experts `[batch, token, k]`; row `[batch, token]`: the token's place among those of its source. start
    `[expert + 1]` and slot `[replica]` are those of `RoutingContext`.
    """
    batches, tokens, k = experts.shape
    chosen = np.empty((batches, tokens, k), dtype=np.int32)
    for batch in range(batches):
        for token in range(tokens):
            mixed = row[batch, token] * HASH & 0xFFFFFFFF
            for choice in range(k):
                expert = experts[batch, token, choice]
                copies = start[expert + 1] - start[expert]
                chosen[batch, token, choice] = slot[start[expert] + mixed % copies]
    return chosen
