"""Replicas to devices for one layer with given replica counts: the least peak expected load.

The work is done in three parts, each from where the one before ended:

1. Annealing and regrouping find a placement (`load_annealing`, `load_regrouping`).
2. Column generation finds a bound (`device_columns`). Often the bound meets the placement, which is then optimal.
3. Where a gap is left, CP-SAT goes on from both. Its variables say which device holds which expert, and what the peak
   is. Its constraints place every replica, fill no device beyond its slots, share spread experts out evenly over the
   rows, and keep every device below the peak, which is minimised. The answer is read off the first variables.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from ortools.sat.python import cp_model

from formulations.expected_load.device_columns import MOST_DEPTH, expected_peak_bound
from formulations.expected_load.load_annealing import anneal, deal, layout_of, slots_of
from formulations.expected_load.load_regrouping import regroup
from formulations.kit.arrays import Bools, Ints
from formulations.kit.clock import Clock
from formulations.kit.outcome import PROVEN, Outcome, SolveStatus
from formulations.kit.solver import Limits, run, solver_for

LARGEST_TOTAL = 1 << 50  # keeps every sum of weights far from CP-SAT's 64-bit limit
HOT, COLD = 1e-2, 1e-6  # temperatures of the annealing: overloads of a tenth and of a thousandth of the bound, squared
STEPS = 26  # annealing steps for each slot, as in `joint_placement`
ROUNDS = 3  # of annealing and regrouping, each from the dealt placement; a compromise between time and luck
TRIES, PATIENCE = 500, 80  # regroupings for each device, and before a target counts as out of reach; a compromise
COLUMN_SHARE = 0.6  # of the time is for the column bound, at most; the rest is enough for CP-SAT to begin


class ReplicaWeights(NamedTuple):
    """share `[expert]` int64, the whole-numbered load of one replica of each expert; `scale` shares make one pair."""

    share: Ints
    scale: float


@dataclass(frozen=True, eq=False)
class LayerInstance:
    """load `[expert]` expected pairs (integers, any scale); count `[expert]` replicas of each;
    spread `[expert]`: experts whose replicas are shared out evenly over mesh rows of `cols` devices.

    Every replica carries load / count, and the replicas of one expert are on distinct devices.
    """

    load: Ints
    count: Ints
    spread: Bools
    rows: int
    cols: int
    slots_per_device: int

    @property
    def devices(self) -> int:
        """Number of devices of the mesh, which is rows times columns."""
        return self.rows * self.cols

    def weights(self) -> ReplicaWeights:
        """The load of one replica of each expert in whole numbers, and the scale that makes them whole.

        The scale is the least common multiple of the counts, so that shares stay exact. Where sums would grow too
        large the scale is smaller and shares are rounded down, which keeps the lower bound valid.
        """
        total = max(int(self.load.sum()), 1)
        scale = math.lcm(*map(int, self.count))
        if scale * total > LARGEST_TOTAL:
            scale = max(LARGEST_TOTAL // total, 1)
        shares = [int(load) * scale // int(count) for load, count in zip(self.load, self.count, strict=True)]
        return ReplicaWeights(np.array(shares, dtype=np.int64), float(scale))


def place_replicas(instance: LayerInstance, hint: Ints | None, limits: Limits) -> Outcome[Ints]:
    """Minimise the peak over devices of the expected load, for given replica counts.

    hint: slots `[device, slot]` of a valid placement with these counts, -1 = empty, or None. The value is a placement
    in the same form; objective and bound are in units of `load`. The bound holds for every placement with these counts.
    """
    clock = limits.clock()
    weight, scale = instance.weights()
    slots, least = _regrouped(instance, hint, weight, limits.seed, clock), _least_peak(instance, weight)
    peak = None if slots is None else _peak(slots, weight)
    status = SolveStatus.UNKNOWN
    if peak is not None and least < peak and instance.slots_per_device <= MOST_DEPTH:
        share = replace(limits, seconds=COLUMN_SHARE * clock.left())
        least = max(least, _column_bound(instance, weight, peak, share))
    if peak is None or (peak - least > PROVEN * peak and clock.left() > 0):
        rest = replace(limits, seconds=clock.left())
        status, slots, least = _solve(instance, slots, weight, least, rest)
        peak = None if slots is None else _peak(slots, weight)
    if peak is None:
        return Outcome(None, None, least / scale, status, clock.elapsed())
    status = SolveStatus.OPTIMAL if peak - least <= PROVEN * peak else SolveStatus.FEASIBLE
    return Outcome(slots, peak / scale, least / scale, status, clock.elapsed())


def _peak(slots: Ints, weight: Ints) -> int:
    """The largest sum of weights on a device."""
    return int(np.append(weight, 0)[slots].sum(axis=1).max())


def _least_peak(instance: LayerInstance, weight: Ints) -> int:
    """A simple bound on the peak: the mean load of a device, rounded up, or the heaviest replica alone."""
    return max(-(-int(weight @ instance.count) // instance.devices), int(weight.max()))


def _regrouped(instance: LayerInstance, hint: Ints | None, weight: Ints, seed: int, clock: Clock) -> Ints | None:
    """The best of the hint and of placements found by annealing and regrouping; None if the counts do not fit.

    The work does not depend on the time, only on whether the caller cancels, so that a seed gives one placement.
    """
    if instance.count.max() > instance.devices or instance.count.sum() > instance.devices * instance.slots_per_device:
        return None
    start = deal(instance.load, instance.count, instance.rows, instance.cols, instance.slots_per_device)
    best, least = start if hint is None else hint, _least_peak(instance, weight)
    rng, load = np.random.default_rng(seed), weight * instance.count / max(least, 1)
    for _ in range(ROUNDS):
        if _peak(best, weight) == least or clock.cancelled():
            break
        layout = layout_of(load, start, instance.spread, instance.cols)
        anneal(layout, 1.0, STEPS * start.size, HOT, COLD, 0.0, rng)
        regroup(layout, 1.0, TRIES * instance.devices, PATIENCE * instance.devices, rng)
        best = min(best, slots_of(layout), key=lambda slots: _peak(slots, weight))
    return best


def _column_bound(instance: LayerInstance, weight: Ints, peak: int, limits: Limits) -> int:
    """The bound that columns prove. They ignore that rows share spread experts, which only takes placements away."""
    devices, depth = instance.devices, instance.slots_per_device
    found = expected_peak_bound(weight.astype(np.float64), instance.count, devices, depth, float(peak), limits)
    return math.floor(found.peak)  # the bound is the weight of a column, a sum of whole numbers


class _Solved(NamedTuple):
    """CP-SAT's status; its placement `[device, slot]`, or the hint where it has none; the bound in weights."""

    status: SolveStatus
    slots: Ints | None
    least: int


