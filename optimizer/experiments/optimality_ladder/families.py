"""The objectives for which an instance is solved, each with a formulation that finds its optimum or bounds it.

The value of a placement is worked out here from the placement alone, exactly, and by other code than the formulations'.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from formulations.batches.batch_instance import BatchInstance
from formulations.batches.recourse import place_for_batches
from formulations.expected_load.joint_placement import JointInstance, place_jointly
from formulations.expected_load.layer_placement import LayerInstance, place_replicas
from formulations.expected_load.replication import ReplicaBudget, counts_for_batches
from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel
from formulations.kit.outcome import Outcome
from formulations.kit.solver import Limits
from optimizer.domain.mesh import Mesh
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.problem import Problem
from optimizer.experiments.optimality_ladder.methods import METHODS, ROUTED, Method
from optimizer.routing.least_peak import Graph, graph, least_peak, scratch_for


@dataclass(frozen=True)
class Family:
    """One objective, and how it is solved and valued.

    says: the objective in words. needs_tokens: whether instances of recorded steps, which have no tokens, are left out.
    view: makes of an instance's problem the one that methods and formulation solve. optimum: finds slots
    `[device, slot]`, in an outcome whose bound holds for every placement of the view. value: the objective of a
    placement of the view. methods: the heuristics that are compared, by name.
    """

    says: str
    needs_tokens: bool
    view: Callable[[Problem], Problem]
    optimum: Callable[[Problem, Limits], Outcome[Ints]]
    value: Callable[[Problem, Placement], Fraction]
    methods: dict[str, Method]


def total(problem: Problem) -> Problem:
    """The problem with the loads of all batches summed into one."""
    return replace(problem, load=problem.total_load[None].astype(np.int32))


def alone(problem: Problem) -> Problem:
    """The problem with every slot as a device of its own, so that only the numbers of replicas are left to choose."""
    mesh = problem.mesh
    return replace(problem, mesh=Mesh(mesh.rows, mesh.cols * mesh.slots_per_device, 1))


def even_peak(problem: Problem, placement: Placement) -> Fraction:
    """The mean over batches of the largest device load, where each expert's load is split evenly over its replicas."""
    counts = placement.counts(problem.model.experts).tolist()
    peaks = Fraction(0)
    for load in problem.load.tolist():
        share = [Fraction(pairs, count) for pairs, count in zip(load, counts, strict=True)]
        peaks += max(sum((share[expert] for expert in held if expert >= 0), Fraction(0)) for held in placement.slots)
    return peaks / len(problem.load)


def routed_peak(problem: Problem, placement: Placement) -> Fraction:
    """The mean over batches of the least peak device load that any routing of whole pairs reaches."""
    devices, depth = placement.slots.shape
    replicas = graph(*placement.replicas(problem.model.experts), devices, depth)
    return Fraction(int(_sum_of_peaks(problem.load, replicas, devices)), len(problem.load))


@kernel
def _sum_of_peaks(load: Ints, replicas: Graph, devices: int) -> int:
    """The sum over batches of the least peak device load; load `[batch, expert]`."""
    flow, carried = np.zeros(len(replicas.device_of), dtype=np.int64), np.zeros(devices, dtype=np.int64)
    scratch, total = scratch_for(devices), 0
    for batch in range(len(load)):
        total += least_peak(load[batch].astype(np.int64), replicas, flow, carried, scratch)
    return total


def place_expected(problem: Problem, limits: Limits) -> Outcome[Ints]:
    """Choose counts and placement for the expected load; where no slot is to spare, place one replica of each."""
    mesh, load = problem.mesh, problem.total_load
    if problem.model.experts < mesh.slots:
        layer = JointInstance(load, problem.spread, mesh.rows, mesh.cols, mesh.slots_per_device)
        return place_jointly(layer, None, limits)
    counts = np.ones(len(load), dtype=np.int64)
    instance = LayerInstance(load, counts, problem.spread, mesh.rows, mesh.cols, mesh.slots_per_device)
    return place_replicas(instance, None, limits)


def place_batches(problem: Problem, limits: Limits) -> Outcome[Ints]:
    """Choose counts and placement for batches that are routed optimally."""
    mesh = problem.mesh
    return place_for_batches(BatchInstance(problem.load, mesh.devices, mesh.slots_per_device), None, limits)


def replicate(problem: Problem, limits: Limits) -> Outcome[Ints]:
    """Choose counts for all batches, and give them as a placement on devices with one slot each."""
    found = counts_for_batches(problem.load, _budget(problem), limits)
    assert found.value is not None  # a problem without enough slots would have been refused
    slots = np.full((problem.mesh.devices, 1), EMPTY)
    slots[: found.value.sum(), 0] = np.repeat(np.arange(len(found.value)), found.value)
    return Outcome(slots, found.objective, found.lower_bound, found.status, found.runtime)


def _budget(problem: Problem) -> ReplicaBudget:
    """A budget of all slots, or of fewer where all experts on every device fill no more."""
    experts, mesh = problem.model.experts, problem.mesh
    return ReplicaBudget.of(experts, min(mesh.slots, experts * mesh.devices), mesh.devices)


FAMILIES = {
    "expected": Family(
        "largest device load, all batches in sum, each expert's load split evenly over its replicas, pairs",
        needs_tokens=False,
        view=total,
        optimum=place_expected,
        value=even_peak,
        methods=METHODS,
    ),
    "batches": Family(
        "largest device load, each batch routed at best, mean over batches, pairs",
        needs_tokens=True,
        view=lambda problem: problem,
        optimum=place_batches,
        value=routed_peak,
        methods=METHODS | ROUTED,
    ),
    "replication": Family(
        "largest load of a replica, each expert's load split evenly, mean over batches, pairs",
        needs_tokens=False,
        view=alone,
        optimum=replicate,
        value=even_peak,
        methods=METHODS,
    ),
}
