"""Bounds that no placement goes below: what the hops of all tokens cost, in all stages together.

A token is sent to every device that serves any of its experts. Where m of its experts share a message, each of them
is charged 1/m of every hop that they share. So the cost of all hops is a sum over tokens and experts. Everything here
follows from four facts about an expert with n replicas:

1. *Company.* Its replicas can share a hop with at most n * company other experts, those that are near enough; with
   company alone for the tokens of one source, if they all use one replica. As 1/m is convex, it is nowhere below the
   line a - b (m - 1) of any slope b that touches it from below. So c tokens that have chosen the expert are charged
   a c at least, less b for every (token, other expert) pair of the company; and of the pairs no more count than those
   with the experts that are chosen with it most often.
2. *Mutual company.* If two experts share a hop of a token, each is company to the other. So one of them may be charged
   more for it by any amount, and the other less: nothing changes in the sum. The best amounts are found by
   `split_ascent`; what one expert thus gains by much company is borne by the company. Two companions of an expert are
   company to each other, too; for multicasts, which many can share, that is taken in by `message_splits`.
3. *Reach.* No device has more than K_h sources within h hops, so the replicas have at most n K_h of them; tokens of all
   other sources travel farther than h, for each h. Where there are few sets of places for the replicas all are tried.
   Whoever is that near to a source is not counted as company on its hop h + 1, which it would not need.
4. *Devices.* Where those who share a message are on one device, they are the same for all sources, and a token goes to
   a device that is farther than the nearest only if it has much company there (`device_company`).

The least charge of an expert thus depends on n alone, and all n sum up to the number of slots at most. That is a
knapsack over replica counts, which is solved exactly. The bounds hold for one placement of all batches and for any
routing by which every pair is served by a replica of its expert, even if the routing differs from token to token.

Which messages are shared: results travel alone, one from each device, so that company is what a device has in its other
slots, for every hop. A multicast along a ring passes all targets of a token in its direction; hop x is shared by those
that are x or more hops away, in the same ring and direction. Half of what goes to the antipode travels either way and
is shared with the targets on that side; so a neighbour on one side counts half as company.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from formulations.bounds.crossing_charges import MOST_TOGETHER, Charged, Crossings, enough_replicas, spare_slots, within
from formulations.bounds.group_relaxation import group_splits
from formulations.bounds.message_splits import LINES, Split
from formulations.bounds.sharing import Sharing
from formulations.bounds.split_ascent import hull_choices, mean_tilts
from formulations.kit.arrays import Floats, Ints


def crossings_splits(
    together: Ints,
    distance: Ints,
    stages: Sequence[Sharing],
    slots: int,
    shifted: bool = True,
    grouped: bool = True,
) -> tuple[list[Split], float]:
    """How messages are split for the bound on the sum of these stages to be large, and that bound; arguments as of
    `crossings_bounds`. Nothing is shifted if that is better, if shifted is false, or of more than `MOST_TOGETHER`
    pairs; and groups pay for company only if grouped is true, too."""
    crossings, every = Crossings.of(together, distance, stages, slots), range(len(stages))
    tried = [crossings.charged([Split.unshifted(stage, together.shape[1]) for stage in stages])]
    if shifted and together.size <= MOST_TOGETHER:
        tilts = mean_tilts(crossings.demand, stages)
        tilted = crossings.charged([Split(LINES[:, None] * tilt.slope, tilt.shift) for tilt in tilts])
        tried += [tilted, *_grouped(tilted)] if grouped else [tilted]
    best = tried[int(np.argmax([each.least(every) for each in tried]))]
    alike = tried[1:] if any(split.by_hop for split in best.splits) else [best]
    return [*best.splits], _with_devices(alike, [every])[0]


def _grouped(tilted: Charged) -> list[Charged]:
    """The same with groups that pay for company where messages of a multicast are shared, and not by any experts. With
    twice as many slots as experts nothing is gained by it, as whoever has replicas pays for each."""
    crossings, experts = tilted.crossings, tilted.crossings.together.shape[1]
    shared = [not stage.on_device and stage.company.min(initial=experts) < experts - 1 for stage in crossings.stages]
    if crossings.spare >= experts or not any(shared):
        return []
    choice = hull_choices(tilted.costs(range(len(shared))), crossings.replicas.least, crossings.spare)
    splits = [
        split._replace(by_hop=group_splits(crossings.demand, stage, split.middle, choice)) if grouped else split
        for stage, split, grouped in zip(crossings.stages, tilted.splits, shared, strict=True)
    ]
    return [crossings.charged(splits)]


def crossings_bounds(
    together: Ints,
    distance: Ints,
    stages: Sequence[Sharing],
    slots: int,
    sums: Sequence[Sequence[int]],
    splits: Sequence[Split],
) -> list[float]:
    """Lower bounds on what the hops of all tokens cost, for any one placement in these slots: one for each of the sums,
    which name stages by their numbers. Where groups pay for company, that is tried without them, too.

    together `[source, expert, expert]`: tokens of each source that chose both experts, on the diagonal those that chose
    the expert; distance `[source, device]` hops. The stages of a sum share the counts of replicas, as one placement
    serves them all. splits: of `crossings_splits`, perhaps of other batches; any are valid. So the bound is if experts
    are left out of `together`, even if their slots are counted in `slots`.
    Raises ValueError with fewer slots than experts.
    """
    crossings = Crossings.of(together, distance, stages, slots)
    tried = [[split._replace(by_hop=()) for split in splits]]
    if any(split.by_hop for split in splits):
        tried.append([*splits])
    return _with_devices([crossings.charged(each) for each in tried], sums)


def _with_devices(tried: Sequence[Charged], sums: Sequence[Sequence[int]]) -> list[float]:
    """The largest bound of these on each sum if the company of devices is looked at, by which they do not differ but
    where groups pay for it, so that messages are split in another way."""
    known, found = tried[0].with_devices().by_device, list[Charged]()
    for each in tried:
        of_stages = zip(each.splits, each.by_device, known, strict=True)
        found.append(replace(each, by_device=[none if split.by_hop else company for split, none, company in of_stages]))
    return [max(each.least(of_sum) for each in found) for of_sum in sums]


def crossings_of_batches(load: Ints, distance: Ints, stages: Sequence[Sharing], slots: int) -> Floats:
    """A lower bound on what the hops of each batch cost, for any placement, even one for that batch alone, `[batch]`.

    load `[batch, source, expert]` pairs. Company is taken as the best there can be, as in a single batch it is near to
    that: every message is shared by `most` experts. The cost of an expert is then convex in its replicas, as the
    sources that they reach, the heaviest first, win ever less; so the replicas that win most are the best.
    Raises ValueError with fewer slots than experts.
    """
    spare, sources = spare_slots(load.shape[2], slots), load.shape[1]
    lightest = np.sort(load, axis=1).cumsum(axis=1, dtype=np.float64).swapaxes(1, 2)
    near_by = within(distance)
    counts = np.arange(1, min(enough_replicas(distance, near_by), distance.shape[1], 1 + spare) + 1)
    price = np.zeros((sources, len(counts)))  # of the sources that are left, by how many they are, for each count
    for level, near in enumerate(near_by):
        left = sources - counts * near
        of_level = sum(float(stage.cost[level]) / stage.most for stage in stages)
        price[left[left > 0] - 1, np.flatnonzero(left > 0)] += of_level
    cost = lightest @ price
    saved = -np.diff(cost, axis=2).reshape(len(load), -1)
    if spare < saved.shape[1]:
        saved = -np.partition(-saved, spare, axis=1)[:, :spare]
    least: Floats = cost[:, :, 0].sum(axis=1) - saved.sum(axis=1)
    return least
