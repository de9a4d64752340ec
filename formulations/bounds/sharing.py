"""What the messages of a stage cost, who can share them, and what sharing takes off."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints

TINY = 1e-12
"""Stands for nothing where something is divided by it."""

FINE = 8
"""Numbers of replicas are told apart up to such a part of them, so up to 16 one by one; of others the bound knows only
that they take as many slots as the least of a few, and win as much as the most. Not tuned."""


@dataclass(frozen=True, eq=False)
class Sharing:
    """What the messages of a stage cost, and how many of a token's experts can share one.

    cost `[level]`: of a message that travels farther than `level` hops, for its hop number level + 1. company
    `[level]`: how many other experts can share that hop with a replica, whatever the tokens are. most: how many experts
    of one token share it at most. fixed: whether each source uses one replica of an expert for all of its tokens, so
    that the company of one replica is all that they can have. on_device: whether those who share a message are on one
    device, so that its company is the same for all hops and sources.
    """

    cost: Floats
    company: Ints
    most: int
    fixed: bool = False
    on_device: bool = False

    def others(self, replicas: "Replicas", experts: int) -> Ints:
        """How many other experts share hops with an expert at each choice of its replicas, `[level, choice]`, of so
        many experts in all."""
        found: Ints = np.minimum(np.multiply.outer(self.company, self.groups(replicas)), experts - 1).astype(np.int64)
        return found

    def groups(self, replicas: "Replicas") -> Ints:
        """In how many groups of experts that share messages of a source an expert is at most, `[choice]`."""
        return np.ones_like(replicas.most) if self.fixed else replicas.most


class Replicas(NamedTuple):
    """What an expert may choose from: to have `least` to `most` replicas, both `[choice]`."""

    least: Ints
    most: Ints

    @classmethod
    def up_to(cls, most: int, enough: int) -> "Replicas":
        """Choices up to so many replicas, told apart up to a part of `FINE`; beyond the number that is enough for all
        sources to have one at hand, up to twice as many at once."""
        until = [1]
        while (last := until[-1]) < most:
            until.append(min(most, last + (max(1, last // FINE) if last < enough else last)))
        return cls(np.array([1, *(1 + last for last in until[:-1])]), np.array(until))


def alone(slope: Floats, most: int) -> tuple[Floats, Ints]:
    """The largest charge of an expert in a message of its own so that the line that falls by `slope` for each other
    expert is nowhere above 1/m, with m = 1 ... most experts in the message, and the number of others at which the two
    meet; both `[expert]`."""
    others = np.arange(most)
    line = 1 / (1 + others) + np.multiply.outer(slope, others)
    meet: Ints = line.argmin(axis=1)
    return line.min(axis=1), meet


def gains(together: Floats | Ints, slope: Floats, shift: Floats) -> Floats:
    """What the company of each other expert takes off the charge of an expert, `[expert, expert]`."""
    return without_own(together * np.maximum(0, slope[:, None] + shift))


def largest_sums(gain: Floats | Ints, number: Ints) -> Floats:
    """The sums of so many of the largest gains of each expert, `[number, expert]`; gain `[expert, expert]`, of which
    none below nothing counts."""
    sums = np.sort(np.minimum(-gain, 0), axis=1).cumsum(axis=1)
    found: Floats = -np.concatenate([np.zeros((len(gain), 1)), sums], axis=1)[:, number].T
    return found


def even_slope(together: Floats, stage: Sharing) -> Floats:
    """The slopes `[expert]` that are best without shifts if each expert has the company that it is chosen with most
    often; together `[expert, expert]` tokens that chose both, on the diagonal those that chose the expert."""
    experts = len(together)
    number = int(np.clip(stage.company.mean(), 0, experts - 1)) if len(stage.company) else 0
    company = largest_sums(without_own(together), np.array([number]))[0] / np.maximum(np.diag(together), TINY)
    k = np.clip(np.floor(company) + 1, 1, max(1, stage.most - 1))
    slope: Floats = 1 / (k * (k + 1))
    return slope


def without_own(of_pairs: Floats | Ints) -> Floats:
    """A figure of pairs `[expert, expert]` with nothing for an expert with itself."""
    found: Floats = np.multiply(of_pairs, ~np.eye(len(of_pairs), dtype=np.bool_), dtype=np.float64)
    return found
