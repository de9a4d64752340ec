"""Which experts the same tokens choose."""

import numpy as np

from formulations.arrays import Ints
from optimizer.kernels import kernel


def pair_counts(chosen: Ints, experts: int) -> Ints:
    """Tokens that chose both of two experts, `[expert, expert]` int64, symmetric, zero on the diagonal.

    chosen `[..., k]` uint16 expert ids, no doubles within the k.
    """
    counts = np.zeros((experts, experts), dtype=np.int64)
    _count_pairs(np.ascontiguousarray(chosen.reshape(-1, chosen.shape[-1]), dtype=np.uint16), counts)
    return counts + counts.T


@kernel
def _count_pairs(chosen: Ints, counts: Ints) -> None:
    """Add each unordered pair of each token once, on the side where it is met."""
    tokens, k = chosen.shape
    for token in range(tokens):
        for first in range(k):
            for second in range(first + 1, k):
                counts[chosen[token, first], chosen[token, second]] += 1
