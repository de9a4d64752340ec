"""Replica counts and placement of a small mesh over sampled batches, each of them routed at best: two stages.

The first stage chooses which devices hold which experts, for all batches; the second routes every batch so that its
peak, in whole pairs, is the least there is. The mean of the peaks is minimised:

1. A start: the hint or the heaviest experts first, improved by descent (`row_descent`).
2. A bound for every placement (`bounds.static_counts_bound`). With slots to spare and dozens of pairs on a device the
   start often reaches it already.
3. Without slots to spare there is nothing to route: `full_mesh` solves that exactly.
4. Otherwise CP-SAT solves a master problem. Variables: which experts are on which devices, and the peak of each batch.
   Constraints: every expert is placed, slots are filled, and cuts bound the peaks. Experts without a replica outside a
   set of devices have nowhere else to go, so that peak * devices of the set >= their load. There are 2^devices such
   sets. Those of few devices come first; others are added when the minimum cut of a batch's routing, at a placement
   that CP-SAT proposes, names them (Benders' cuts, strengthened: each holds for all batches and all sets of experts).
   The objective is the sum of the peaks, and the placement is read off the first variables.

Peaks are whole numbers as pairs are, and the cuts of all sets are exact for them. Cuts for a set of experts instead, by
how many devices hold any of it, would not depend on how devices are numbered, but each knows only those experts.

Measured with 24 experts on 4x2 devices, 16 batches of 256 or 512 pairs, two cores. With 3 slots a device, none to
spare, placements are proven optimal in .2 to 6 s. With 4 slots, 8 to spare, they are proven optimal in .1 to 2 s
wherever the start reaches the bound: on loads of the built-in generator, and on log-normal ones (sigma .6) that differ
by a sigma of .3 from batch to batch. With .6 instead, the gap is 2.5 to 6 % after 60 s (7 at sigma 1), and CP-SAT adds
nothing. The bound stays that of step 2; as three kinds of local search ended with the same peaks, the bound is probably
too low. The same holds for few slots to spare, where that bound is weakest: with 1, 2 and 4 to spare gaps of 16, 14 and
9 % were left after 15 s, with 8 none. The largest instance that CP-SAT proves by cuts has 10 experts on 4 devices of 3
slots and 16 batches, in 10 s. Cuts by replica counts, as in step 2, do not help it.
"""

from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from math import ceil
from typing import NamedTuple

import numpy as np
from ortools.sat.python import cp_model

from formulations.batches.batch_instance import BatchInstance, Devices
from formulations.batches.full_mesh import is_full, partition_experts
from formulations.batches.replica_routing import holders_of
from formulations.kit.arrays import Ints
from formulations.kit.clock import Clock
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits, run, solver_for
from formulations.rows.row_descent import descend_row, first_slots

FIRST_SETS = 100  # sets of devices to begin with, at most, except that single devices are always there; a compromise
FIRST_SIZE = 3  # devices in a set to begin with, at most; a compromise
DESCENTS = 30  # in vain before the model begins, which take .2 s each with 32 slots and 16 batches
DESCENT_SHARE = 0.5  # of the time, at most, is for descents before the model; a compromise
DIGITS = 40  # experts that order the devices: their code has as many bits, far from the 64 of CP-SAT
LARGEST_MODEL = 500_000  # terms in cuts, which take .5 s to build; larger models prove no more than descent finds


def place_for_batches(instance: BatchInstance, hint: Ints | None, limits: Limits) -> Outcome[Ints]:
    """Minimise the mean over batches of the peak device load, with optimal routing of each.

    hint: slots `[device, slot]` of a valid placement to start from, -1 = empty, or None. The value is a placement in
    the same form that is no worse. Objective and bound are in pairs. The bound holds for every placement in these slots
    and every routing. There is a solution whatever the time limit, if there are enough slots. A deterministic limit is
    for CP-SAT alone; all else is limited by seconds. Raises ValueError for a hint that is not valid.
    """
    clock = limits.clock()
    if instance.load.shape[1] > instance.slots:
        return Outcome(None, None, np.inf, SolveStatus.INFEASIBLE, clock.elapsed())
    if hint is not None and (wrong := instance.row.violations(hint)):
        raise ValueError(f"hint: {'; '.join(wrong)}")
    full = is_full(instance.load.shape[1], instance.devices, instance.slots_per_device)
    share = DESCENT_SHARE if full or _has_model(instance, _first_sets(instance.devices)) else 1.0
    slots = _start(instance, hint, limits.seed, clock.part(share), 1 if full else DESCENTS)
    left = replace(limits, seconds=clock.left())
    total, bound = instance.total(slots), instance.least
    if total > bound and full:
        found = partition_experts(instance.load, instance.devices, slots, left)
        return replace(found, runtime=clock.elapsed())
    if total > bound:
        known, bound = _by_cuts(instance, slots, left)
        slots, total = known.slots, known.total
    status = SolveStatus.OPTIMAL if total == bound else SolveStatus.FEASIBLE
    batches = len(instance.load)
    return Outcome(slots, total / batches, bound / batches, status, clock.elapsed())


