"""MoETuner: experts to devices by two integer programs (Go and Mahajan, arXiv 2502.06643).

From the paper's abstract and summaries of it: the first program puts experts into as many clusters as there are
devices, each of equally many experts, so that clusters process equally many tokens. The second gives clusters to
devices so that tokens travel little between them, by how often tokens go on from an expert of one layer to an expert of
the next. No expert is copied.

Filled in:

- Equal means here that the largest load of a cluster is the least.
- The second program needs transitions between layers, and one layer has none. What stands for the layer before is where
  tokens are before dispatch: clusters go to the devices on which the hops of all train pairs are the fewest. This is an
  assignment problem, whose linear program has whole solutions. Where sources choose alike, as mesh rows with many users
  do, it wins little.
- The paper knows no shared experts. Their replicas count in the load of the clusters that go to their devices, and only
  clusters of devices with the same shared experts change places.
"""

import numpy as np
from ortools.sat.python import cp_model
from scipy.optimize import linear_sum_assignment

from formulations.kit.arrays import Ints
from formulations.kit.outcome import SolveStatus
from formulations.kit.solver import Limits, run, solver_for
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.experiments.rivals.one_each import OneEach, pairs_by_source, placed, same_shared
from optimizer.traces.batches import Batches

LIMITS = Limits(seconds=120, deterministic=5)
"""The work that the first program gets, which takes some seconds, long before the wall clock's limit, so that a problem
has one plan. Four times as much lowers no peak on the real layers of benchmarks/README.md."""


def moetuner(problem: Problem, train: Batches) -> Placement:
    """The placement by both programs; train: the batches by whose sources clusters are given to devices."""
    device_of = clusters(OneEach.of(problem))
    return placed(problem, assigned(problem, device_of, pairs_by_source(problem, train)))


def clusters(task: OneEach, limits: Limits = LIMITS) -> Ints:
    """The cluster of each expert `[expert to place]`, numbered by device, with the least largest load.

    CP-SAT begins with EPLB's packing, which is the answer where it finds nothing better in its limits.
    """
    start, least = task.dealt(), _least_peak(task)
    most = int(task.device_load(start).max())
    if most == least:
        return start
    model, devices = cp_model.CpModel(), range(len(task.most))
    on = [[model.new_bool_var(f"on_{expert}_{device}") for device in devices] for expert in range(len(start))]
    peak = model.new_int_var(least, most, "peak")
    for row, device in zip(on, start, strict=True):
        model.add_exactly_one(row)
        for other, variable in enumerate(row):
            model.add_hint(variable, other == device)
    for device in devices:
        column = [row[device] for row in on]
        model.add_linear_constraint(sum(column), int(task.least[device]), int(task.most[device]))
        load = cp_model.LinearExpr.weighted_sum(column, task.load.tolist())
        model.add(load + int(task.taken[device]) <= peak)
    model.minimize(peak)
    solver = solver_for(limits)
    if run(solver, model, limits) not in (SolveStatus.OPTIMAL, SolveStatus.FEASIBLE):
        return start
    found: Ints = np.array([[solver.boolean_value(variable) for variable in row] for row in on]).argmax(axis=1)
    return found


def _least_peak(task: OneEach) -> int:
    """What no largest load goes below: the mean, and what the heaviest expert and the shared experts have with them."""
    mean = -(-int(task.load.sum() + task.taken.sum()) // len(task.taken))
    lightest = np.append(0, np.cumsum(np.sort(task.load)))
    company = lightest[max(int(task.least.min()) - 1, 0)]
    return max(mean, int(task.load.max() + company), int((task.taken + lightest[task.least]).max()))


def assigned(problem: Problem, cluster_of: Ints, pairs: Ints) -> Ints:
    """The device of each expert `[expert to place]` by the second program.

    cluster_of `[expert to place]`; pairs `[source, expert]` as of `pairs_by_source`.
    """
    task = OneEach.of(problem)
    devices = len(task.room)
    wanted = np.zeros((devices, len(pairs)), dtype=np.int64)
    np.add.at(wanted, cluster_of, pairs[:, task.experts].T)
    hops = (wanted @ problem.network.distance).astype(np.float64)
    hops[~same_shared(problem)] = np.inf
    _, device = linear_sum_assignment(hops)
    return np.asarray(device, dtype=np.int64)[cluster_of]
