"""Batches as if few requests ran: what searches look at, so that they do not fit the very requests they plan on.

A batch of many users holds all train requests at once, so that all train batches are alike, and a search finds what
serves just these requests. The batches that a plan meets come from others. Batches that hold a few of the train
requests each differ as much as such batches do.
"""

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.planning.pool import SPLITTING
from optimizer.routing.policies import FIXED
from optimizer.traces.batches import Batches

USERS = 64
"""Places whose tokens make up a batch that a search looks at. Of 16, 32, 64, 128 and all it is the best or nearly so on
V2-Lite and GPT-OSS with two seeds each: with all, searches fit the train requests, and end worse than FlashLB's on
others."""

VARIOUS = (16, 64, 256)
"""Places whose tokens make up the batches that annealing looks at where tokens are split by the loads of the batch.
With one number alone results vary more between traces and sizes; figures are in benchmarks/README.md."""

ON_FEW_USERS = (*FIXED, "hint-device")
"""Policies for which annealing looks at batches of few users, too. On GPT-OSS annealing saves `hint-device` up to 2 %
of the mean latency by them, and on V2-Lite it costs nothing; `hint` needs batches in the order of time."""

TIE_USERS = {**dict.fromkeys(ON_FEW_USERS, 16), **dict.fromkeys(SPLITTING, 64)}
"""For each policy whose ties are broken on batches of few users: the places whose tokens make up such a batch. 16 are a
quarter of what searches look at, as candidates that searches have made are alike on these. Where tokens are split by
the loads of the batch there are 64, as with 16 nothing but further tiles would decide, of which a plan meets few."""


def batches_of_few_users(
    batches: Batches, rng: np.random.Generator, users: int = USERS, number: int | None = None
) -> Batches:
    """A number of batches of as many tokens, in each of which the tokens of some `users` places take all places.

    A token stands for the tokens that come from its place in a stretch of batches, one batch after another, which are
    of one request, or of few, as batches are in the order of time. So every batch has other requests, as the batches
    that a plan will meet have, and a search learns how loads vary from request to request. number None: as many as
    there are; more than that are not made.
    """
    count, tokens = batches.source_row.shape
    stretch, token = max(1, tokens // users), np.arange(tokens)
    made = count if number is None else min(number, count)
    begin = rng.integers(0, max(1, count - stretch + 1), made)
    chosen = rng.integers(0, stretch, (made, -(-tokens // stretch)))
    place = np.minimum(token // stretch * stretch + chosen[:, token // stretch], tokens - 1)
    batch = (begin[:, None] + token % stretch) % count
    return Batches(batches.experts[batch, place], batches.source_row[:made])


def loads_of_various_users(batches: Batches, load: Ints, rng: np.random.Generator) -> Ints:
    """The loads `[batch, expert]` of about as many batches of as many tokens: an equal part each in which the tokens of
    so many places as `VARIOUS` says take all places, and a part of the batches as they are.

    load `[batch, expert]`: what the batches ask of each expert.
    """
    parts = len(VARIOUS) + 1
    number = -(-batches.count // parts)
    few = [batches_of_few_users(batches, rng, users, number).load(load.shape[1]) for users in VARIOUS]
    return np.concatenate([*few, load[::parts]])
