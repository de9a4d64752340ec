"""Fixed shares of replicas over sampled batches: the least mean and tail of peaks that no knowledge of loads allows.

Every replica serves the same part of its expert's load in every batch, and pairs may be divided. The optimum bounds
what any policy with fixed shares can do on these batches. Arrays: load `[batch, expert]` token-expert pairs; holders
`[expert, device]`, whether a replica of the expert is there.

A linear program. Variables: the share of each replica, the peak of each batch, and for the tail a threshold and by how
much each peak exceeds it (Rockafellar and Uryasev, Journal of Risk 2, 2000). Constraints: the shares of an expert sum
to 1; a peak is no less than the load of any device, nor than the mean; an excess no less than the peak minus the
threshold. Of the constraints of devices nearly none binds, so they come in rounds:

1. solve with those known so far, which is a relaxation, so its optimum is a lower bound;
2. add, for each batch, the devices whose load exceeds the peak the most, and begin again, until there are none.

Measured on one of two busy cores with 1,024 batches: 32 devices of DeepSeek-V2-Lite take 3 to 11 s, 16 of GPT-OSS 1 to
4 s. That is too long for every placement of a search, for which `optimizer.routing.gradient_shares` comes within 2 %.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint
from scipy.sparse import coo_array, csr_array

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.outcome import PROVEN, Outcome, SolveStatus
from formulations.kit.solver import Limits, MilpAnswer, minimise

ADDED = 3  # devices of a batch that a round adds at most: with 1 there are more rounds, with all the program is large


@dataclass(frozen=True, eq=False)
class SharesInstance:
    """load `[batch, expert]`, holders `[expert, device]`; tail: the share of batches, worst first, whose mean peak
    counts `tail_weight` times what the mean peak of all counts.

    Raises ValueError for shapes that do not fit together, for an expert without a replica, and for a tail that is none.
    """

    load: Ints
    holders: Bools
    tail: float = 0.05
    tail_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.load.ndim != 2 or self.load.size == 0 or self.load.shape[1:] != self.holders.shape[:1]:
            raise ValueError(f"load {self.load.shape} and holders {self.holders.shape} do not fit together")
        if not self.holders.any(axis=1).all():
            raise ValueError(f"expert {int(np.argmin(self.holders.any(axis=1)))} has no replica")
        if not (0 < self.tail <= 1 and 0 <= self.tail_weight < np.inf):
            raise ValueError(f"a tail of {self.tail} with weight {self.tail_weight} is none")

    def peaks(self, share: Floats) -> Floats:
        """The largest device load of each batch `[batch]`, for share `[expert, device]`."""
        peaks: Floats = (self.load @ share).max(axis=1)
        return peaks

    def objective(self, share: Floats) -> float:
        """Mean peak plus the weighed mean of the worst peaks, in pairs, for share `[expert, device]`."""
        peaks = self.peaks(share)
        return float(peaks.mean()) + self.tail_weight * tail_mean(peaks, self.tail)


def tail_mean(values: Floats, tail: float) -> float:
    """The mean of the largest share `tail` of values `[value]`, of which the last one may count in part."""
    falling, room = np.sort(values)[::-1], tail * len(values)
    counted = np.clip(room - np.arange(len(values)), 0, 1)
    return float((falling * counted).sum() / room)


def fix_shares(instance: SharesInstance, limits: Limits) -> Outcome[Floats]:
    """Shares `[expert, device]` with the least mean and tail of peaks; objective and bound are in pairs.

    The bound holds for all fixed shares on these batches and this placement. Even shares are the answer where time is
    up before the first round ends.
    """
    clock = limits.clock()
    program = _Program(instance)
    share = instance.holders / instance.holders.sum(axis=1, keepdims=True)
    objective, bound = instance.objective(share), 0.0
    rows = program.first_rows(share)
    while objective - bound > PROVEN * objective and not clock.over():
        answer = program.solve(rows, Limits(clock.left(), cancelled=limits.cancelled))
        if answer.x is None:
            break
        bound = max(bound, answer.lower_bound * program.scale)
        found = program.shares(answer.x)
        if (reached := instance.objective(found)) < objective:
            share, objective = found, reached
        if not (more := program.exceeding(found, answer.x) - rows):
            break
        rows |= more
    bound = min(bound, objective)
    status = SolveStatus.OPTIMAL if objective - bound <= PROVEN * objective else SolveStatus.FEASIBLE
    return Outcome(share, objective, bound, status, clock.elapsed())


Row = tuple[int, int]
"""A batch and a device whose load its peak must cover."""


class _Terms(NamedTuple):
    """Entries of a constraint matrix."""

    row: Ints
    column: Ints
    value: Floats


class _Program:
    """The linear program in mean device loads, with columns for shares, peaks, the threshold and excesses."""

    def __init__(self, instance: SharesInstance) -> None:
        self.instance = instance
        self.expert, self.device = np.nonzero(instance.holders)
        self.batches, self.replicas = len(instance.load), len(self.expert)
        self.scale = max(float(instance.load.sum()) / self.batches / instance.holders.shape[1], 1e-12)
        self.load = instance.load / self.scale
        self.columns = self.replicas + 2 * self.batches + 1
        self.held = [np.flatnonzero(self.device == device) for device in range(instance.holders.shape[1])]

    def solve(self, rows: set[Row], limits: Limits) -> MilpAnswer:
        """The optimum with the constraints of these batches and devices alone."""
        ordered = sorted(rows)
        constraints = [
            LinearConstraint(self._shares_sum(), 1, 1),
            LinearConstraint(self._peaks_cover(ordered), -np.inf, 0),
            LinearConstraint(self._excesses(), -np.inf, 0),
        ]
        low, high = np.zeros(self.columns), np.full(self.columns, np.inf)
        high[: self.replicas] = 1
        low[self._peak(np.arange(self.batches))] = self.load.sum(axis=1) / len(self.held)
        whole = np.zeros(self.columns, dtype=np.int64)
        return minimise(self._cost(), constraints, whole, Bounds(low, high), limits)

    def _peak(self, batch: Ints) -> Ints:
        return self.replicas + batch

    def _cost(self) -> Floats:
        """The mean peak, and the weighed threshold and mean excess beyond it over the tail."""
        cost, weight = np.zeros(self.columns), self.instance.tail_weight
        cost[self._peak(np.arange(self.batches))] = 1 / self.batches
        cost[self.replicas + self.batches] = weight
        cost[self.replicas + self.batches + 1 :] = weight / (self.instance.tail * self.batches)
        return cost

    def _matrix(self, rows: int, terms: _Terms) -> csr_array:
        return coo_array((terms.value, (terms.row, terms.column)), shape=(rows, self.columns)).tocsr()

    def _shares_sum(self) -> csr_array:
        """The shares of each expert's replicas."""
        terms = _Terms(self.expert, np.arange(self.replicas), np.ones(self.replicas))
        return self._matrix(self.load.shape[1], terms)

    def _peaks_cover(self, rows: list[Row]) -> csr_array:
        """The load of a device minus the peak of the batch."""
        columns = [np.append(self.held[d], self.replicas + b) for b, d in rows]
        values = [np.append(self.load[b, self.expert[self.held[d]]], -1.0) for b, d in rows]
        row = np.repeat(np.arange(len(rows)), [len(each) for each in columns])
        return self._matrix(len(rows), _Terms(row, np.concatenate(columns), np.concatenate(values)))

    def _excesses(self) -> csr_array:
        """The peak of a batch minus the threshold minus its excess."""
        batch, threshold = np.arange(self.batches), self.replicas + self.batches
        column = np.concatenate([self._peak(batch), np.full(self.batches, threshold), threshold + 1 + batch])
        value = np.repeat([1.0, -1.0, -1.0], self.batches)
        return self._matrix(self.batches, _Terms(np.tile(batch, 3), column, value))

    def shares(self, x: Floats) -> Floats:
        """The shares `[expert, device]` of a solution, with sums of exactly 1 but for rounding."""
        share = np.zeros(self.instance.holders.shape)
        share[self.expert, self.device] = np.clip(x[: self.replicas], 0, 1)
        total: Floats = share.sum(axis=1, keepdims=True)
        return share / total

    def first_rows(self, share: Floats) -> set[Row]:
        """The devices with most load in each batch."""
        return self._largest(self.load @ share, -np.inf)

    def exceeding(self, share: Floats, x: Floats) -> set[Row]:
        """The devices whose load exceeds the peak of the solution the most, in each batch where any does."""
        peak = x[self._peak(np.arange(self.batches))]
        return self._largest(self.load @ share - peak[:, None], PROVEN / 10)

    def _largest(self, value: Floats, least: float) -> set[Row]:
        """The devices with the `ADDED` largest values of each batch, of those above `least`."""
        order = np.argsort(-value, axis=1, kind="stable")[:, :ADDED]
        batch = np.arange(self.batches)[:, None]
        above = value[batch, order] > least
        return set(zip(np.broadcast_to(batch, order.shape)[above].tolist(), order[above].tolist(), strict=True))
