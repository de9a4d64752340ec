"""Replication and packing by risk: a device weighs its mean load and some standard deviations of its load."""

from typing import NamedTuple

import numpy as np

from formulations.expected_load.replication import hand_out
from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.packing import Packing
from optimizer.statistics.loads import covariance

Z = 0.674  # standard deviations: a normal load is below its mean and this many in three batches of four


class Loads(NamedTuple):
    """What batches tell about the loads of whole experts: mean `[expert]` pairs per batch, covariance
    `[expert, expert]`; z: how many standard deviations count as risk."""

    mean: Floats
    covariance: Floats
    z: float

    @property
    def risk(self) -> Floats:
        """The risk of each expert, mean + z standard deviations, `[expert]`."""
        found: Floats = self.mean + self.z * np.sqrt(np.diag(self.covariance))
        return found


def risk(problem: Problem, z: float = Z) -> Placement:
    """A placement with counts by risk and the riskiest replica first, each on the device whose risk is least with it.

    Experts that are hot in the same batches thus come to different devices.
    """
    loads = loads_of(problem, z)
    return packed(problem, loads, risk_counts(problem, loads.risk))


def loads_of(problem: Problem, z: float) -> Loads:
    """Mean and covariance of the loads in the batches to plan on."""
    return Loads(problem.load.mean(axis=0), covariance(problem.load), z)


def risk_counts(problem: Problem, weight: Floats, given: Ints | None = None, room: int | None = None) -> Ints:
    """Replicas of each expert, `[expert]`: one more to the largest weight per replica, while there is room.

    weight `[expert]`, 0 or less for experts that get no more; given: the counts to start from, by default one of each
    and the fixed ones; room: replicas to hand out beyond these, by default all there is room for. No expert gets more
    than there are devices.
    """
    free = ~problem.spread
    counts = np.where(free, 1, problem.shared_replicas or 1) if given is None else given.copy()
    room = problem.most_free_replicas - int(counts[free].sum()) if room is None else room
    most = np.where(free & (weight >= 0), problem.mesh.devices, 0)
    hand_out(weight.astype(np.float64), counts, most, room)
    return counts


def packed(problem: Problem, loads: Loads, counts: Ints) -> Placement:
    """A placement of the riskiest replica first, each where the device's risk is least with it; those that find every
    device with room holding their expert come last, and others make way for them.

    counts `[expert]`. The risk of a device is its mean load + z standard deviations, covariance included, pairs split
    evenly over replicas.
    """
    mean, shared = loads.mean / counts, loads.covariance / np.outer(counts, counts)
    packing = Packing(problem, mean)
    each = loads.risk / counts
    experts = np.flatnonzero(~problem.spread)
    ordered = experts[np.argsort(-each[experts], kind="stable")]
    _fill(packing.slots, np.repeat(ordered, counts[ordered]), mean, shared, loads.z)
    packing.recount()
    for expert in np.repeat(experts, counts[experts] - packing.holds[experts].sum(axis=1)):
        packing.place_lightest(int(expert))
    return packing.placement()


@kernel
def _fill(slots: Ints, order: Ints, mean: Floats, shared: Floats, z: float) -> None:
    """Fill empty slots `[device, slot]` with the experts in order.

    mean `[expert]` and shared `[expert, expert]`: mean and covariance of the load of single replicas.
    """
    for expert in order:
        best, least = -1, np.inf
        for device in range(len(slots)):
            if holds(slots[device], EMPTY) and not holds(slots[device], expert):
                found = _risk(slots[device], expert, mean, shared, z)
                if found < least:
                    best, least = device, found
        if best < 0:
            best = _make_way(slots, expert)
        _replace(slots[best], EMPTY, expert)


@kernel
def holds(held: Ints, expert: int) -> bool:
    """Whether a device that holds these experts `[slot]` has this one."""
    for there in held:
        if there == expert:
            return True
    return False


@kernel
def _replace(held: Ints, old: int, new: int) -> None:
    """Give the first slot of the old expert to the new one."""
    for slot in range(len(held)):
        if held[slot] == old:
            held[slot] = new
            return


@kernel
def _risk(held: Ints, more: int, mean: Floats, shared: Floats, z: float) -> float:
    """The risk of a device that holds these experts `[slot]` and one more."""
    load, variance = mean[more], shared[more, more]
    for place in range(len(held)):
        one = held[place]
        if one == EMPTY:
            continue
        load += mean[one]
        variance += shared[one, one] + 2 * shared[one, more]
        for other in held[:place]:
            if other != EMPTY:
                variance += 2 * shared[one, other]
    return float(load + z * np.sqrt(max(variance, 0.0)))


@kernel
def _make_way(slots: Ints, expert: int) -> int:
    """Where every device with room holds the expert, move another expert there from a full device, which is returned.

    A full device without this expert holds one more expert than a device with room can share with it, so there is
    always one to move.
    """
    roomy, donor = 0, 0
    while not holds(slots[roomy], EMPTY):
        roomy += 1
    while holds(slots[donor], expert):
        donor += 1
    for moved in slots[donor]:
        if not holds(slots[roomy], moved):
            _replace(slots[roomy], EMPTY, moved)
            _replace(slots[donor], moved, EMPTY)
            break
    return donor
