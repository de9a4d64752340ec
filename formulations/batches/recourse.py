"""Replica counts and placement of a small mesh over sampled batches, each of them routed at best: two stages.

The first stage chooses which devices hold which experts, for all batches; the second routes every batch so that its
peak, in whole pairs, is the least there is. The mean of the peaks is minimised:

1. A start: the hint or the heaviest experts first, improved by descent (`row_descent`).
2. What no placement is below (`bounds.static_counts_bound`). With slots to spare and dozens of pairs on a device this
   is often where the start is already.
3. Without slots to spare there is nothing to route: `full_mesh` solves that exactly.
4. Else CP-SAT: which experts are on which devices, and the peak of each batch. For a set of devices, what is held
   inside alone has nowhere else to go, so that peak * devices >= load of experts without a replica outside. There are
   2^devices such sets; those of few devices come first, and others when the min cut of a batch's routing, at a
   placement that CP-SAT proposes, names them (Benders' cuts, strengthened: one for all batches and sets of experts).

Peaks are whole as pairs are, and a set's cut is exact for them. Cuts for a set of experts instead, by how many devices
hold any of it, would not depend on how devices are numbered, but each knows only these experts.

Measured with 24 experts on 4x2 devices, 16 batches of 256 or 512 pairs, two cores: 3 slots, none to spare, proven
optimal in .2 to 6 s. 4 slots, 8 to spare, proven optimal in .1 to 2 s wherever the start reaches the bound: on loads of
the built-in generator, and on log-normal ones (sigma .6) that differ by a sigma of .3 from batch to batch. With .6
instead, the gap is 2.5 to 6 % after 60 s (7 at sigma 1), and CP-SAT adds nothing: the bound stays that of step 2,
and as three kinds of local search ended with the same peaks, it is probably the bound that lacks. The same holds for 3
slots and few to spare, where that bound is weakest: 1, 2 and 4 to spare of 24 left 16, 14 and 9 % after 15 s, 8 none.
What CP-SAT proves by cuts is as large as 10 experts on 4 devices of 3 slots, 16 batches, in 10 s. Cuts by replica
counts, as in step 2, do not help it.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, pairwise
from math import ceil

import numpy as np
from ortools.sat.python import cp_model

from formulations.batches.full_mesh import is_full, partition_experts
from formulations.batches.replica_routing import holders_of, least_peaks
from formulations.bounds.load import any_placement_bound, static_counts_bound
from formulations.kit.arrays import Ints
from formulations.kit.clock import Clock
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits, run, solver_for
from formulations.rows.mesh_row import MeshRow
from formulations.rows.row_descent import descend_row, first_slots

FIRST_SETS = 100  # sets of devices to begin with, at most, unless single devices are more
FIRST_SIZE = 3  # and how many devices they have
DESCENTS = 30  # in vain until the model begins, .2 s each with 32 slots and 16 batches
DESCENT_SHARE = 0.5  # of the time for them, at most
DIGITS = 40  # experts that order the devices, far from the 64 bits of CP-SAT
LARGEST_MODEL = 500_000  # terms in cuts, .5 s to build; CP-SAT gets no farther than descent before that already


@dataclass(frozen=True, eq=False)
class BatchInstance:
    """load `[batch, expert]` whole pairs; devices are alike, and slots_per_device as many as each has.

    Raises ValueError for loads of another shape or below zero, or none at all.
    """

    load: Ints
    devices: int
    slots_per_device: int

    def __post_init__(self) -> None:
        if self.load.ndim != 2 or self.load.size == 0 or self.load.min() < 0:
            raise ValueError(f"load {self.load.shape} is no count of pairs [batch, expert]")

    @property
    def slots(self) -> int:
        """Slots of all devices."""
        return self.devices * self.slots_per_device

    @cached_property
    def row(self) -> MeshRow:
        """The same as a mesh row without experts elsewhere; what the floor forces is load of a device outside."""
        nowhere = np.zeros((self.load.shape[1], 1), dtype=np.bool_)
        return MeshRow(self.load, nowhere, self.floor[:, None], self.devices, self.slots_per_device)

    @cached_property
    def floor(self) -> Ints:
        """What the peak of each batch is at least, `[batch]`."""
        return any_placement_bound(self.load, self.devices, self.slots)

    @cached_property
    def least(self) -> int:
        """What the sum of the peaks is at least."""
        return round(static_counts_bound(self.load, self.devices, self.slots) * len(self.load))

    def peaks(self, slots: Ints) -> tuple[Ints, list[tuple[int, ...]]]:
        """The least peak of each batch, `[batch]`, and the devices that force it."""
        peaks, critical = least_peaks(self.load, holders_of(slots, self.load.shape[1]), "tokens")
        return peaks, [each.devices for each in critical]

    def total(self, slots: Ints) -> int:
        """The sum of the peaks."""
        return int(self.peaks(slots)[0].sum())


def place_for_batches(instance: BatchInstance, hint: Ints | None, limits: Limits) -> Outcome[Ints]:
    """Minimise the mean over batches of the peak device load, with optimal routing of each.

    hint: slots `[device, slot]` of a valid placement to start from, -1 = empty; the value is one in the same form, and
    no worse; raises ValueError where it is not valid. Objective and bound are in pairs. The bound holds for every
    placement in these slots and every routing. Whatever the time limit, there is a solution if there are slots enough;
    where it is not proven, status and gap say so. A deterministic limit is for CP-SAT alone, the rest needs seconds.
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
        slots, total, bound = _by_cuts(instance, slots, left)
    status = SolveStatus.OPTIMAL if total == bound else SolveStatus.FEASIBLE
    batches = len(instance.load)
    return Outcome(slots, total / batches, bound / batches, status, clock.elapsed())


