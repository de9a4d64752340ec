"""What the messages of a stage cost, and how what they cost is charged to the experts that share them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints

TINY = 1e-12
"""Stands for nothing where something is divided by it."""


@dataclass(frozen=True, eq=False)
class Sharing:
    """What the messages of a stage cost, and how many of a token's experts can share one.

    cost `[level]`: of a message that travels farther than `level` hops, for its hop number level + 1. company
    `[level]`: how many other experts can share that hop with a replica, whatever the tokens are. most: how many experts
    of one token share it at most. fixed: whether each source uses one replica of an expert for all of its tokens, so
    that the company of one replica is all that they can have.
    """

    cost: Floats
    company: Ints
    most: int
    fixed: bool = False

    def others(self, replicas: "Replicas", experts: int) -> Ints:
        """How many other experts share hops with an expert at each choice of its replicas, `[level, choice]`, of so
        many experts in all."""
        each = np.ones_like(replicas.most) if self.fixed else replicas.most
        found: Ints = np.minimum(np.multiply.outer(self.company, each), experts - 1).astype(np.int64)
        return found


class Replicas(NamedTuple):
    """What an expert may choose from: to have `least` to `most` replicas, both `[choice]`."""

    least: Ints
    most: Ints

    @classmethod
    def up_to(cls, most: int, enough: int) -> "Replicas":
        """Choices up to so many replicas, one by one up to the number that is enough for all sources to have one at
        hand, and together beyond it, up to twice as many each time."""
        least, reached = [*range(1, min(most, enough) + 1)], min(most, enough)
        until = [*least]
        while reached < most:
            least.append(reached + 1)
            reached = min(2 * reached, most)
            until.append(reached)
        return cls(np.array(least), np.array(until))


class Split(NamedTuple):
    """How messages are charged to the experts that share them.

    slope `[expert]`: the charge of an expert is at least `alone` for each of its tokens, less slope for each other
    expert in the message; shift `[expert, expert]`: what the first is charged less, and the second more, if the two
    ever share messages from a source, as a share of the pairs that a source has on average. `shift` is what its
    transpose is with the other sign.
    """

    slope: Floats
    shift: Floats


def alone(slope: Floats, most: int) -> tuple[Floats, Ints]:
    """The largest charge of an expert in a message of its own so that the line that falls by `slope` for each other
    expert is nowhere above 1/m, with m = 1 ... most experts in the message, and the number of others at which the two
    meet; both `[expert]`."""
    others = np.arange(most)
    line = 1 / (1 + others) + np.multiply.outer(slope, others)
    meet: Ints = line.argmin(axis=1)
    return line.min(axis=1), meet


def gains(together: Floats | Ints, split: Split, pairs: float) -> tuple[Floats, Floats]:
    """What the company of each other expert takes off the charge of an expert, and the part of it that is shifted, both
    `[expert, expert]`; together: as of `even_split`; pairs: of a token and an expert that a source has on average."""
    shift: Floats = split.shift * pairs
    gain = np.maximum(0, split.slope[:, None] * together + shift)
    np.fill_diagonal(gain, 0)
    return gain, shift


def largest_sums(gain: Floats, number: Ints) -> Floats:
    """The sums of so many of the largest gains of each expert, `[number, expert]`; gain `[expert, expert]`, of which
    none below nothing counts."""
    sums = np.sort(np.minimum(-gain, 0), axis=1).cumsum(axis=1)
    found: Floats = -np.concatenate([np.zeros((len(gain), 1)), sums], axis=1)[:, number].T
    return found


def even_split(together: Floats, stage: Sharing) -> Split:
    """A split without shifts, with the slopes that are best if each expert has the company that it is chosen with most
    often; together `[expert, expert]` tokens that chose both, on the diagonal those that chose the expert."""
    experts = len(together)
    friends = -np.sort(-(together - np.diag(np.diag(together))), axis=1)
    number = int(np.clip(stage.company.mean(), 0, experts - 1)) if len(stage.company) else 0
    company = friends[:, :number].sum(axis=1) / np.maximum(np.diag(together), TINY)
    k = np.clip(np.floor(company) + 1, 1, max(1, stage.most - 1))
    return Split(1 / (k * (k + 1)), np.zeros((experts, experts)))
