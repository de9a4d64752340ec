"""What experts are charged for the hops of their tokens, and for which hops at least, by where their replicas are."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations, combinations_with_replacement
from math import comb

import numpy as np

from formulations.bounds.message_splits import Split
from formulations.bounds.sharing import Replicas, Sharing
from formulations.kit.arrays import Floats, Ints

MOST_SETS = 600
"""Sets of places for the replicas of an expert up to which all are tried: up to three replicas on 16 mesh rows, where
nearly all experts have no more, and one on hundreds of ranks. Not tuned."""


@dataclass(frozen=True, eq=False)
class Charges:
    """What the tokens of each source are charged for a hop.

    by_hop: for each level `[source, number, expert]`, with several numbers of others that can be company; which
    `[level, choice]` of them those are at a choice of replicas; price `[level]` of a message; size: how many sources
    and experts there are, as there may be no hops. No charge is below nothing: whoever would be charged so is left out
    of all messages, as others are not charged less without it.
    """

    by_hop: Sequence[Floats]
    which: Ints
    price: Floats
    size: tuple[int, int]

    @classmethod
    def of(cls, together: Ints, stage: Sharing, split: Split, replicas: Replicas) -> "Charges":
        """The charges of this split."""
        others, size = stage.others(replicas, together.shape[1]), together.shape[:2]
        if split.by_hop:
            groups, every = stage.groups(replicas), np.arange(len(replicas.most))
            found = [
                np.array([at_hop.least_charges(of_source, number, groups, stage.most) for of_source in together])
                for at_hop, number in zip(split.by_hop, others, strict=True)
            ]
            return cls(found, np.tile(every, (len(others), 1)), stage.cost, size)
        number, which = np.unique(others, return_inverse=True)
        charge = np.array([split.least_charges(of_source, number, stage.most) for of_source in together])
        return cls([np.maximum(0, charge)] * len(others), which.reshape(others.shape), stage.cost, size)

    def of_hops(self, choice: int) -> Floats:
        """What an expert with a choice of replicas is charged for each hop, `[level, source, expert]`."""
        which = self.which[:, choice]
        at_hops = [charge[:, number] for charge, number in zip(self.by_hop, which, strict=True)]
        charged: Floats = self.price[:, None, None] * np.array(at_hops).reshape(len(at_hops), *self.size)
        return charged


@dataclass(frozen=True, eq=False)
class Reach:
    """How far sources are from the replicas of an expert at least: distance `[source, place]` from the places that
    differ in it, devices `[place]` that each has, and within `[level]`: how many sources lie within so many hops of a
    device, at most."""

    distance: Ints
    devices: Ints
    within: Ints

    @classmethod
    def of(cls, distance: Ints, within: list[int]) -> "Reach":
        return cls(*np.unique(distance, axis=1, return_counts=True), np.array(within))

    def sets(self, count: int) -> Ints | None:
        """All sets of places for so many replicas, `[set, replica]`; None if there are too many to try."""
        places = self.distance.shape[1]
        if count > places or comb(places, count) > MOST_SETS:
            return None
        return np.array(list(combinations(range(places), count)))

    def multisets(self, count: int) -> Ints | None:
        """The same, and those with several replicas at one place, as far as it has devices: these reach no more sources
        than one of them, but have more company."""
        if comb(len(self.devices) + count - 1, count) > MOST_SETS:
            return None
        found = np.array(list(combinations_with_replacement(range(len(self.devices)), count)))
        places = np.arange(len(self.devices))
        fits = ((found[:, :, None] == places).sum(axis=1) <= self.devices).all(axis=1)
        held: Ints = found[fits]
        return held

    def placed(self, charge: Floats, sets: Ints) -> Floats:
        """The charges of each expert with replicas at these places, `[set, expert]`; charge `[level, source,
        expert]`."""
        until = np.concatenate([np.zeros((1, *charge.shape[1:])), charge.cumsum(axis=0)])
        total = np.zeros((len(sets), charge.shape[2]))
        for source, far in enumerate(self.distance):
            at_place = until[far, source]
            total += reduce(np.minimum, (at_place[place] for place in sets.T))
        return total

    def reached(self, charge: Floats, count: int) -> Floats:
        """The least charges of each expert with so many replicas, `[expert]`, if the sources within reach are those
        that would be charged most, whichever these are; charge `[level, source, expert]`, not below nothing."""
        sources, least = charge.shape[1], np.zeros(charge.shape[2])
        for of_level, near in zip(charge, self.within, strict=True):
            beyond = max(0, sources - count * int(near))
            least += np.sort(of_level, axis=0)[:beyond].sum(axis=0)
        return least
