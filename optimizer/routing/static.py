"""Kernels of the policies that do not look at loads: round robin, hash, table and fixed shares.

All kernels take experts `[batch, token, k]` and return the flat slot of each pair, `[batch, token, k]` int32. start
`[expert + 1]` and slot `[replica]` are those of `RoutingContext`: the replicas of expert e are the flat slots
slot[start[e] : start[e + 1]] in order of rank.
"""

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.copying import copy
from formulations.kit.kernels import kernel

WHOLE_SHARE, FARTHEST = 1 << 20, 21
"""The share of the nearest replica, and from how many hops beyond it on a replica has none: below a millionth part."""

HASH = 2654435761  # about 2^32 over the golden ratio: Knuth's multiplier, The Art of Computer Programming 6.4


@kernel
def round_robin(experts: Ints, source: Ints, sources: int, start: Ints, slot: Ints) -> Ints:
    """The i-th pair that a source has of an expert in a batch goes to its replica of rank i modulo the number of them.

    source `[batch, token]` int32, of which there are `sources`.
    """
    batches, tokens, k = experts.shape
    chosen = np.empty((batches, tokens, k), dtype=np.int32)
    turn = np.empty((sources, len(start) - 1), dtype=np.int32)
    for batch in range(batches):
        for own in turn:
            copy(start, own)
        for token in range(tokens):
            own = turn[source[batch, token]]
            for choice in range(k):
                expert = experts[batch, token, choice]
                chosen[batch, token, choice] = slot[own[expert]]
                own[expert] += 1
                if own[expert] == start[expert + 1]:
                    own[expert] = start[expert]
    return chosen


@kernel
def hashed(experts: Ints, start: Ints, slot: Ints) -> Ints:
    """A pair goes to the replica whose rank is a hash of the pair's place in the batch, modulo the number of replicas.

    The hash is the upper half of the 32-bit product with `HASH`, as the lower bits of such a product are less mixed.
    """
    batches, tokens, k = experts.shape
    chosen = np.empty((batches, tokens, k), dtype=np.int32)
    for batch in range(batches):
        for token in range(tokens):
            for choice in range(k):
                expert = experts[batch, token, choice]
                mixed = ((token * k + choice) * HASH & 0xFFFFFFFF) >> 16
                chosen[batch, token, choice] = slot[start[expert] + mixed % (start[expert + 1] - start[expert])]
    return chosen


@kernel
def by_table(experts: Ints, source: Ints, table: Ints) -> Ints:
    """A pair goes to the flat slot that table `[source, expert]` names; source `[batch, token]` int32."""
    batches, tokens, k = experts.shape
    chosen = np.empty((batches, tokens, k), dtype=np.int32)
    for batch in range(batches):
        for token in range(tokens):
            row = table[source[batch, token]]
            for choice in range(k):
                chosen[batch, token, choice] = row[experts[batch, token, choice]]
    return chosen


@kernel
def weighted_round_robin(experts: Ints, source: Ints, sources: int, start: Ints, slot: Ints, share: Ints) -> Ints:
    """Each source deals out its pairs of each expert in proportion to share `[row, replica]` int64.

    source `[batch, token]` int32, of which there are `sources`; every batch begins with the credit of `first_credit`.
    share has one row for all sources or one for each. The shares of an expert may have any sum; if all are zero, its
    replicas get equal ones.
    """
    chosen = np.empty(experts.shape, dtype=np.int32)
    part, whole = whole_shares(start, share)
    first = first_credit(sources, start, part, whole)
    for batch in range(len(experts)):
        one = slice(batch, batch + 1)
        dealt = deal_out(experts[one], source[one], first.copy(), start, slot, part, whole)
        for token in range(experts.shape[1]):
            copy(dealt[0, token], chosen[batch, token])
    return chosen


@kernel
def deal_out(experts: Ints, source: Ints, credit: Ints, start: Ints, slot: Ints, part: Ints, whole: Ints) -> Ints:
    """Deal out pairs by weighted round robin from the credit that replicas have, and keep the credit up to date.

    credit `[source, replica]` int64; part and whole are those of `whole_shares`.
    """
    batches, tokens, k = experts.shape
    chosen = np.empty((batches, tokens, k), dtype=np.int32)
    for batch in range(batches):
        for token in range(tokens):
            own, row = credit[source[batch, token]], source[batch, token] % len(part)
            for choice in range(k):
                expert = experts[batch, token, choice]
                chosen[batch, token, choice] = slot[deal(expert, own, start, part[row], whole[row])]
    return chosen


@kernel
def near_shares(start: Ints, hops: Ints) -> Ints:
    """Shares that halve with every hop beyond the nearest replica, `[source, replica]` int64, in parts of any sum.

    hops `[source, replica]` int32. Where an expert has a replica with no hop at all the others get nothing: what stays
    keeps no link busy, and where every row holds a shared expert and has as many tokens as fill tiles, these stay
    whole. Halving (of factors of .37 to .78 a hop) is the best or nearly so in mean and p99 latency on selection
    batches of the built-in trace, at 512 and 2,048 tokens.
    """
    share = np.zeros(hops.shape, dtype=np.int64)
    for source in range(len(hops)):
        for expert in range(len(start) - 1):
            own = hops[source, start[expert] : start[expert + 1]]
            nearest = own.min()
            for replica in range(len(own)):
                if own[replica] == nearest or nearest > 0:
                    share[source, start[expert] + replica] = WHOLE_SHARE >> min(own[replica] - nearest, FARTHEST)
    return share


@kernel
def whole_shares(start: Ints, share: Ints) -> tuple[Ints, Ints]:
    """The shares `[row, replica]` and their sums over each expert's replicas `[row, expert]`, both int64; equal shares
    for an expert that has none but zeros."""
    part, whole = share.copy(), np.empty((len(share), len(start) - 1), dtype=np.int64)
    for row in range(len(share)):
        for expert in range(len(start) - 1):
            held = part[row, start[expert] : start[expert + 1]]
            if held.sum() == 0:
                held[:] = 1
            whole[row, expert] = held.sum()
    return part, whole


@kernel
def first_credit(sources: int, start: Ints, part: Ints, whole: Ints) -> Ints:
    """The credit of replicas from which each source begins, `[source, replica]` int64.

    Source s begins as if it had dealt out s pairs of every expert before. So sources that have few pairs of an expert
    each do not all send them to its first replica. part and whole are those of `whole_shares`.
    """
    credit = np.zeros((sources, part.shape[1]), dtype=np.int64)
    for source in range(1, sources):
        row, rounds = source % len(part), source
        if len(part) == 1:  # what the source before has dealt out, and a round more
            copy(credit[source - 1], credit[source])
            rounds = 1
        for _ in range(rounds):
            for expert in range(whole.shape[1]):
                deal(expert, credit[source], start, part[row], whole[row])
    return credit


@kernel
def deal(expert: int, credit: Ints, start: Ints, part: Ints, whole: Ints) -> int:
    """The replica that serves the next pair of an expert, an index into `slot`; credit `[replica]` is kept up to date.

    Every pair adds to the credit of each replica its share, and goes to the replica with the most credit, which pays
    the sum of the expert's shares. So after n pairs a replica has served about n times its part of that sum.
    """
    best = int(start[expert])
    if start[expert + 1] - best > 1:
        for replica in range(start[expert], start[expert + 1]):
            credit[replica] += part[replica]
            if credit[replica] > credit[best]:
                best = replica
        credit[best] -= whole[expert]
    return best
