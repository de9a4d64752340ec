"""What experts are charged for the hops of their tokens, by how many replicas they have, as `crossings` sums it up."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from formulations.bounds.device_company import DeviceCompany
from formulations.bounds.hop_charges import Charges, Reach
from formulations.bounds.message_splits import Split
from formulations.bounds.sharing import Replicas, Sharing
from formulations.bounds.slot_knapsack import least_sum
from formulations.bounds.split_ascent import Demand
from formulations.kit.arrays import Floats, Ints

MOST_TOGETHER = 1 << 21
"""Sources times pairs of experts up to which shifts are looked for, and the company of devices: as many as on 32 x 16
devices with 256 experts. With 1,024 experts on 16 x 8 devices shifts would take all bounds from 16 s to 82."""

MOST_GAINS = 1 << 25
"""Sets of places times replicas times pairs of experts up to which the company of devices is looked at: up to two
replicas of 256 experts on 16 mesh rows, in .2 s. Not more, as on train batches of the home case links are bounded at
23.3 us without, at 23.7 so, and at 23.8 with three replicas, too, which would take 2 s."""


@dataclass(frozen=True, eq=False)
class Crossings:
    """What is to be bounded: together and stages, as of `crossings.crossings_bounds`; reach: how far sources are from
    the places of replicas; replicas: what experts may choose from; spare: slots besides one for each expert."""

    together: Ints
    stages: Sequence[Sharing]
    reach: Reach
    replicas: Replicas
    spare: int

    @classmethod
    def of(cls, together: Ints, distance: Ints, stages: Sequence[Sharing], slots: int) -> "Crossings":
        """With distance `[source, device]`. Raises ValueError with fewer slots than experts."""
        spare, near = spare_slots(together.shape[1], slots), within(distance)
        replicas = Replicas.up_to(min(distance.shape[1], 1 + spare), enough_replicas(distance, near))
        return cls(together, stages, Reach.of(distance, near), replicas, spare)

    @cached_property
    def demand(self) -> Demand:
        """What sources ask for on average."""
        return Demand.of(self.together, self.reach.within.tolist(), self.replicas, self.spare)

    @cached_property
    def places(self) -> list[Ints | None]:
        """For each choice the places of replicas for which the company of devices is looked at, `[set, replica]`; None
        where it is not, as for numbers of replicas that are not told apart: with more an expert may be charged more."""
        found, experts = list[Ints | None](), self.together.shape[1]
        for least, most in zip(*self.replicas, strict=True):
            sets = self.reach.multisets(int(most)) if least == most else None
            found.append(None if sets is None or sets.size * experts**2 > MOST_GAINS else sets)
        return found

    def charged(self, splits: Sequence[Split]) -> "Charged":
        """The charges by hops alone if messages are split so."""
        by_hop = [Charges.of(self.together, *each, self.replicas) for each in zip(self.stages, splits, strict=True)]
        return Charged(self, splits, by_hop, [[None] * len(self.places)] * len(by_hop))


@dataclass(frozen=True, eq=False)
class Charged:
    """What experts are charged if messages are split in one way: by_hop `[stage]`; and by_device, for each stage and
    choice of replicas `[set, expert]` by the places of replicas, None where that is not looked at."""

    crossings: Crossings
    splits: Sequence[Split]
    by_hop: Sequence[Charges]
    by_device: Sequence[Sequence[Floats | None]]

    def with_devices(self) -> "Charged":
        """With the company of devices, where messages are shared by it and are not split by groups already."""
        known = self.crossings.together.size <= MOST_TOGETHER
        by_device = [
            self._company(stage, split) if known and stage.on_device and not split.by_hop else none
            for stage, split, none in zip(self.crossings.stages, self.splits, self.by_device, strict=True)
        ]
        return replace(self, by_device=by_device)

    def _company(self, stage: Sharing, split: Split) -> list[Floats | None]:
        company = DeviceCompany.of(self.crossings.together, self.crossings.reach.distance, stage, split)
        return [None if sets is None else company.least(sets) for sets in self.crossings.places]

    def least(self, of_sum: Sequence[int]) -> float:
        """The least cost of all hops in the stages of a sum: a knapsack over the counts of replicas."""
        if not of_sum:
            return 0.0
        return least_sum(self.costs(of_sum), self.crossings.replicas.least, self.crossings.spare)

    def costs(self, of_sum: Sequence[int]) -> Floats:
        """The least charges of each expert in the stages of a sum, `[choice, expert]`."""
        return np.array([self._cost(of_sum, choice) for choice in range(len(self.crossings.places))])

    def _cost(self, of_sum: Sequence[int], choice: int) -> Floats:
        """The least charges of each expert at a choice of replicas, `[expert]`."""
        reach, count = self.crossings.reach, int(self.crossings.replicas.most[choice])
        hops = {stage: self.by_hop[stage].of_hops(choice) for stage in of_sum}
        total: Floats = np.sum([*hops.values()], axis=0)
        company = {stage: of for stage in of_sum if (of := self.by_device[stage][choice]) is not None}
        sets = self.crossings.places[choice] if company else reach.sets(count)
        if sets is None:
            return reach.reached(total, count)
        cost = reach.placed(total, sets)
        for stage, of_devices in company.items():
            cost = np.maximum(cost, reach.placed(total - hops[stage], sets) + of_devices)
        least: Floats = cost.min(axis=0)
        return least


def spare_slots(experts: int, slots: int) -> int:
    """The slots that are left when every expert has one."""
    if slots < experts:
        raise ValueError(f"{experts} experts do not fit in {slots} slots")
    return slots - experts


def enough_replicas(distance: Ints, near: list[int]) -> int:
    """How many replicas of an expert are enough for no token to travel, or one more than all devices."""
    if not near:
        return 1
    return -(-len(distance) // near[0]) if near[0] else distance.shape[1] + 1


def within(distance: Ints) -> list[int]:
    """K_h for h = 0, 1, ...: how many sources lie within h hops of a device, at most; distance `[source, device]`."""
    return [int((distance <= far).sum(axis=0).max()) for far in range(int(distance.max()))]
