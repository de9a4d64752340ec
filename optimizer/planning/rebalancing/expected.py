"""The expected load within a budget, for small layers: a placement for even routing, and a bound on all others."""

from typing import NamedTuple

import numpy as np

from formulations.expected_load.rebalancing import RebalancingInstance, rebalance
from formulations.kit.arrays import Ints
from formulations.kit.outcome import Outcome
from formulations.kit.solver import Limits
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.problem import MoveBudget, Problem
from optimizer.planning.options import Effort
from optimizer.streams import Purpose, derived_seed

MOST_VARIABLES = 1 << 12
"""Experts x devices x devices up to which CP-SAT is asked: beyond, it proves little in seconds. Not tuned."""

SECONDS, SHARE, WORK = 5.0, 0.05, 1.0
"""What CP-SAT gets for a budget: so many seconds, so large a share of what is left, or so many of its units of work
where moves are counted; small layers need less. Not tuned."""


class ExpectedBound(NamedTuple):
    """Peak over mean of the expected load of devices under even split, on train batches: what no placement within the
    budget goes below, and what the chosen placement has."""

    least: float
    reached: float


def formulated(problem: Problem, budget: MoveBudget, effort: Effort) -> Outcome[Ints] | None:
    """The least peak of the expected load within a budget, None for a layer that is too large."""
    if problem.model.experts * problem.mesh.devices**2 > MOST_VARIABLES or effort.cancel.asked:
        return None
    seed, left = derived_seed(Purpose.REBALANCE_FORMULATION, effort.seed, budget.most), effort.deadline.remaining()
    if effort.iterations is None:
        limits = Limits(min(SECONDS, SHARE * left), seed=seed, cancelled=lambda: effort.cancel.asked)
    else:
        limits = Limits(left, deterministic=WORK, seed=seed, cancelled=lambda: effort.cancel.asked)
    return rebalance(RebalancingInstance(problem.total_load, budget.current.slots, budget.most), limits)


def expected_bound(problem: Problem, outcome: Outcome[Ints], placement: Placement) -> ExpectedBound:
    """The bound that a formulation proved, beside what a placement has."""
    load = problem.total_load
    each = np.append(load / placement.counts(problem.model.experts), 0.0)
    peak = each[np.where(placement.slots == EMPTY, len(load), placement.slots)].sum(axis=1).max()
    mean = load.sum() / problem.mesh.devices
    return ExpectedBound(outcome.lower_bound / mean, float(peak / mean))