def _solve(instance: LayerInstance, hint: Ints | None, weight: Ints, least: int, limits: Limits) -> _Solved:
    """Solve by CP-SAT from a known placement and a known bound `least`, below which the answer's bound is never."""
    model = cp_model.CpModel()
    on, peak = _variables(model, instance, weight, least)
    _each_replica_placed(model, instance, on)
    _slots_suffice(model, instance, on)
    _rows_share_evenly(model, instance, on)
    _peak_covers_devices(model, instance, on, weight, peak)
    model.minimize(peak)
    if hint is not None and not limits.cancelled():
        _break_symmetry(model, instance, on, hint)
        _hint(model, on, weight, peak, hint)
    solver = solver_for(limits)
    status = run(solver, model, limits)
    if status not in (SolveStatus.OPTIMAL, SolveStatus.FEASIBLE):
        return _Solved(status, hint, least)
    return _Solved(status, _extract(instance, solver, on), max(least, round(solver.best_objective_bound)))


On = list[list[cp_model.IntVar]]
"""on[expert][device]: a replica of the expert is on the device."""


class _Variables(NamedTuple):
    """The variables of the model: who is where, and the peak device load in weights."""

    on: On
    peak: cp_model.IntVar


def _variables(model: cp_model.CpModel, instance: LayerInstance, weight: Ints, least: int) -> _Variables:
    """New variables; the range of the peak begins at the known bound, so that CP-SAT stops as soon as it is reached."""
    on = [[model.new_bool_var(f"on_{e}_{d}") for d in range(instance.devices)] for e in range(len(weight))]
    total = int(weight @ instance.count)
    return _Variables(on, model.new_int_var(least, max(least, total), "peak"))


