"""Replica counts and placement of one layer near a placement in force: the least peak expected load, by CP-SAT.

Its variables say which device serves which expert as one of how many replicas, and what the peak is. Its constraints
give every expert one number of replicas, fill no device beyond its slots, let devices load no more weights than they
may, and keep every device below the peak, which is minimised. The answer is read off the first variables. It has
experts x devices x devices variables, and so is for small cases.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from ortools.sat.python import cp_model

from formulations.kit.arrays import Bools, Ints
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits, run, solver_for

LARGEST_TOTAL = 1 << 50  # keeps every sum of weights far from CP-SAT's 64-bit limit


@dataclass(frozen=True, eq=False)
class RebalancingInstance:
    """load `[expert]` expected pairs (integers, any scale), which replicas share evenly; current `[device, slot]`: the
    placement in force, -1 = empty; most_loaded: how many experts devices may hold that they do not hold there."""

    load: Ints
    current: Ints
    most_loaded: int

    @property
    def devices(self) -> int:
        """How many devices there are, each of which has as many slots as in the placement in force."""
        return len(self.current)

    @property
    def held(self) -> Bools:
        """Whether a device holds an expert in the placement in force, `[device, expert]`."""
        found = np.zeros((self.devices, len(self.load)), dtype=np.bool_)
        device, slot = np.nonzero(self.current >= 0)
        found[device, self.current[device, slot]] = True
        return found

    def weights(self) -> tuple[Ints, float]:
        """The load of a replica by the number of replicas, `[expert, replicas - 1]` in whole numbers, and how many of
        these make one pair. Where sums would grow too large it is rounded down, which keeps the bound valid."""
        total, scale = max(int(self.load.sum()), 1), math.lcm(*range(1, self.devices + 1))
        scale = min(scale, max(LARGEST_TOTAL // total, 1))
        counts = range(1, self.devices + 1)
        return np.array([[int(load) * scale // count for count in counts] for load in self.load]), float(scale)


def rebalance(instance: RebalancingInstance, limits: Limits) -> Outcome[Ints]:
    """Minimise the peak over devices of the expected load.

    The value is a placement `[device, slot]`, -1 = empty; objective and bound are in units of `load`. The bound holds
    for every placement within the budget, with any replica counts. The search begins at the placement in force.
    """
    clock = limits.clock()
    weight, scale = instance.weights()
    model = cp_model.CpModel()
    serves, peak = _variables(model, instance, weight)
    _one_number_of_replicas(model, serves)
    _slots_suffice(model, instance, serves)
    _few_are_loaded(model, instance, serves)
    _peak_covers_devices(model, serves, weight, peak)
    model.minimize(peak)
    _hint(model, instance, serves, peak, weight)
    solver = solver_for(limits)
    status = run(solver, model, limits)
    least = max(-(-int(weight[:, 0].sum()) // instance.devices) / scale, solver.best_objective_bound / scale)
    if status not in (SolveStatus.OPTIMAL, SolveStatus.FEASIBLE):
        return Outcome(None, None, least, status, clock.elapsed())
    slots, objective = _extract(instance, solver, serves), solver.objective_value / scale
    return Outcome(slots, objective, min(least, objective), status, clock.elapsed())


Serves = list[list[list[cp_model.IntVar]]]
"""serves[expert][device][count]: the device holds the expert, which has count + 1 replicas."""


class _Variables(NamedTuple):
    """The variables of the model: who holds what, and the peak device load in weights."""

    serves: Serves
    peak: cp_model.IntVar


def _variables(model: cp_model.CpModel, instance: RebalancingInstance, weight: Ints) -> _Variables:
    """New variables; an expert has at most as many replicas as there are devices."""
    devices = range(instance.devices)
    serves = [
        [[model.new_bool_var(f"{expert}_{device}_{count}") for count in devices] for device in devices]
        for expert in range(len(weight))
    ]
    return _Variables(serves, model.new_int_var(0, int(weight[:, 0].sum()), "peak"))


def _one_number_of_replicas(model: cp_model.CpModel, serves: Serves) -> None:
    """An expert has one number of replicas, and as many devices hold it."""
    for by_device in serves:
        counts = range(len(by_device))
        chosen = [model.new_bool_var("") for _ in counts]
        model.add_exactly_one(chosen)
        for count in counts:
            model.add(sum(device[count] for device in by_device) == (count + 1) * chosen[count])


def _slots_suffice(model: cp_model.CpModel, instance: RebalancingInstance, serves: Serves) -> None:
    """A device holds no more experts than it has slots, and no expert twice."""
    for device in range(instance.devices):
        model.add(sum(sum(by_device[device]) for by_device in serves) <= instance.current.shape[1])
        for by_device in serves:
            model.add_at_most_one(by_device[device])


def _few_are_loaded(model: cp_model.CpModel, instance: RebalancingInstance, serves: Serves) -> None:
    """Devices load no more experts than they may."""
    new = np.argwhere(~instance.held).tolist()
    model.add(sum(sum(serves[expert][device]) for device, expert in new) <= instance.most_loaded)


def _peak_covers_devices(model: cp_model.CpModel, serves: Serves, weight: Ints, peak: cp_model.IntVar) -> None:
    """The peak is at least the load of every device; as it is minimised, it is the largest of them."""
    for device in range(len(serves[0])):
        column = [variable for by_device in serves for variable in by_device[device]]
        model.add(cp_model.LinearExpr.weighted_sum(column, weight.ravel().tolist()) <= peak)


def _hint(
    model: cp_model.CpModel, instance: RebalancingInstance, serves: Serves, peak: cp_model.IntVar, weight: Ints
) -> None:
    """The placement in force, as a solution that is known."""
    held = instance.held
    copies = held.sum(axis=0)
    share = weight[np.arange(len(weight)), np.maximum(copies, 1) - 1]
    for expert, by_device in enumerate(serves):
        for device, counts in enumerate(by_device):
            for count, variable in enumerate(counts):
                model.add_hint(variable, int(held[device, expert] and copies[expert] == count + 1))
    model.add_hint(peak, int((held @ share).max()))


def _extract(instance: RebalancingInstance, solver: cp_model.CpSolver, serves: Serves) -> Ints:
    """The placement `[device, slot]` int32 that CP-SAT found, with the experts of a device in ascending order."""
    slots = np.full(instance.current.shape, -1, dtype=np.int32)
    for device in range(instance.devices):
        held = [expert for expert, by_device in enumerate(serves) if any(map(solver.boolean_value, by_device[device]))]
        slots[device, : len(held)] = held
    return slots
