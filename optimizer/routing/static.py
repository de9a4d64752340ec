"""Policies that follow from a token's place in the batch alone, as kernels over whole batches.

experts and the result `[batch, token, k]`; start, slot: the replicas of each expert, see `Site`.
"""

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel

HASH = 2654435761  # Knuth's multiplier for 32 bits, The Art of Computer Programming 6.4


@kernel
def round_robin(experts: Ints, start: Ints, slot: Ints) -> Ints:
    """An expert's i-th pair goes to its replica of rank i mod replicas."""
    batches, tokens, k = experts.shape
    chosen = np.empty((batches, tokens, k), dtype=np.int32)
    turn = np.empty(len(start) - 1, dtype=np.int32)
    for batch in range(batches):
        turn[:] = start[:-1]
        for token in range(tokens):
            for choice in range(k):
                expert = experts[batch, token, choice]
                chosen[batch, token, choice] = slot[turn[expert]]
                turn[expert] += 1
                if turn[expert] == start[expert + 1]:
                    turn[expert] = start[expert]
    return chosen


@kernel
def hashed(experts: Ints, start: Ints, slot: Ints) -> Ints:
    """The rank is a hash of the pair's place in the batch, modulo replicas."""
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
    """What the table `[source, expert]` says."""
    batches, tokens, k = experts.shape
    chosen = np.empty((batches, tokens, k), dtype=np.int32)
    for batch in range(batches):
        for token in range(tokens):
            row = table[source[batch, token]]
            for choice in range(k):
                chosen[batch, token, choice] = row[experts[batch, token, choice]]
    return chosen


@kernel
def weighted_round_robin(experts: Ints, start: Ints, slot: Ints, share: Ints) -> Ints:
    """Each of an expert's pairs adds to every replica's credit its share `[replica]`, whole numbers of any sum, and
    takes that sum from the richest. Shares of nothing but zero are taken as equal."""
    batches, tokens, k = experts.shape
    chosen = np.empty((batches, tokens, k), dtype=np.int32)
    credit = np.empty(len(slot), dtype=np.int64)
    part, whole = share.copy(), np.empty(len(start) - 1, dtype=np.int64)
    for expert in range(len(whole)):
        held = part[start[expert] : start[expert + 1]]
        if held.sum() == 0:
            held[:] = 1
        whole[expert] = held.sum()
    for batch in range(batches):
        credit[:] = 0
        for token in range(tokens):
            for choice in range(k):
                expert = experts[batch, token, choice]
                best = start[expert]
                if start[expert + 1] - best > 1:
                    for replica in range(start[expert], start[expert + 1]):
                        credit[replica] += part[replica]
                        if credit[replica] > credit[best]:
                            best = replica
                    credit[best] -= whole[expert]
                chosen[batch, token, choice] = slot[best]
    return chosen