def _start(instance: BatchInstance, hint: Ints | None, seed: int, clock: Clock, descents: int) -> Ints:
    """The best placement of many descents, until `descents` of them in a row were in vain.

    The first one starts from the hint, or from the heaviest experts first, the others from random placements. Descent
    minimises peaks in parts of pairs; here peaks in whole pairs decide what is best.
    """
    best = start = _filled(instance, first_slots(instance.row) if hint is None else hint)
    total, vain, rng = instance.total(best), 0, np.random.default_rng(seed)
    while total > instance.least and vain < descents and not clock.over():
        found = _filled(instance, descend_row(instance.row, start, rng, clock))
        vain += 1
        if (reached := instance.total(found)) < total:
            best, total, vain = found, reached, 0
        start = _filled(instance, _at_random(instance, rng))
    return best


def _at_random(instance: BatchInstance, rng: np.random.Generator) -> Ints:
    """A random placement `[device, slot]` with one replica of each expert, and all other slots empty."""
    slots = np.full(instance.slots, -1)
    slots[rng.permutation(instance.slots)[: instance.load.shape[1]]] = np.arange(instance.load.shape[1])
    return slots.reshape(instance.devices, -1)


def _filled(instance: BatchInstance, slots: Ints) -> Ints:
    """The slots with empty ones filled by the experts with most load per replica, which makes no peak larger."""
    filled, load = slots.astype(np.int32), instance.load.sum(axis=0)
    for device, slot in np.argwhere(slots < 0):
        count = np.bincount(filled[filled >= 0], minlength=len(load))
        other = np.setdiff1d(np.arange(len(load)), filled[device])
        if len(other):
            filled[device, slot] = other[np.argmax(load[other] / count[other])]
    return filled


@dataclass(frozen=True, eq=False)
class _Known:
    """The best placement so far, slots `[device, slot]`, and the sum of its peaks."""

    slots: Ints
    total: int


class _Proven(NamedTuple):
    """The best placement known, and a bound that no placement's sum of peaks is below."""

    known: _Known
    bound: int


def _by_cuts(instance: BatchInstance, slots: Ints, limits: Limits) -> _Proven:
    """Solve the master problem with more and more cuts, from slots `[device, slot]`, until a proof or the limits."""
    known, bound = _Known(slots, instance.total(slots)), instance.least
    sets, clock, work = _first_sets(instance.devices), limits.clock(), limits.deterministic
    while known.total > bound and _has_model(instance, sets):
        left = replace(limits, seconds=clock.left(), deterministic=work)
        if left.seconds <= 0 or (work is not None and work <= 0):
            break
        solver, proposals = solver_for(left), _Proposals(instance, known, bound)
        master = _Master(instance, sets, known, bound)
        status = run(solver, master.model, left, proposals.of(master))
        known = proposals.known
        if status is not SolveStatus.UNKNOWN:
            bound = max(bound, ceil(solver.best_objective_bound - 0.5))
        sets = list(dict.fromkeys(sets + proposals.sets))
        work = None if work is None else work - solver.response_proto.deterministic_time
    return _Proven(known, min(bound, known.total))


def _has_model(instance: BatchInstance, sets: list[Devices]) -> bool:
    """Whether a master problem with the cuts of these sets is small enough to be worth building."""
    batches, experts = instance.load.shape
    return bool(len(sets) * experts * (instance.devices + batches) <= LARGEST_MODEL)


def _first_sets(devices: int) -> list[Devices]:
    """The sets of devices to begin with: single ones, and all sets of two or three as long as they are not too many."""
    found: list[Devices] = []
    for size in range(1, min(FIRST_SIZE, devices - 1) + 1):
        more = list(combinations(range(devices), size))
        if size == 1 or len(found) + len(more) <= FIRST_SETS:
            found += more
    return found or [(0,)]


