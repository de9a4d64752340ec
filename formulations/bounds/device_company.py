"""What the messages of an expert cost at least where those who share them are on one device: results, above all.

A device is the same for tokens of all sources. So a replica has one company, that of the other slots of its device, and
not one for each source. Where sources differ in what they choose together, that is less.

A token may travel past the nearest replica for the sake of company, but only where there is so much of it that the
longer way pays. Let m experts share its message on a way that is at least q times as long as that to the nearest
replica, and X be what shifts take off. For each hop as far as the nearest replica the expert is charged 1/m - X or
more. For hops beyond it is charged as much, but never less than nothing: whoever would be is left out there, and the
others share the hop. That is q (1/m - X) or more in all, and `_taken_off` draws a line below it.

The charges by hop of `crossings` hold for messages that are shared in this way, too. So the larger of both counts for
each expert.
"""

from dataclasses import dataclass

import numpy as np

from formulations.bounds.message_splits import Split
from formulations.bounds.sharing import Sharing, alone
from formulations.kit.arrays import Floats, Ints

DETOURS = np.array([1.0, 1.25, 1.5, 2.0, 3.0])
"""Ways that are told apart, as multiples of that to the nearest replica, rounded down; a third of a message is the
least that one of three in a message can be charged, so that more than three times as long a way never pays for two
others. Links on train batches of the home case: 23.72 us with these, 23.65 with 1, 2 and 3, 23.45 with 1 alone."""

SETS_AT_ONCE = 64
"""Sets of places whose gains are held at a time, so that memory does not grow with their number; not tuned."""


@dataclass(frozen=True, eq=False)
class DeviceCompany:
    """What company on devices takes off the charges of a stage.

    gain `[source, detour, expert * expert]`: what the second expert takes off the charge of the first for a message
    that costs one to the nearest replica, if it shares as many as it can on ways of that length. charge `[source,
    expert]`: of such messages without company. way `[source, place]`: what a message costs. company: how many others
    a replica has.
    """

    gain: Floats
    charge: Floats
    way: Floats
    company: int

    @classmethod
    def of(cls, together: Ints, distance: Ints, stage: Sharing, split: Split) -> "DeviceCompany":
        """The company of a stage that is the same at every hop; together and distance as of `crossings_bounds`.

        Of the lines of the split the middle one is taken, as they are for sources that differ.
        """
        slope, experts = split.middle, together.shape[1]
        first = alone(slope, stage.most)[0]
        shift = np.zeros((experts, experts)) if split.shift is None else split.shift
        company = min(int(stage.company.max(initial=0)), experts - 1)
        each = np.array([_taken_off(slope, first, shift, stage.most, length) for length in DETOURS])
        gain = np.array([_least_gains(of_source * each, company) for of_source in together])
        way = np.concatenate([[0.0], stage.cost.cumsum()])[distance]
        charge = first * np.diagonal(together, axis1=1, axis2=2)
        return cls(gain.reshape(*gain.shape[:2], -1), charge, way, company)

    def least(self, sets: Ints) -> Floats:
        """What experts are charged at least with replicas at these places, `[set, expert]`; sets `[set, replica]`."""
        parts = [self._least(sets[at : at + SETS_AT_ONCE]) for at in range(0, len(sets), SETS_AT_ONCE)]
        charge: Floats = np.concatenate(parts)
        return charge

    def _least(self, sets: Ints) -> Floats:
        way = self.way[:, sets]
        nearest = way.min(axis=2)
        longer = np.divide(way, nearest[:, :, None], out=np.ones_like(way), where=nearest[:, :, None] > 0)
        detour = np.searchsorted(DETOURS, longer * (1 + 1e-9), side="right") - 1
        charge: Floats = nearest.T @ self.charge
        for of_replica in np.moveaxis(detour, 2, 0):
            charge -= self._gains(nearest, of_replica)
        return charge

    def _gains(self, nearest: Floats, detour: Ints) -> Floats:
        """What the best company of a replica takes off, `[set, expert]`; nearest and detour `[source, set]`."""
        sources, sets = nearest.shape
        weight = np.zeros((sets, *self.gain.shape[:2]))
        weight[np.arange(sets)[:, None], np.arange(sources), detour.T] = nearest.T
        gain = weight.reshape(sets, -1) @ self.gain.reshape(-1, self.gain.shape[2])
        return _largest(gain.reshape(sets, self.charge.shape[1], -1), self.company)


def _taken_off(slope: Floats, first: Floats, shift: Floats, most: int, length: float) -> Floats:
    """What each other expert in a message takes off the charge of an expert, `[expert, expert]`, on a way so many times
    as long as the least; slope and first `[expert]`: of the line; most: as of `Sharing`."""
    if length == 1:
        each: Floats = np.maximum(0, slope[:, None] + shift)
    else:
        others = np.arange(1, most)
        detour = ((first[:, None] - length / (1 + others)) / others).max(axis=1, initial=0)
        each = detour[:, None] + length * np.maximum(0, shift)
    np.fill_diagonal(each, 0)
    return each


def _least_gains(gain: Floats, company: int) -> Floats:
    """Of what is known of ways at least so long, what takes least off each expert: gain `[detour, expert, expert]`."""
    best = np.minimum.accumulate(_largest(gain, company), axis=0)
    known = gain.copy()
    for longer in range(1, len(gain)):
        worse = best[longer] == best[longer - 1]
        known[longer, worse] = known[longer - 1, worse]
    return known


def _largest(gain: Floats, number: int) -> Floats:
    """The sum of so many of the largest along the last axis."""
    if number == 0:
        return np.zeros(gain.shape[:-1])
    found: Floats = np.partition(gain, -number, axis=-1)[..., -number:].sum(axis=-1)
    return found
