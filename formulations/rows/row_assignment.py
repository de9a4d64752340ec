"""Which mesh rows the replicas of a layer's experts are in: few hops, under limits to the load and traffic of a row.

Variables: one binary for each expert and each set of rows that its replicas may be in. As replicas are in distinct rows
and tokens go to the nearest one, the set determines hops, load and traffic. Constraints: every expert has one set, and
the slots, the load and the traffic of every row suffice. The objective is the sum of hops, and the answer is the sets
taken. The linear relaxation is near the optimum: with 16 rows, 257 experts and 384 slots the model is solved in 5 s,
and in 12 s under a limit to the load. The columns of the mesh are chosen after the rows, by `column_assignment`.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint
from scipy.sparse import coo_array, csr_array

from formulations.kit.arrays import Floats, Ints
from formulations.kit.outcome import PROVEN, Outcome, SolveStatus
from formulations.kit.solver import Limits, minimise


@dataclass(frozen=True, eq=False)
class Rows:
    """demand `[source row, expert]` pairs of a batch; count `[expert]` replicas; slots of each row; hops `[row, row]`
    from source to target.

    most_load: the pairs that a row may process; most_traffic: the pairs that may come to a row from other rows.
    """

    demand: Ints | Floats
    count: Ints
    slots: int
    hops: Ints
    most_load: float = np.inf
    most_traffic: float = np.inf

    def violations(self, held: Ints) -> list[str]:
        """The faults of held `[expert, row]`, the replicas in each row, one sentence each; empty if there are none."""
        least = self.count // len(self.hops)
        spread = ((held == least[:, None]) | (held == least[:, None] + 1)).all(axis=1)
        found = [f"expert {e} has {held[e].sum()} replicas" for e in np.flatnonzero(held.sum(axis=1) != self.count)]
        found += [f"expert {e} is spread unevenly" for e in np.flatnonzero(~spread)]
        found += [f"row {r} has {held[:, r].sum()} replicas" for r in np.flatnonzero(held.sum(axis=0) > self.slots)]
        flow = self.flows(held)
        load, own = flow.sum(axis=(0, 1)), np.einsum("rer->r", flow)
        found += [f"row {r} has load {load[r]:g}" for r in np.flatnonzero(load > self.most_load + 1e-6)]
        return found + [f"row {r} has traffic" for r in np.flatnonzero(load - own > self.most_traffic + 1e-6)]

    def flows(self, held: Ints) -> Floats:
        """Pairs from each row to each, `[source row, expert, row]`: all go to the nearest replica, and in equal
        shares to equally near ones."""
        distance = np.where(held[None] > 0, self.hops[:, None], np.iinfo(np.int32).max)
        nearest = distance == distance.min(axis=2, keepdims=True)
        flow: Floats = self.demand[:, :, None] * nearest / nearest.sum(axis=2, keepdims=True)
        return flow

    def hop_pairs(self, held: Ints) -> float:
        """The objective: the hops of all pairs of a batch."""
        return float((self.flows(held) * self.hops[:, None]).sum())


def assign_rows(case: Rows, limits: Limits) -> Outcome[Ints]:
    """Minimise the hops of all pairs of a batch; replicas `[expert, row]`, those of an expert in distinct rows.

    With more replicas than rows, every row has the whole share, and those left over are in distinct rows. The bound
    holds for all such rows. Without time for a solution the outcome is `UNKNOWN`.
    """
    clock = limits.clock()
    rows = len(case.hops)
    options = [_options(case, expert, rows) for expert in range(len(case.count))]
    expert = np.repeat(np.arange(len(options)), [len(option.cost) for option in options])
    held = np.concatenate([option.held for option in options])
    load = np.concatenate([option.load for option in options])
    traffic = np.concatenate([option.traffic for option in options])
    cost = np.concatenate([option.cost for option in options])
    families = [
        _one_set_each(expert),
        LinearConstraint(csr_array(held.T.astype(np.float64)), -np.inf, case.slots),
        LinearConstraint(csr_array(load.T), -np.inf, case.most_load),
        LinearConstraint(csr_array(traffic.T), -np.inf, case.most_traffic),
    ]
    limited = [family for family in families if np.isfinite(family.ub).all()]
    answer = minimise(cost, limited, np.ones(len(cost), dtype=np.int64), Bounds(0, 1), limits)
    if answer.x is None:
        return Outcome(None, None, answer.lower_bound, answer.status, clock.elapsed())
    value = held[answer.x > 0.5]
    objective = case.hop_pairs(value)
    bound = min(answer.lower_bound, objective)
    status = SolveStatus.OPTIMAL if objective - bound <= PROVEN * objective else SolveStatus.FEASIBLE
    return Outcome(value, objective, bound, status, clock.elapsed())


class _Options(NamedTuple):
    """What each set of rows of one expert means: cost `[set]` in hops; held, load and traffic `[set, row]`."""

    cost: Floats
    held: Ints
    load: Floats
    traffic: Floats


def _options(case: Rows, expert: int, rows: int) -> _Options:
    """All sets of rows for the replicas of one expert."""
    whole, rest = divmod(int(case.count[expert]), rows)
    chosen = np.array(list(combinations(range(rows), rest)), dtype=np.int64)
    held = np.full((len(chosen), rows), whole)
    np.put_along_axis(held, chosen, whole + 1, axis=1)
    demand: Floats = np.repeat(case.demand[:, [expert]].astype(np.float64), len(held), axis=1)
    one = Rows(demand, case.count[[expert]], case.slots, case.hops)
    flow = one.flows(held)
    own = np.einsum("rsr->sr", flow)
    load = flow.sum(axis=0)
    return _Options((flow * case.hops[:, None]).sum(axis=(0, 2)), held, load, load - own)


def _one_set_each(expert: Ints) -> LinearConstraint:
    """Exactly one of the sets of each expert is taken; expert `[variable]`."""
    ones = coo_array((np.ones(len(expert)), (expert, np.arange(len(expert)))))
    return LinearConstraint(ones.tocsr(), 1, 1)