class _Master:
    """The CP-SAT model: which experts are on which devices, and the peaks that the cuts of some sets of devices force.

    Variables: on[expert][device], a replica is there; inside[set][expert], the expert has no replica outside the set;
    peak[batch] in whole pairs.
    """

    def __init__(self, instance: BatchInstance, sets: list[Devices], known: _Known, bound: int) -> None:
        self.instance, self.sets, self.model = instance, sets, cp_model.CpModel()
        self._variables()
        self._each_expert_placed()
        self._slots_filled()
        self._inside_unless_outside()
        self._peak_covers_sets()
        self._sum_between(bound, known.total)
        self.model.minimize(sum(self.peak))
        self._break_symmetry()
        self._hint(known)

    def _variables(self) -> None:
        """New variables; a peak is between its floor and all pairs of the batch."""
        experts, total = self.instance.load.shape[1], self.instance.load.sum(axis=1)
        new = self.model.new_bool_var
        self.on = [[new(f"on_{e}_{d}") for d in range(self.instance.devices)] for e in range(experts)]
        self.inside = [[new(f"inside_{s}_{e}") for e in range(experts)] for s in range(len(self.sets))]
        least, most = self.instance.floor.tolist(), total.tolist()
        ranges = enumerate(zip(least, most, strict=True))
        self.peak = [self.model.new_int_var(low, high, f"peak_{b}") for b, (low, high) in ranges]

    def _each_expert_placed(self) -> None:
        """Every expert is on some device."""
        for devices in self.on:
            self.model.add_bool_or(devices)

    def _slots_filled(self) -> None:
        """Every device uses all its slots, as one replica more does no harm; it holds an expert at most once."""
        used = min(self.instance.slots_per_device, len(self.on))
        for device in range(self.instance.devices):
            self.model.add(sum(devices[device] for devices in self.on) == used)

    def _inside_unless_outside(self) -> None:
        """An expert without a replica outside a set is inside it; minimising peaks keeps all others at 0."""
        for devices, inside in zip(self.sets, self.inside, strict=True):
            for on, only in zip(self.on, inside, strict=True):
                outside = [on[device] for device in range(self.instance.devices) if device not in devices]
                self.model.add_bool_or([only, *outside])

    def _peak_covers_sets(self) -> None:
        """The devices of a set bear at least the load of the experts inside it."""
        for load, peak in zip(self.instance.load.tolist(), self.peak, strict=True):
            for devices, inside in zip(self.sets, self.inside, strict=True):
                self.model.add(cp_model.LinearExpr.weighted_sum(inside, load) <= len(devices) * peak)

    def _sum_between(self, bound: int, known: int) -> None:
        """The sum of peaks is between the bound and the best sum known, which loses no better placement."""
        self.model.add_linear_constraint(sum(self.peak), bound, known)

    def _break_symmetry(self) -> None:
        """Devices are numbered in the order of a code, whose bits are the experts of a device, the hottest first.

        No peak is lost, as any placement can be renumbered so. Without this CP-SAT proves nothing; with the order of
        first use alone it takes up to three times as long.
        """
        hottest = [self.on[expert] for expert in self._hottest]
        codes = [cp_model.LinearExpr.weighted_sum(held, self._digits) for held in zip(*hottest, strict=True)]
        for earlier, later in pairwise(codes):
            self.model.add(earlier >= later)

    @property
    def _hottest(self) -> list[int]:
        """The experts that are in the code of a device, the hottest first."""
        order: list[int] = np.argsort(-self.instance.load.sum(axis=0), kind="stable").tolist()
        return order[:DIGITS]

    @property
    def _digits(self) -> list[int]:
        """The value in the code of each of the hottest experts."""
        return [1 << digit for digit in reversed(range(len(self._hottest)))]

    def _hint(self, known: _Known) -> None:
        """A value for every variable, from the best placement with devices renumbered by their code."""
        held = holders_of(known.slots, len(self.on))
        code = np.array(self._digits) @ held[self._hottest]
        held = held[:, np.argsort(-code, kind="stable")]
        for variables, values in zip(self.on, held.tolist(), strict=True):
            for variable, value in zip(variables, values, strict=True):
                self.model.add_hint(variable, value)
        for devices, inside in zip(self.sets, self.inside, strict=True):
            only = np.delete(held, devices, axis=1).sum(axis=1) == 0
            for variable, value in zip(inside, only.tolist(), strict=True):
                self.model.add_hint(variable, value)
        for variable, value in zip(self.peak, self.instance.routed(known.slots).peaks.tolist(), strict=True):
            self.model.add_hint(variable, value)


class _Proposals(cp_model.CpSolverSolutionCallback):
    """Routes every placement that CP-SAT proposes. It keeps the best one, and the sets of devices that force peaks of
    which the master problem did not know.

    The search is stopped when a placement seems to gain half of what is left to gain, only because cuts are missing.
    """

    def __init__(self, instance: BatchInstance, known: _Known, bound: int) -> None:
        super().__init__()
        self.instance, self.known, self.bound = instance, known, bound
        self.sets: list[Devices] = []

    def of(self, master: _Master) -> "_Proposals":
        """This listener, with the model whose solutions it hears."""
        self.master = master
        return self

    def on_solution_callback(self) -> None:
        """Called by the solver with every better solution."""
        held = np.array([[self.boolean_value(on) for on in devices] for devices in self.master.on])
        slots = np.full_like(self.known.slots, -1)
        for device, column in enumerate(held.T):
            slots[device, : column.sum()] = np.flatnonzero(column)
        routed = self.instance.routed(slots)
        believed = [self.value(peak) for peak in self.master.peak]
        each = zip(routed.peaks, believed, routed.forced_by, strict=True)
        missed = [devices for peak, seen, devices in each if peak > seen]
        self.sets += missed
        if routed.peaks.sum() < self.known.total:
            self.known = _Known(slots, int(routed.peaks.sum()))
        if missed and sum(believed) < (self.known.total + self.bound) / 2:
            self.stop_search()
