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
from dataclasses import dataclass, replace

import numpy as np

from formulations.bounds.device_company import DeviceCompany
from formulations.bounds.group_relaxation import group_splits
from formulations.bounds.hop_charges import Charges, Reach
from formulations.bounds.message_splits import LINES, Split
from formulations.bounds.sharing import Replicas, Sharing
from formulations.bounds.slot_knapsack import least_sum
from formulations.bounds.split_ascent import Demand, hull_choices, mean_tilts
from formulations.kit.arrays import Floats, Ints

MOST_TOGETHER = 1 << 21
"""Sources times pairs of experts up to which shifts are looked for, and the company of devices: as many as on 32 x 16
devices with 256 experts. With 1,024 experts on 16 x 8 devices shifts would take all bounds from 16 s to 82."""

MOST_GAINS = 1 << 25
"""Sets of places times replicas times pairs of experts up to which the company of devices is looked at: up to two
replicas of 256 experts on 16 mesh rows, in .2 s. Not more, as on train batches of the home case links are bounded at
23.3 us without, at 23.7 so, and at 23.8 with three replicas, too, which would take 2 s."""


def crossings_splits(
    together: Ints, distance: Ints, stages: Sequence[Sharing], slots: int, shifted: bool = True
) -> tuple[list[Split], float]:
    """How messages are split for the bound on the sum of these stages to be large, and that bound; arguments as of
    `crossings_bounds`. Nothing is shifted if that is better, if shifted is false, or of more than `MOST_TOGETHER`
    pairs."""
    tried = [[Split.unshifted(stage, together.shape[1]) for stage in stages]]
    if shifted and together.size <= MOST_TOGETHER:
        spare, within = _spare(together.shape[1], slots), _within(distance)
        demand = Demand.of(together, within, _replicas(distance, within, spare), spare)
        tilted = [Split(LINES[:, None] * tilt.slope, tilt.shift) for tilt in mean_tilts(demand, stages)]
        tried += [tilted, _grouped(demand, stages, tilted, _Problem.of(together, distance, stages, slots, tilted))]
    every, by_hop = range(len(stages)), [_Problem.of(together, distance, stages, slots, splits) for splits in tried]
    best = tried[int(np.argmax([problem.least(every) for problem in by_hop]))]
    return best, crossings_bounds(together, distance, stages, slots, [every], best)[0]


def _grouped(demand: Demand, stages: Sequence[Sharing], splits: Sequence[Split], problem: "_Problem") -> list[Split]:
    """The splits with groups that pay for company where messages of a multicast are shared, and not by any experts.
    With twice as many slots as experts nothing is gained by it, as whoever has replicas pays for each."""
    most = len(demand.mean) - 1  # others that can share a message
    if demand.spare > most:
        return [*splits]
    choice = hull_choices(problem.costs(range(len(stages))), demand.replicas.least, demand.spare)
    return [
        split
        if stage.on_device or stage.company.min(initial=most) >= most
        else split._replace(by_hop=group_splits(demand, stage, _middle(split), choice))
        for stage, split in zip(stages, splits, strict=True)
    ]


def _middle(split: Split) -> Floats:
    """The line of the ascent among those of a split."""
    slope: Floats = split.slopes[len(split.slopes) // 2]
    return slope


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
    alone = [split._replace(by_hop=()) for split in splits]
    tried = [splits, alone] if any(split.by_hop for split in splits) else [splits]
    problems = [_Problem.of(together, distance, stages, slots, each) for each in tried]
    known = together.size <= MOST_TOGETHER
    company = [
        DeviceCompany.of(together, problems[0].reach.distance, stage, split)
        if known and stage.on_device and not split.by_hop  # which would split messages in two ways
        else None
        for stage, split in zip(stages, splits, strict=True)
    ]
    return [max(replace(each, by_device=company).least(of_sum) for each in problems) for of_sum in sums]


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
class _Problem:
    """The knapsack over replica counts: how many slots are spared, what experts may choose from, how far sources are
    from places, and what experts are charged in each stage, by hop and, where that is looked at, by device."""

    spare: int
    replicas: Replicas
    reach: Reach
    by_hop: Sequence[Charges]
    by_device: Sequence[DeviceCompany | None]

    @classmethod
    def of(
        cls, together: Ints, distance: Ints, stages: Sequence[Sharing], slots: int, splits: Sequence[Split]
    ) -> "_Problem":
        """The problem of `crossings_bounds` by hops alone."""
        spare, within = _spare(together.shape[1], slots), _within(distance)
        replicas = _replicas(distance, within, spare)
        by_hop = [Charges.of(together, stage, split, replicas) for stage, split in zip(stages, splits, strict=True)]
        return cls(spare, replicas, Reach.of(distance, within), by_hop, [None] * len(by_hop))

    def least(self, of_sum: Sequence[int]) -> float:
        """The least cost of all hops in the stages of a sum."""
        if not of_sum:
            return 0.0
        return least_sum(self.costs(of_sum), self.replicas.least, self.spare)

    def costs(self, of_sum: Sequence[int]) -> Floats:
        """The least charges of each expert in the stages of a sum, `[choice, expert]`."""
        return np.array([self._cost(of_sum, choice) for choice in range(len(self.replicas.least))])

    def _cost(self, of_sum: Sequence[int], choice: int) -> Floats:
        """The least charges of each expert at a choice of replicas, `[expert]`."""
        count, hops = int(self.replicas.most[choice]), [self.by_hop[stage].of_hops(choice) for stage in of_sum]
        total: Floats = np.sum(hops, axis=0)
        places = self._places(of_sum, choice)
        if places is not None:
            return self._with_company(of_sum, hops, places)
        sets = self.reach.sets(count)
        least: Floats = self.reach.reached(total, count) if sets is None else self.reach.placed(total, sets).min(axis=0)
        return least

    def _places(self, of_sum: Sequence[int], choice: int) -> Ints | None:
        """The places of replicas for which the company of devices is looked at, `[set, replica]`; None where it is not,
        as for numbers of replicas that are not told apart: with more of them an expert may be charged more."""
        exact = self.replicas.least[choice] == self.replicas.most[choice]
        known = [company for stage in of_sum if (company := self.by_device[stage])]
        if not exact or not known:
            return None
        sets, experts = self.reach.multisets(int(self.replicas.most[choice])), known[0].charge.shape[1]
        return None if sets is None or sets.size * experts**2 > MOST_GAINS else sets

    def _with_company(self, of_sum: Sequence[int], hops: Sequence[Floats], sets: Ints) -> Floats:
        """The least charges of each expert with replicas at the best of these places, by hop and by device; hops: its
        charges by hop in the stages of the sum."""
        total: Floats = np.sum(hops, axis=0)
        cost = self.reach.placed(total, sets)
        for stage, of_stage in zip(of_sum, hops, strict=True):
            company = self.by_device[stage]
            if company is not None:
                cost = np.maximum(cost, self.reach.placed(total - of_stage, sets) + company.least(sets))
        least: Floats = cost.min(axis=0)
        return least
