"""Bounds that no placement goes below: what the hops of all tokens cost, in all stages together.

A token is sent to every device that serves any of its experts. Where m of its experts share a message, each of them
is charged 1/m of every hop that they share. So the cost of all hops is a sum over tokens and experts. Everything here
follows from three facts about an expert with n replicas:

1. *Company.* Its replicas can share a hop with at most n * company other experts, those that are near enough; with
   company alone for the tokens of one source, if they all use one replica. As 1/m is convex, it is nowhere below the
   line a - b (m - 1) of any slope b that touches it from below. So c tokens that have chosen the expert are charged
   a c at least, less b for every (token, other expert) pair of the company; and of the pairs no more count than those
   with the experts that are chosen with it most often.
2. *Mutual company.* If two experts ever share a hop, each is company to the other. So one of them may be charged more
   by any amount, and the other less, for each source and hop where they are company: nothing changes in the sum. The
   best amounts are found by `split_ascent`; what one expert thus gains by much company is borne by the company.
3. *Reach.* No device has more than K_h sources within h hops, so the replicas have at most n K_h of them; tokens of all
   other sources travel farther than h, for each h. Where there are few sets of places for the replicas all are tried.
   Whoever is that near to a source is not counted as company on its hop h + 1, which it would not need.

The least charge of an expert thus depends on n alone, and all n sum up to the number of slots at most. That is a
knapsack over replica counts, which is solved exactly. The bounds hold for one placement of all batches and for any
routing by which every pair is served by a replica of its expert, even if the routing differs from token to token.

Which messages are shared: results travel alone, one from each device, so that company is what a device has in its other
slots, for every hop. A multicast along a ring passes all targets of a token in its direction; hop x is shared by those
that are x or more hops away, in the same ring and direction. Half of what goes to the antipode travels either way and
is shared with the targets on that side; so a neighbour on one side counts half as company.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from math import comb

import numpy as np

from formulations.bounds.sharing import Replicas, Sharing, Split
from formulations.bounds.slot_knapsack import least_sum
from formulations.bounds.split_ascent import Demand, best_tilts
from formulations.kit.arrays import Floats, Ints

MOST_SETS = 600
"""Sets of places for the replicas of an expert up to which all are tried: up to three replicas on 16 mesh rows, where
nearly all experts have no more, and one on hundreds of ranks. Not tuned."""

MOST_TOGETHER = 1 << 21
"""Sources times pairs of experts up to which shifts are looked for: as many as on 32 x 16 devices with 256 experts,
where all bounds of a layer take 8 s. With 1,024 experts on 16 x 8 devices shifts would take them from 16 s to 82."""

SLOPES = np.array([[0.5], [1.0], [2.0]])
"""The lines of a split, by how steep they are beside that of the ascent: what is best for the mean of sources and for
the replicas that an expert has there is not best for each source and every number of replicas. Links on train batches
of the home case, with .85 of the shifts: 23.05 us with the line of the ascent alone, 23.13 with three."""

PART_OF_SHIFTS = 0.9
"""Shifts that are best for the mean of sources are too large where sources differ. Train batches of the home case: 23.3
us with all of them, 23.2 with .9, 23.0 with .8; a compromise, as other batches may differ more."""


def crossings_splits(
    together: Ints, distance: Ints, stages: Sequence[Sharing], slots: int, shifted: bool = True
) -> tuple[list[Split], float]:
    """How messages are split for the bound on the sum of these stages to be large, and that bound; arguments as of
    `crossings_bounds`. Nothing is shifted if that is better, if shifted is false, or of more than `MOST_TOGETHER`
    pairs."""
    tried = [[Split.unshifted(stage, together.shape[1]) for stage in stages]]
    if shifted and together.size <= MOST_TOGETHER:
        spare, within = _spare(together.shape[1], slots), _within(distance)
        tilts = best_tilts(Demand.of(together, within, _replicas(distance, within, spare), spare), stages)
        tried.append([Split(SLOPES * tilt.slope, PART_OF_SHIFTS * tilt.shift) for tilt in tilts])
    every = [range(len(stages))]
    values = [crossings_bounds(together, distance, stages, slots, every, splits)[0] for splits in tried]
    best = int(np.argmax(values))
    return tried[best], values[best]


def crossings_bounds(
    together: Ints,
    distance: Ints,
    stages: Sequence[Sharing],
    slots: int,
    sums: Sequence[Sequence[int]],
    splits: Sequence[Split],
) -> list[float]:
    """Lower bounds on what the hops of all tokens cost, for any one placement in these slots: one for each of the sums,
    which name stages by their numbers.

    together `[source, expert, expert]`: tokens of each source that chose both experts, on the diagonal those that chose
    the expert; distance `[source, device]` hops. The stages of a sum share the counts of replicas, as one placement
    serves them all. splits: of `crossings_splits`, perhaps of other batches; any are valid. So the bound is if experts
    are left out of `together`, even if their slots are counted in `slots`.
    Raises ValueError with fewer slots than experts.
    """
    spare, within = _spare(together.shape[1], slots), _within(distance)
    replicas = _replicas(distance, within, spare)
    charges = [_Charges.of(together, stage, split, replicas) for stage, split in zip(stages, splits, strict=True)]
    reach, nothing = _Reach.of(distance, within), np.zeros((len(within), *together.shape[:2]))

    def cost(of_sum: Sequence[int], choice: int) -> Floats:
        charge = sum((charges[stage].of_hops(choice) for stage in of_sum), start=nothing)
        return reach.least(charge, int(replicas.most[choice]))

    choices = range(len(replicas.least))
    return [least_sum(np.array([cost(of_sum, choice) for choice in choices]), replicas.least, spare) for of_sum in sums]


def crossings_of_batches(load: Ints, distance: Ints, stages: Sequence[Sharing], slots: int) -> Floats:
    """A lower bound on what the hops of each batch cost, for any placement, even one for that batch alone, `[batch]`.

    load `[batch, source, expert]` pairs. Company is taken as the best there can be, as in a single batch it is near to
    that: every message is shared by `most` experts. The cost of an expert is then convex in its replicas, as the
    sources that they reach, the heaviest first, win ever less; so the replicas that win most are the best.
    Raises ValueError with fewer slots than experts.
    """
    spare, sources = _spare(load.shape[2], slots), load.shape[1]
    lightest = np.sort(load, axis=1).cumsum(axis=1, dtype=np.float64).swapaxes(1, 2)
    within = _within(distance)
    counts = np.arange(1, min(_enough(distance, within), distance.shape[1], 1 + spare) + 1)
    price = np.zeros((sources, len(counts)))  # of the sources that are left, by how many they are, for each count
    for level, near in enumerate(within):
        left = sources - counts * near
        of_level = sum(float(stage.cost[level]) / stage.most for stage in stages)
        price[left[left > 0] - 1, np.flatnonzero(left > 0)] += of_level
    cost = lightest @ price
    saved = -np.diff(cost, axis=2).reshape(len(load), -1)
    if spare < saved.shape[1]:
        saved = -np.partition(-saved, spare, axis=1)[:, :spare]
    least: Floats = cost[:, :, 0].sum(axis=1) - saved.sum(axis=1)
    return least


def _spare(experts: int, slots: int) -> int:
    """The slots that are left when every expert has one."""
    if slots < experts:
        raise ValueError(f"{experts} experts do not fit in {slots} slots")
    return slots - experts


def _replicas(distance: Ints, within: list[int], spare: int) -> Replicas:
    """What an expert may choose from."""
    return Replicas.up_to(min(distance.shape[1], 1 + spare), _enough(distance, within))


def _enough(distance: Ints, within: list[int]) -> int:
    """How many replicas of an expert are enough for no token to travel, or one more than all devices."""
    if not within:
        return 1
    return -(-len(distance) // within[0]) if within[0] else distance.shape[1] + 1


def _within(distance: Ints) -> list[int]:
    """K_h for h = 0, 1, ...: how many sources lie within h hops of a device, at most; distance `[source, device]`."""
    return [int((distance <= far).sum(axis=0).max()) for far in range(int(distance.max()))]


@dataclass(frozen=True, eq=False)
class _Charges:
    """What the tokens of each source are charged for a hop that an expert shares with the best company of so many
    others: charge `[source, number, expert]`, which `[level, choice]` the number that is the company at a choice
    of replicas, price `[level]` of a message."""

    charge: Floats
    which: Ints
    price: Floats

    @classmethod
    def of(cls, together: Ints, stage: Sharing, split: Split, replicas: Replicas) -> "_Charges":
        """The charges of this split."""
        others = stage.others(replicas, together.shape[1])
        number, which = np.unique(others, return_inverse=True)
        pairs = np.diagonal(together, axis1=1, axis2=2).sum() / len(together)
        charge = np.array([split.least_charges(of_source, number, stage.most, pairs) for of_source in together])
        return cls(charge, which.reshape(others.shape), stage.cost)

    def of_hops(self, choice: int) -> Floats:
        """What an expert with a choice of replicas is charged for each hop, `[level, source, expert]`."""
        return self.price[:, None, None] * self.charge[:, self.which[:, choice]].swapaxes(0, 1)


@dataclass(frozen=True, eq=False)
class _Reach:
    """How far sources are from the replicas of an expert at least: distance `[source, place]` from the places that
    differ in it, and within: as of `_within`."""

    distance: Ints
    within: Ints

    @classmethod
    def of(cls, distance: Ints, within: list[int]) -> "_Reach":
        return cls(np.unique(distance, axis=1), np.array(within))

    def least(self, charge: Floats, count: int) -> Floats:
        """The least charges of each expert with so many replicas, `[expert]`; charge `[level, source, expert]`."""
        places = self.distance.shape[1]
        if count <= places and comb(places, count) <= MOST_SETS:
            return self._placed(charge, np.array(list(combinations(range(places), count))))
        return self._reached(charge, count)

    def _placed(self, charge: Floats, sets: Ints) -> Floats:
        """The same with replicas at the best of the sets of places `[set, replica]`."""
        until = np.concatenate([np.zeros((1, *charge.shape[1:])), charge.cumsum(axis=0)])
        total = np.zeros((len(sets), charge.shape[2]))
        for source, far in enumerate(self.distance):
            at_place = until[far, source]
            total += reduce(np.minimum, (at_place[place] for place in sets.T))
        least: Floats = total.min(axis=0)
        return least

    def _reached(self, charge: Floats, count: int) -> Floats:
        """The same if the sources within reach are those that would be charged most, whichever these are. Sources that
        are charged less than nothing may be beyond it, too."""
        sources, least = charge.shape[1], np.zeros(charge.shape[2])
        for of_level, near in zip(charge, self.within, strict=True):
            beyond = max(0, sources - count * int(near))
            if beyond or of_level.min(initial=0) < 0:
                sums = np.sort(of_level, axis=0).cumsum(axis=0)
                least += np.concatenate([np.zeros((1, len(least))), sums])[beyond:].min(axis=0)
        return least
