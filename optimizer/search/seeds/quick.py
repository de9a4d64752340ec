"""A placement of the expected load within milliseconds, whose replica counts look at what fixed experts leave.

A shared expert whose replicas are fixed may fill most of its devices: with 512 tokens, one replica in each of 16 rows
and 128 devices it carries 32 of 36 pairs. Beside it only the lightest replicas fit, and where counts are chosen for the
heaviest replica alone, as EPLB does, such devices end 17 % above the mean. Here some cold experts get replicas as well,
as light as those devices have room for; the others share the rest by EPLB's rule.
"""

from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

import numpy as np

from formulations.expected_load.load_annealing import Layout, anneal, layout_of, slots_of
from formulations.expected_load.load_regrouping import regroup
from formulations.expected_load.replication import hand_out
from formulations.kit.arrays import Bools, Floats, Ints
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.longest_first import longest_first
from optimizer.search.seeds.packing import Packing

# Parts of the mean load to which devices with fixed experts are to be filled; each level takes time, and which one is
# best is not known beforehand.
LEVELS = (1.0, 1.02, 1.05, 1.1, 1.2, 1.4)
# The part of its slot's space by which a replica may exceed it, as the replicas beside it are lighter.
HEAVIER = 0.25
# Times the mean load from which the bound of a placement with fixed experts is so high that shared ones are treated as
# routed, where a plan may do that: with 2,048 devices one replica in each of 64 rows has 3.6 times the mean load.
WORTH = 1.05
# First and last temperature of the annealing, in squared parts of the bound (hotter, it leaves the good places beside
# fixed experts), and its steps per slot, a compromise with time.
HOT, COLD, STEPS = 1e-4, 1e-6, 13
# How many counts are tried, those with the least bounds first, until a placement is below GOOD times its bound.
TRIED, GOOD = 3, 1.005
# Regroupings per device in all, and without success before a step back; a compromise with time.
TRIES, PATIENCE = 25, 80
# Steps and regroupings at most, so that a layer of thousands of devices takes a tenth of a second: with so many light
# replicas little is left to do after packing.
MOST_STEPS, MOST_TRIES = 50_000, 8_000


def quick(problem: Problem, rng: np.random.Generator) -> Placement:
    """A placement with counts chosen beside fixed experts, packed by weight, then annealed and regrouped.

    On the home mesh the peak of the expected load is .4 % above the mean, with the shared expert fixed, and .2 % with
    free counts, where the greedy seed leaves 17 % and 5.5 %.
    """
    load = problem.total_load.astype(np.float64)
    fixed = _Fixed.of(problem, load)
    found = [(fixed.least_peak(load, counts), counts) for counts in _candidates(problem, load, fixed)]
    if problem.free_shared and min(bound for bound, _ in found) > WORTH * fixed.mean:
        return quick(problem.loose, rng)
    best: Ints = np.empty((0, 0), dtype=np.int32)
    peak = np.inf
    for bound, counts in sorted(found, key=lambda pair: pair[0])[:TRIED]:
        if peak > GOOD * bound:
            layout = _levelled(problem, load / (bound or 1.0), counts, fixed, rng)
            reached = float(layout.device.max()) * bound
            if reached < peak:
                best, peak = slots_of(layout), reached
    return Placement(best)


def _levelled(problem: Problem, load: Floats, counts: Ints, fixed: "_Fixed", rng: np.random.Generator) -> Layout:
    """A placement with these counts `[expert]`; load `[expert]` in units of what no device's peak is below."""
    start = longest_first(problem, load, counts, fixed.slots)
    layout = layout_of(load, start.slots, fixed.spread, problem.mesh.cols)
    steps, tries = (min(most, each) for most, each in ((MOST_STEPS, STEPS * problem.mesh.slots),
                                                       (MOST_TRIES, TRIES * problem.mesh.devices)))  # fmt: skip
    anneal(layout, 1.0, steps, HOT, COLD, 0.0, rng)
    regroup(layout, 1.0, tries, PATIENCE * problem.mesh.devices, rng)
    return layout


