"""Which experts the same tokens choose."""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel


def pair_counts(chosen: Ints, experts: int) -> Ints:
    """Tokens that chose both of two experts, `[expert, expert]` int64, symmetric, zero on the diagonal.

    chosen `[..., k]` uint16 expert ids, no doubles within the k. Counted pair by pair, as the product of sparse
    incidence matrices takes some thirty times as long.
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


def lift(pairs: Ints, counts: Ints, tokens: int) -> Floats:
    """How much oftener two experts meet than if tokens chose each on its own, `[expert, expert]`: P(x, y) / P(x) P(y).

    pairs `[expert, expert]` as of `pair_counts`; counts `[expert]` tokens that chose an expert, of `tokens` in all.
    nan where an expert was never chosen, and on the diagonal, as a token chooses an expert once.
    """
    with np.errstate(invalid="ignore"):
        found: Floats = pairs * float(tokens) / np.outer(counts, counts)
    np.fill_diagonal(found, np.nan)
    return found


def hyperedges(chosen: Ints) -> tuple[Ints, Ints]:
    """The distinct expert sets of all tokens, `[edge, k]` sorted ids, and how many tokens chose each, `[edge]` int64.

    chosen `[..., k]` expert ids in any order. Heaviest first, sets of one weight in the order of their ids.
    """
    sets = np.sort(chosen.reshape(-1, chosen.shape[-1]), axis=1)
    sets = sets[np.lexsort(sets.T[::-1])]
    first = np.flatnonzero(np.concatenate([[len(sets) > 0], (sets[1:] != sets[:-1]).any(axis=1)]))
    weights = np.diff(first, append=len(sets))
    heaviest = np.argsort(-weights, kind="stable")
    return sets[first[heaviest]], weights[heaviest]