def _each_replica_placed(model: cp_model.CpModel, instance: LayerInstance, on: On) -> None:
    """An expert is on exactly as many devices as it has replicas, and so never twice on one."""
    for expert, count in enumerate(instance.count):
        model.add(sum(on[expert]) == int(count))


def _slots_suffice(model: cp_model.CpModel, instance: LayerInstance, on: On) -> None:
    """A device holds no more experts than it has slots."""
    for device in range(instance.devices):
        model.add(sum(row[device] for row in on) <= instance.slots_per_device)


def _rows_share_evenly(model: cp_model.CpModel, instance: LayerInstance, on: On) -> None:
    """Every mesh row gets an equal share of a spread expert's replicas, rounded down or up."""
    for expert in np.flatnonzero(instance.spread):
        least, rest = divmod(int(instance.count[expert]), instance.rows)
        for row in range(instance.rows):
            devices = range(row * instance.cols, (row + 1) * instance.cols)
            here = sum(on[expert][device] for device in devices)
            model.add_linear_constraint(here, least, least + (rest > 0))


def _peak_covers_devices(
    model: cp_model.CpModel, instance: LayerInstance, on: On, weight: Ints, peak: cp_model.IntVar
) -> None:
    """The peak is at least the load of every device; as it is minimised, it is the largest of them."""
    for device in range(instance.devices):
        column = [row[device] for row in on]
        model.add(cp_model.LinearExpr.weighted_sum(column, weight.tolist()) <= peak)


def _break_symmetry(model: cp_model.CpModel, instance: LayerInstance, on: On, hint: Ints) -> None:
    """Pin one expert where the hint has it: a spread one if there is any, else the one with most replicas.

    No peak is lost: any placement becomes one with these pins by renumbering rows, and devices inside rows, which
    changes neither loads nor how evenly rows share other spread experts.
    """
    spread = np.flatnonzero(instance.spread)
    expert = int(spread[0]) if len(spread) else int(np.argmax(instance.count))
    held = (hint == expert).any(axis=1)
    for device in range(instance.devices):
        model.add(on[expert][device] == int(held[device]))


def _hint(model: cp_model.CpModel, on: On, weight: Ints, peak: cp_model.IntVar, hint: Ints) -> None:
    """A value for every variable, the peak included, so that the search starts from a known solution."""
    held = np.zeros((len(weight), len(hint)), dtype=np.int64)
    device, slot = np.nonzero(hint >= 0)
    held[hint[device, slot], device] = 1
    for variables, values in zip(on, held, strict=True):
        for variable, value in zip(variables, values, strict=True):
            model.add_hint(variable, int(value))
    model.add_hint(peak, int((weight @ held).max()))


def _extract(instance: LayerInstance, solver: cp_model.CpSolver, on: On) -> Ints:
    """The placement `[device, slot]` int32 that CP-SAT found, with the experts of a device in ascending order."""
    slots = np.full((instance.devices, instance.slots_per_device), -1, dtype=np.int32)
    for device in range(instance.devices):
        held = [expert for expert, row in enumerate(on) if solver.boolean_value(row[device])]
        slots[device, : len(held)] = held
    return slots
