"""How many replicas each expert of a layer gets, and where: chosen together, for the least peak expected load.

There is a local search for the placement, and there are two bounds that hold for every placement: the mean load of a
device, and the least load of the heaviest replica that any counts allow (`counts_for_loads`, which is optimal). With
two slots to a device counts alone decide, and both a better placement and a higher bound come from these
(`slot_pairs`). Small layers, where these bounds are far below any placement, are solved exactly after the search
(`device_contents`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import count, cycle
from typing import NamedTuple

import numpy as np

from formulations.expected_load.device_contents import Devices, is_small, least_peak_below
from formulations.expected_load.load_annealing import Layout, anneal, deal, layout_of, slots_of
from formulations.expected_load.load_regrouping import regroup
from formulations.expected_load.replication import ReplicaBudget, counts_for_loads
from formulations.expected_load.slot_pairs import SLOTS, PairInstance, least_paired_peak, paired
from formulations.kit.arrays import Bools, Ints
from formulations.kit.clock import Clock
from formulations.kit.outcome import PROVEN, Outcome, SolveStatus
from formulations.kit.solver import Limits


class Cooling(NamedTuple):
    """One way to anneal: times the usual number of steps, first and last temperature in squared parts of the bound, and
    the share of steps that change counts, where the others exchange replicas."""

    times: int = 1
    hot: float = 1e-2
    cold: float = 1e-6
    counts: float = 0.2


COOLINGS = (Cooling(), Cooling(hot=1.0), Cooling(24, cold=1e-7, counts=0.5), Cooling(240, cold=1e-7))
"""How the starts anneal, in turn. The first is enough for layers of home size; the second is for tiny ones, whose steps
are as large as the bound itself. The long ones find other counts: with them twelve layers of 32 experts on 16 devices
of 3 slots end .31 % above the bound after 10 s, and .37 % without."""

ANNEALED = 26
"""Annealing steps for each slot, 10,000 at full size; after 1,000 regrouping ends twice as far from the mean."""

LEAST_STEPS, MOST_STEPS = 1_000, 300_000
"""Annealing steps of tiny layers, which have too few slots for 26 on each to be of use, and of large ones, where more
would take longer than .2 s, between which nobody looks at the clock."""

TRIES = 1000  # regroupings for each device between two looks at the clock, about 0.1 s at full size
SEARCH_SHARE = 0.05  # of the time of a small layer, whose search ends at once and whose proof takes longer
PATIENCE = 80  # regroupings in vain for each device before a target counts as out of reach; a compromise


@dataclass(frozen=True, eq=False)
class JointInstance:
    """load `[expert]` expected pairs (integers, any scale); spread `[expert]`: those with a replica in every mesh row.

    most_replicas limits the replicas of all experts together; None allows as many as there are slots. The device of
    row r and column c is r * cols + c.
    """

    load: Ints
    spread: Bools
    rows: int
    cols: int
    slots_per_device: int
    most_replicas: int | None = None

    @property
    def devices(self) -> int:
        """Number of devices of the mesh, which is rows times columns."""
        return self.rows * self.cols

    @property
    def alike(self) -> Devices:
        """The devices, where it does not matter in which row they are."""
        slots = self.devices * self.slots_per_device
        return Devices(self.devices, self.slots_per_device, slots if self.most_replicas is None else self.most_replicas)

    @cached_property
    def budget(self) -> ReplicaBudget:
        """The counts that fill as many slots as possible within the limit to replicas."""
        experts = len(self.load)
        slots = min(self.devices * self.slots_per_device, experts * self.devices)
        slots = slots if self.most_replicas is None else min(slots, self.most_replicas)
        shared = tuple(map(int, np.flatnonzero(self.spread)))
        return ReplicaBudget.of(experts, slots, self.devices, shared=shared, rows=self.rows)

    def dealt(self) -> Ints:
        """A placement `[device, slot]` with the counts of this instance, dealt out like cards."""
        return deal(self.load, self.counts, self.rows, self.cols, self.slots_per_device)

    def peak(self, slots: Ints) -> Fraction:
        """The largest device load of a placement `[device, slot]`, -1 = empty, as an exact fraction."""
        counts = np.bincount(slots[slots >= 0], minlength=len(self.load))
        share = [Fraction(int(load), max(int(count), 1)) for load, count in zip(self.load, counts, strict=True)]
        return max(sum((share[expert] for expert in row if expert >= 0), Fraction(0)) for row in slots.tolist())

    @cached_property
    def counts(self) -> Ints:
        """The counts `[expert]` with the lightest heaviest replica. Raises ValueError where the experts do not fit."""
        counts = counts_for_loads(self.load, self.budget).value
        if counts is None:
            raise ValueError(f"{len(self.load)} experts do not fit in {self.devices} x {self.slots_per_device} slots")
        return counts

    @cached_property
    def bound(self) -> Fraction:
        """A load that no placement goes below: the mean of a device, or the heaviest replica under the best counts."""
        heaviest = max(Fraction(int(load), int(count)) for load, count in zip(self.load, self.counts, strict=True))
        return max(heaviest, Fraction(int(self.load.sum()), self.devices))


def place_jointly(layer: JointInstance, hint: Ints | None, limits: Limits) -> Outcome[Ints]:
    """Minimise the peak over devices of the expected load over all replica counts and placements.

    Every replica carries load / count, and the replicas of one expert are on distinct devices. hint: slots
    `[device, slot]` of a valid placement, -1 = empty. The value is a placement in the same form; objective and bound
    are in units of `load`. One core searches until the bound is reached or time is up; a deterministic limit counts
    rounds of regrouping, so that the clock decides nothing. Small layers without spread experts are solved exactly
    after the search, unless such a limit is given, as rounds say nothing of how long a proof takes.
    """
    clock = limits.clock()
    if not layer.budget.feasible:
        return Outcome(None, None, np.inf, SolveStatus.INFEASIBLE, clock.elapsed())
    best = layer.dealt() if hint is None else hint
    peak, bound = layer.peak(best), layer.bound
    if layer.slots_per_device == SLOTS and peak > bound:
        best, peak, bound = _by_pairs(layer, best, peak, clock)
    exact = limits.deterministic is None and not layer.spread.any() and is_small(len(layer.load), layer.alike)
    for slots in _rounds(layer, limits, clock.part(SEARCH_SHARE) if exact else clock):
        if peak - bound <= PROVEN * peak:
            break
        if (reached := layer.peak(slots)) < peak:
            best, peak = slots, reached
    if exact and peak > bound:
        best, peak, proven = _proven(layer, best, peak, replace(limits, seconds=clock.left()))
        bound = min(max(bound, proven), peak)
    status = SolveStatus.OPTIMAL if peak - bound <= PROVEN * peak else SolveStatus.FEASIBLE
    return Outcome(best, float(peak), float(bound), status, clock.elapsed())


def _by_pairs(layer: JointInstance, best: Ints, peak: Fraction, clock: Clock) -> tuple[Ints, Fraction, Fraction]:
    """The better of a placement and the one that pairs replicas, its peak, and the bound that holds for pairs. Where
    experts must be in every row, pairs are no placement, but the bound holds all the same."""
    pairs = PairInstance(layer.load, layer.devices, layer.budget)
    found = least_paired_peak(pairs, clock)
    slots = None if found.value is None or layer.spread.any() else paired(pairs, found.value)
    if slots is not None and (reached := layer.peak(slots)) < peak:
        best, peak = slots, reached
    return best, peak, min(max(layer.bound, Fraction(found.lower_bound)), peak)


def _proven(layer: JointInstance, best: Ints, peak: Fraction, limits: Limits) -> tuple[Ints, Fraction, Fraction]:
    """The best placement, its peak and a bound, after an exact search for what is better than this placement."""
    better = least_peak_below(layer.load, layer.alike, peak, limits)
    if better.status is SolveStatus.INFEASIBLE:
        return best, peak, peak
    bound = max(layer.bound, min(Fraction(better.lower_bound), peak))
    if better.value is None:
        return best, peak, bound
    reached = layer.peak(better.value)
    return better.value, reached, reached if better.status is SolveStatus.OPTIMAL else min(bound, reached)


def place_in_steps(layer: JointInstance, steps: int, rng: np.random.Generator) -> Ints:
    """A placement `[device, slot]` int32 after this number of steps, for callers who need one at once.

    Half of the steps, at most, anneal, and the others regroup. 257 experts on 128 devices of 3 slots are within
    .45 % of the mean after 5,000 steps (3.6 ms), .15 % after 20,000 (10 ms) and .07 % after 300,000 (0.2 s). Raises
    ValueError where the experts do not fit.
    """
    annealed = min(steps // 2, ANNEALED * layer.devices * layer.slots_per_device)
    layout = _annealed(layer, annealed, Cooling(), rng)
    regroup(layout, 1.0, steps - annealed, PATIENCE * layer.devices, rng)
    return slots_of(layout)


def _annealed(layer: JointInstance, steps: int, cooling: Cooling, rng: np.random.Generator) -> Layout:
    """The dealt placement after this number of annealing steps, with loads in units of the bound."""
    scale = float(layer.bound) or 1.0
    slots = layer.dealt()
    least_empty = 0 if layer.most_replicas is None else slots.size - layer.most_replicas
    layout = layout_of(layer.load / scale, slots, layer.spread, layer.cols, least_empty)
    anneal(layout, 1.0, steps, cooling.hot, cooling.cold, cooling.counts, rng)
    return layout


def _rounds(layer: JointInstance, limits: Limits, clock: Clock) -> Iterator[Ints]:
    """A placement `[device, slot]` after each round of regrouping; a round that gained nothing is followed by new
    annealing. There is one round at least, unless the caller cancels."""
    rounds = None if limits.deterministic is None else max(1, round(limits.deterministic))
    rng, last, coolings = np.random.default_rng(limits.seed), np.inf, cycle(COOLINGS)
    usual = max(ANNEALED * layer.devices * layer.slots_per_device, LEAST_STEPS)
    for number in count() if rounds is None else range(rounds):
        if clock.cancelled() or (number and clock.over()):
            return
        if last == np.inf:
            cooling = next(coolings)
            layout = _annealed(layer, min(cooling.times * usual, max(usual, MOST_STEPS)), cooling, rng)
        regroup(layout, 1.0, TRIES * layer.devices, PATIENCE * layer.devices, rng)
        yield slots_of(layout)
        peak = float(layout.device.max())
        last = peak if peak < last else np.inf