def _start(instance: BatchInstance, hint: Ints | None, seed: int, clock: Clock, descents: int) -> Ints:
    """The best of descents from the hint, or the heaviest experts first, and then from placements at random, until so
    many are in vain. Descent counts parts of pairs."""
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
    """Every expert in some slot, the rest of them empty."""
    slots = np.full(instance.slots, -1)
    slots[rng.permutation(instance.slots)[: instance.load.shape[1]]] = np.arange(instance.load.shape[1])
    return slots.reshape(instance.devices, -1)


def _filled(instance: BatchInstance, slots: Ints) -> Ints:
    """Empty slots filled with the experts that have most load per replica: more replicas make no peak larger."""
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


Devices = tuple[int, ...]


def _by_cuts(instance: BatchInstance, slots: Ints, limits: Limits) -> tuple[Ints, int, int]:
    """The best slots, the sum of their peaks, and what no sum is below."""
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
    return known.slots, known.total, min(bound, known.total)


def _has_model(instance: BatchInstance, sets: list[Devices]) -> bool:
    """Whether a model with these sets is small enough to be built in the time there is."""
    batches, experts = instance.load.shape
    return bool(len(sets) * experts * (instance.devices + batches) <= LARGEST_MODEL)


def _first_sets(devices: int) -> list[Devices]:
    """Single devices, and all sets of two or three where these are not too many."""
    found: list[Devices] = []
    for size in range(1, min(FIRST_SIZE, devices - 1) + 1):
        more = list(combinations(range(devices), size))
        if size == 1 or len(found) + len(more) <= FIRST_SETS:
            found += more
    return found or [(0,)]