class _Fixed(NamedTuple):
    """Devices with fixed experts and still some room: base `[device]` pairs and room `[device]` free slots of these.

    slots `[device, slot]`: where the fixed experts are; spread `[expert]`: which these are; others: free slots on all
    other devices; mean: pairs of a device.
    """

    slots: Ints
    base: Floats
    room: Ints
    spread: Bools
    others: int
    mean: float

    @classmethod
    def of(cls, problem: Problem, load: Floats) -> "_Fixed":
        """The devices on which `Packing` puts the fixed experts of this problem; load `[expert]`."""
        packing = Packing(problem, load / (problem.shared_replicas or 1))
        room = (packing.slots == EMPTY).sum(axis=1)
        beside = (room > 0) & (room < problem.mesh.slots_per_device)
        others = int(room[~beside].sum())
        mean = float(load.sum()) / problem.mesh.devices
        return cls(packing.slots, packing.load[beside], room[beside], problem.spread, others, mean)

    def least_peak(self, load: Floats, counts: Ints) -> float:
        """A lower bound of the peak of all placements with these counts `[expert]`.

        It is the greatest of the mean of all devices, the heaviest replica, and the mean of the devices with fixed
        experts if they get the lightest replicas, as many as have no room elsewhere.
        """
        each = load / counts
        lightest = np.sort(np.repeat(each[~self.spread], counts[~self.spread]))
        here = float(self.base.sum() + lightest[: max(len(lightest) - self.others, 0)].sum())
        return max(self.mean, float(each.max()), here / max(len(self.base), 1))


def _candidates(problem: Problem, load: Floats, fixed: _Fixed) -> Iterator[Ints]:
    """Counts `[expert]` by EPLB's rule, then with devices of fixed experts filled to each of the levels."""
    least = np.where(fixed.spread, problem.shared_replicas or 1, 1)
    yield _shared_out(problem, load, least, fixed.spread, fixed.spread)
    for level in LEVELS if len(fixed.base) else ():
        space = np.maximum(level * fixed.mean - fixed.base, 0.0) / fixed.room
        light = _lightened(problem, load, fixed, np.sort(np.repeat(space, fixed.room)))
        done = fixed.spread | (light > 0)
        yield _shared_out(problem, load, np.maximum(light, least), done, fixed.spread)


def _lightened(problem: Problem, load: Floats, fixed: _Fixed, space: Floats) -> Ints:
    """Counts of the coldest experts that make their replicas fit into the space of slots, `[expert]`.

    space `[slot]`: load that fits, the smallest first. Experts get counts while there are slots and replicas left; the
    others have 0.
    """
    counts, slot, devices = np.zeros(len(load), dtype=np.int64), 0, problem.mesh.devices
    free = np.flatnonzero(~fixed.spread)
    spare, room = problem.most_free_replicas - len(free), space.tolist()
    for expert in free[np.argsort(load[free], kind="stable")].tolist():
        if slot >= len(room):
            break
        wanted = ceil(load[expert] / max(room[slot], 1e-9) - HEAVIER)
        count = max(1, min(wanted, 1 + spare, devices))
        counts[expert] = count
        slot += count
        spare -= count - 1
    return counts


def _shared_out(problem: Problem, load: Floats, given: Ints, done: Bools, spread: Bools) -> Ints:
    """Counts when the replicas left beyond the given ones are handed out by EPLB's rule, `[expert]`.

    They go to experts that are not `done`, and to these only once the others can have no more; never to spread ones.
    """
    counts = given.astype(np.int64)
    for closed in (done, spread):
        most = np.where(closed, 0, problem.mesh.devices)
        hand_out(load, counts, most, problem.most_replicas - int(counts.sum()))
    return counts
