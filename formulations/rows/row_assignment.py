"""Which mesh rows the replicas of a layer's experts are in: few hops, under limits to the load and traffic of a row.

A choice is a set of rows for one expert. As replicas are in distinct rows and tokens go to the nearest one, the set
says all: hops, load and traffic. So the model is one binary for each expert and set, and its relaxation is near the
optimum: at home size (16 rows, 257 experts, 384 slots) it is solved in 5 s, and in 12 s under a limit to the load.
Columns of the mesh come after rows, by `column_assignment`.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint
from scipy.sparse import coo_array, csr_array

from formulations.kit.arrays import Floats, Ints
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits, minimise

PROVEN = 1e-6  # relative gap from which on `Outcome` takes a value for optimal


@dataclass(frozen=True, eq=False)
class Rows:
    """demand `[source row, expert]` pairs of a batch; count `[expert]` replicas; slots of each row; hops `[row, row]`
    from source to target.

    most_load: pairs that a row may process; most_traffic: pairs that may come to a row from others.
    """

    demand: Ints | Floats
    count: Ints
    slots: int
    hops: Ints
    most_load: float = np.inf
    most_traffic: float = np.inf

    def violations(self, held: Ints) -> list[str]:
        """What is wrong with held `[expert, row]` replicas, in words; empty if nothing is."""
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
        """Pairs from each row to each, `[source row, expert, row]`: to the nearest replicas, of equally near ones to
        each the same share."""
        distance = np.where(held[None] > 0, self.hops[:, None], np.iinfo(np.int32).max)
        nearest = distance == distance.min(axis=2, keepdims=True)
        flow: Floats = self.demand[:, :, None] * nearest / nearest.sum(axis=2, keepdims=True)
        return flow

    def hop_pairs(self, held: Ints) -> float:
        """The objective: hops, summed over the pairs of a batch."""
        return float((self.flows(held) * self.hops[:, None]).sum())


def assign_rows(case: Rows, limits: Limits) -> Outcome[Ints]:
    """Minimise the hops of all pairs of a batch; replicas `[expert, row]`, those of an expert in distinct rows.

    With more replicas than rows, every row has the whole share and the rest is in distinct rows.
    """
    clock = limits.clock()
    rows = len(case.hops)
    options = [_options(case, expert, rows) for expert in range(len(case.count))]
    expert = np.repeat(np.arange(len(options)), [len(option.cost) for option in options])
    held, load, traffic = (np.concatenate([option[i] for option in options]) for i in (1, 2, 3))
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
    """For each set of rows: cost `[set]` in hops; held, load and traffic `[set, row]`."""

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
    ones = coo_array((np.ones(len(expert)), (expert, np.arange(len(expert)))))
    return LinearConstraint(ones.tocsr(), 1, 1)