class _Master:
    """The CP-SAT model: which experts are on which devices, and the peaks that the cuts of some sets of devices force.

    on[expert][device], inside[set][expert]: it has no replica outside, peak[batch].
    """

    def __init__(self, instance: BatchInstance, sets: list[Devices], known: _Known, bound: int) -> None:
        self.instance, self.sets, self.model = instance, sets, cp_model.CpModel()
        self._variables(known)
        self._each_expert_placed()
        self._slots_filled()
        self._inside_unless_outside()
        self._peak_covers_sets()
        self._sum_between(bound, known.total)
        self.model.minimize(sum(self.peak))
        self._break_symmetry()
        self._hint(known)

    def _variables(self, known: _Known) -> None:
        experts, total = self.instance.load.shape[1], self.instance.load.sum(axis=1)
        new = self.model.new_bool_var
        self.on = [[new(f"on_{e}_{d}") for d in range(self.instance.devices)] for e in range(experts)]
        self.inside = [[new(f"inside_{s}_{e}") for e in range(experts)] for s in range(len(self.sets))]
        least, most = self.instance.floor.tolist(), total.tolist()
        ranges = enumerate(zip(least, most, strict=True))
        self.peak = [self.model.new_int_var(low, high, f"peak_{b}") for b, (low, high) in ranges]

    def _each_expert_placed(self) -> None:
        for devices in self.on:
            self.model.add_bool_or(devices)

    def _slots_filled(self) -> None:
        """All slots are used, as one replica more does no harm; an expert is on a device once or not."""
        used = min(self.instance.slots_per_device, len(self.on))
        for device in range(self.instance.devices):
            self.model.add(sum(devices[device] for devices in self.on) == used)

    def _inside_unless_outside(self) -> None:
        for devices, inside in zip(self.sets, self.inside, strict=True):
            for on, only in zip(self.on, inside, strict=True):
                outside = [on[device] for device in range(self.instance.devices) if device not in devices]
                self.model.add_bool_or([only, *outside])

    def _peak_covers_sets(self) -> None:
        for load, peak in zip(self.instance.load.tolist(), self.peak, strict=True):
            for devices, inside in zip(self.sets, self.inside, strict=True):
                self.model.add(cp_model.LinearExpr.weighted_sum(inside, load) <= len(devices) * peak)

    def _sum_between(self, bound: int, known: int) -> None:
        self.model.add_linear_constraint(sum(self.peak), bound, known)

    def _break_symmetry(self) -> None:
        """Devices are numbered in the order of what they hold, the hottest expert being the first digit of it. No peak
        is lost. Without this CP-SAT proves nothing; with the order of first use alone it takes up to three times as
        long."""
        hottest = [self.on[expert] for expert in self._hottest]
        codes = [cp_model.LinearExpr.weighted_sum(held, self._digits) for held in zip(*hottest, strict=True)]
        for earlier, later in pairwise(codes):
            self.model.add(earlier >= later)

    @property
    def _hottest(self) -> list[int]:
        """The experts that the order of devices looks at, the hottest first."""
        order: list[int] = np.argsort(-self.instance.load.sum(axis=0), kind="stable").tolist()
        return order[:DIGITS]

    @property
    def _digits(self) -> list[int]:
        """What each of them counts."""
        return [1 << digit for digit in reversed(range(len(self._hottest)))]

    def _hint(self, known: _Known) -> None:
        """A value for every variable, with devices renumbered as the symmetry wants it."""
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
        for variable, value in zip(self.peak, self.instance.peaks(known.slots)[0].tolist(), strict=True):
            self.model.add_hint(variable, value)


class _Proposals(cp_model.CpSolverSolutionCallback):
    """Routes every placement that CP-SAT proposes: keeps the best, and the sets of devices of the peaks it did not see.

    The search is stopped when it believes in half of what could be gained without the cuts that it lacks.
    """

    def __init__(self, instance: BatchInstance, known: _Known, bound: int) -> None:
        super().__init__()
        self.instance, self.known, self.bound = instance, known, bound
        self.sets: list[Devices] = []

    def of(self, master: _Master) -> "_Proposals":
        """Listening to this model."""
        self.master = master
        return self

    def on_solution_callback(self) -> None:
        """Called by the solver with every better solution."""
        held = np.array([[self.boolean_value(on) for on in devices] for devices in self.master.on])
        slots = np.full_like(self.known.slots, -1)
        for device, column in enumerate(held.T):
            slots[device, : column.sum()] = np.flatnonzero(column)
        peaks, critical = self.instance.peaks(slots)
        believed = [self.value(peak) for peak in self.master.peak]
        missed = [devices for peak, seen, devices in zip(peaks, believed, critical, strict=True) if peak > seen]
        self.sets += missed
        if peaks.sum() < self.known.total:
            self.known = _Known(slots, int(peaks.sum()))
        if missed and sum(believed) < (self.known.total + self.bound) / 2:
            self.stop_search()
