"""Replicas to devices for one layer: minimum peak expected load, by CP-SAT."""

import math
from dataclasses import dataclass

import numpy as np
from ortools.sat.python import cp_model

from formulations.arrays import Bools, Ints
from formulations.outcome import Outcome, SolveStatus
from formulations.solver import Limits, solver_for, status_of

LARGEST_TOTAL = 1 << 50  # keeps every sum of weights far from CP-SAT's 64-bit limit


@dataclass(frozen=True, eq=False)
class Instance:
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
        """Number of devices."""
        return self.rows * self.cols

    def weights(self) -> tuple[Ints, float]:
        """Integral load of one replica of each expert, `[expert]` int64, and the scale they are multiplied by.

        The scale is the least common multiple of the counts, so that shares stay exact; where sums would grow too
        large it is smaller and shares are rounded down, which keeps the lower bound valid.
        """
        total = max(int(self.load.sum()), 1)
        scale = math.lcm(*map(int, self.count))
        if scale * total > LARGEST_TOTAL:
            scale = max(LARGEST_TOTAL // total, 1)
        shares = [int(load) * scale // int(count) for load, count in zip(self.load, self.count, strict=True)]
        return np.array(shares, dtype=np.int64), float(scale)


def place_replicas(instance: Instance, hint: Ints | None, limits: Limits) -> Outcome[Ints]:
    """Minimise the peak over devices of the expected load, for given replica counts.

    hint: slots `[device, slot]` of a valid placement with these counts, -1 = empty. The value is a placement in the
    same form; objective and bound are in units of `load`. The bound holds for every placement with these counts.
    """
    model = cp_model.CpModel()
    weight, scale = instance.weights()
    on, peak = _variables(model, instance, weight)
    _each_replica_placed(model, instance, on)
    _slots_suffice(model, instance, on)
    _rows_share_evenly(model, instance, on)
    _peak_covers_devices(model, instance, on, weight, peak)
    model.minimize(peak)
    if hint is not None:
        _break_symmetry(model, instance, on, hint)
        _hint(model, instance, on, weight, peak, hint)
    solver = solver_for(limits)
    status = status_of(solver.solve(model))
    return _extract(instance, solver, status, on, scale)


Variables = list[list[cp_model.IntVar]]


def _variables(model: cp_model.CpModel, instance: Instance, weight: Ints) -> tuple[Variables, cp_model.IntVar]:
    """on[expert][device]: a replica is there. The peak starts at what no placement can beat."""
    on = [[model.new_bool_var(f"on_{e}_{d}") for d in range(instance.devices)] for e in range(len(weight))]
    total = int(weight @ instance.count)
    least = max(-(-total // instance.devices), int(weight.max()))
    return on, model.new_int_var(least, max(least, total), "peak")


def _each_replica_placed(model: cp_model.CpModel, instance: Instance, on: Variables) -> None:
    """An expert is on exactly as many devices as it has replicas, and so never twice on one."""
    for expert, count in enumerate(instance.count):
        model.add(sum(on[expert]) == int(count))


def _slots_suffice(model: cp_model.CpModel, instance: Instance, on: Variables) -> None:
    for device in range(instance.devices):
        model.add(sum(row[device] for row in on) <= instance.slots_per_device)


def _rows_share_evenly(model: cp_model.CpModel, instance: Instance, on: Variables) -> None:
    """Every mesh row gets the whole share of a spread expert's replicas, rounded down or up."""
    for expert in np.flatnonzero(instance.spread):
        least, rest = divmod(int(instance.count[expert]), instance.rows)
        for row in range(instance.rows):
            devices = range(row * instance.cols, (row + 1) * instance.cols)
            here = sum(on[expert][device] for device in devices)
            model.add_linear_constraint(here, least, least + (rest > 0))


def _peak_covers_devices(
    model: cp_model.CpModel, instance: Instance, on: Variables, weight: Ints, peak: cp_model.IntVar
) -> None:
    for device in range(instance.devices):
        column = [row[device] for row in on]
        model.add(cp_model.LinearExpr.weighted_sum(column, weight.tolist()) <= peak)


def _break_symmetry(model: cp_model.CpModel, instance: Instance, on: Variables, hint: Ints) -> None:
    """Pin one expert, a spread one if there is any, else the one with most replicas, where the hint has it.

    No peak is lost: any placement becomes one with these pins by renumbering rows, and devices inside rows, which
    changes neither loads nor how evenly rows share other spread experts.
    """
    spread = np.flatnonzero(instance.spread)
    expert = int(spread[0]) if len(spread) else int(np.argmax(instance.count))
    held = (hint == expert).any(axis=1)
    for device in range(instance.devices):
        model.add(on[expert][device] == int(held[device]))


def _hint(
    model: cp_model.CpModel,
    instance: Instance,
    on: Variables,
    weight: Ints,
    peak: cp_model.IntVar,
    hint: Ints,
) -> None:
    """A value for every variable, the peak included, so that the search starts from a known solution."""
    held = np.zeros((len(weight), instance.devices), dtype=np.int64)
    device, slot = np.nonzero(hint >= 0)
    held[hint[device, slot], device] = 1
    for variables, values in zip(on, held, strict=True):
        for variable, value in zip(variables, values, strict=True):
            model.add_hint(variable, int(value))
    model.add_hint(peak, int((weight @ held).max()))


def _extract(
    instance: Instance, solver: cp_model.CpSolver, status: SolveStatus, on: Variables, scale: float
) -> Outcome[Ints]:
    runtime = solver.wall_time
    if status not in (SolveStatus.OPTIMAL, SolveStatus.FEASIBLE):
        return Outcome(None, None, solver.best_objective_bound / scale, status, runtime)
    slots = np.full((instance.devices, instance.slots_per_device), -1, dtype=np.int32)
    for device in range(instance.devices):
        held = [expert for expert, row in enumerate(on) if solver.boolean_value(row[device])]
        slots[device, : len(held)] = held
    return Outcome(slots, solver.objective_value / scale, solver.best_objective_bound / scale, status, runtime)
