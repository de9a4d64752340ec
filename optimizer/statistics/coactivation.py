"""Co-activation: which experts the same tokens choose, as counts, as lift and as expert sets."""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel


def pair_counts(chosen: Ints, experts: int) -> Ints:
    """How many tokens chose both of two experts, `[expert, expert]` int64, symmetric, zero on the diagonal.

    chosen `[..., k]` expert ids below `experts`, no id twice within the k of a token. The counts are made pair by pair,
    as the product of sparse incidence matrices takes some thirty times as long.
    """
    counts = np.zeros((experts, experts), dtype=np.int64)
    _count_pairs(np.ascontiguousarray(chosen.reshape(-1, chosen.shape[-1]), dtype=np.uint16), counts)
    return counts + counts.T


@kernel
def _count_pairs(chosen: Ints, counts: Ints) -> None:
    """Add each pair of experts of each token of chosen `[token, k]` once to counts `[expert, expert]`.

    A pair is added at (first, second) in the order in which the token names its experts, so counts are not symmetric.
    """
    tokens, k = chosen.shape
    for token in range(tokens):
        for first in range(k):
            for second in range(first + 1, k):
                counts[chosen[token, first], chosen[token, second]] += 1


def lift(pairs: Ints, counts: Ints, tokens: int) -> Floats:
    """How much oftener tokens choose both of two experts than if choices were independent, `[expert, expert]`.

    This is P(x and y) / (P(x) P(y)), with 1 for independent choices. pairs `[expert, expert]` as of `pair_counts`;
    counts `[expert]`: the tokens that chose each expert, of `tokens` in all. The lift is nan where an expert was never
    chosen, and on the diagonal, as a token chooses an expert at most once.
    """
    with np.errstate(invalid="ignore"):
        found: Floats = pairs * float(tokens) / np.outer(counts, counts)
    np.fill_diagonal(found, np.nan)
    return found


def hyperedges(chosen: Ints) -> tuple[Ints, Ints]:
    """The distinct expert sets of tokens, `[edge, k]` sorted ids, and how many tokens chose each set, `[edge]` int64.

    chosen `[..., k]` expert ids in any order. The sets that most tokens chose come first; sets that equally many tokens
    chose are in the order of their ids. Such sets are the edges of a hypergraph with experts as its nodes.
    """
    sets = np.sort(chosen.reshape(-1, chosen.shape[-1]), axis=1)
    sets = sets[np.lexsort(sets.T[::-1])]
    first = np.flatnonzero(np.concatenate([[len(sets) > 0], (sets[1:] != sets[:-1]).any(axis=1)]))
    weights = np.diff(first, append=len(sets))
    heaviest = np.argsort(-weights, kind="stable")
    return sets[first[heaviest]], weights[heaviest]
