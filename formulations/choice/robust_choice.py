"""Which candidate each layer takes, so that the whole model is good on several data sets at once.

A model takes as long as the sum of its layers. For the mean over data sets each layer simply takes its best candidate.
For the worst data set layers matter to each other, as one can make up for what another loses. That problem is NP-hard
from two data sets on (Dolgui and Kovalev 2012, representatives selection).

Variables: one binary for each candidate of each layer, the level that counts, and what data sets are above it.
Constraints: each layer takes one candidate, and the level and what is above it cover every data set. The objective is
the criterion, and the choice is the candidates taken. The linear relaxation is fractional in about as many layers as
there are data sets. So with 58 layers of 12 candidates the bound is within 1 us of the choice for 4 data sets, after a
second, and within 6 of some 28,000 us for 11, after five.
"""

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.outcome import PROVEN, Outcome, SolveStatus
from formulations.kit.solver import Limits

TAIL = 0.5
"""The share of data sets, by weight, whose mean `cvar` is. There are only a handful, so a smaller share would often be
the worst one alone, which is `worst`; half of them is the middle between that and the mean."""

NODES = 300  # of branch and bound, a few seconds; a limit to work gives the same choice on any machine
ROUNDING = 1e-9  # relative to the model's latency: a smaller gap is a rounding error


class Criterion(StrEnum):
    """How latencies on several data sets become one number.

    mean: their weighted mean; worst: the largest one; regret: the largest loss against the data set's own best choice;
    cvar: the weighted mean of the worst half (conditional value at risk).
    """

    MEAN = "mean"
    WORST = "worst"
    REGRET = "regret"
    CVAR = "cvar"


def choose_robustly(scores: Floats, weights: Floats, criterion: Criterion, limits: Limits) -> Outcome[Ints]:
    """The candidate of each layer, `[layer]`, for which the sum over layers is best by the criterion.

    scores `[layer, candidate, data set]` in microseconds, nan where a layer has fewer candidates; weights `[data set]`,
    sum 1. Data sets of weight 0 take no part in any criterion; among the others weights matter to mean and cvar alone.
    The objective is in microseconds of the whole model. Time is limited by `limits.seconds`, and work by `NODES`. There
    is always a choice: the one with the best mean, where the solver finds nothing better. Raises ValueError for a layer
    without candidates, for scores that are known in part, and for weights that are negative or do not add up to 1.
    """
    clock = limits.clock()
    held = _checked(scores, weights)
    value = np.argmin(np.where(held, scores @ weights, np.inf), axis=1)
    if criterion is Criterion.MEAN:
        objective = criterion_value(scores, value, weights, criterion)
        return Outcome(value, objective, objective, SolveStatus.OPTIMAL, clock.elapsed())
    model = _Model.of(scores, held, weights, criterion)
    objective, bound = criterion_value(scores, value, weights, criterion), model.ideal
    if objective - bound > model.rounding and not limits.cancelled():
        found, proven = model.solve(limits)
        bound = max(bound, proven)
        if found is not None and (better := criterion_value(scores, found, weights, criterion)) < objective:
            value, objective = found, better
    bound = objective if objective - bound <= model.rounding else bound
    status = SolveStatus.OPTIMAL if objective - bound <= PROVEN * objective else SolveStatus.FEASIBLE
    return Outcome(value, objective, bound, status, clock.elapsed())


def criterion_value(scores: Floats, chosen: Ints, weights: Floats, criterion: Criterion) -> float:
    """The criterion's value of a choice `[layer]`, in microseconds; scores and weights as for `choose_robustly`."""
    taken = weights > 0
    total = scores[np.arange(len(chosen)), chosen][:, taken].sum(axis=0)
    share = weights[taken]
    match criterion:
        case Criterion.MEAN:
            return float(total @ share)
        case Criterion.WORST:
            return float(total.max())
        case Criterion.REGRET:
            return float((total - _own_best(scores)[taken]).max())
        case Criterion.CVAR:
            return _tail_mean(total, share)


def _tail_mean(total: Floats, share: Floats) -> float:
    """The weighted mean of the largest totals that weigh `TAIL` together, where the last of them counts in part."""
    order = np.argsort(-total, kind="stable")
    before = np.cumsum(share[order]) - share[order]
    part = np.clip(TAIL - before, 0, share[order])
    return float(total[order] @ part / part.sum())


def _own_best(scores: Floats) -> Floats:
    """The least sum over layers that each data set could have if it alone mattered, `[data set]`."""
    least: Floats = np.nanmin(scores, axis=1).sum(axis=0)
    return least


def _checked(scores: Floats, weights: Floats) -> Bools:
    """Whether a candidate exists, `[layer, candidate]`. Raises ValueError for scores or weights that do not fit."""
    held: Bools = np.isfinite(scores.sum(axis=2))
    if (held != np.isfinite(scores).any(axis=2)).any():
        raise ValueError("a candidate is scored on some data sets only")
    if not held.any(axis=1).all():
        raise ValueError(f"layer {np.flatnonzero(~held.any(axis=1))[0]} of the scores has no candidate")
    if weights.shape != scores.shape[2:] or (weights < 0).any() or abs(weights.sum() - 1) > PROVEN:
        raise ValueError(f"weights {weights} of {scores.shape[2]} data sets are negative or do not add up to 1")
    return held


class _Chosen(NamedTuple):
    """A choice `[layer]`, None where none was found, and a valid lower bound on the criterion."""

    choice: Ints | None
    bound: float


class _Model(NamedTuple):
    """The mixed-integer program; an item is an existing candidate of a layer.

    excess `[item, data set]`: microseconds above the layer's best on the data set, which keeps numbers small, as the
    solver's tolerances are absolute; layer and candidate `[item]`; floor `[data set]`: what the criterion adds to a sum
    of excesses; share `[data set]`: weights; tail: whether the criterion is cvar; ideal: the criterion if every data
    set had its best choice; rounding: microseconds that a gap may have without being one.
    """

    excess: Floats
    layer: Ints
    candidate: Ints
    floor: Floats
    share: Floats
    tail: bool
    ideal: float
    rounding: float

    @classmethod
    def of(cls, scores: Floats, held: Bools, weights: Floats, criterion: Criterion) -> "_Model":
        """The model over the data sets that have a weight."""
        taken, best = weights > 0, _own_best(scores)
        layer, candidate = np.nonzero(held)
        excess = (scores - np.nanmin(scores, axis=1, keepdims=True))[layer, candidate][:, taken]
        floor = np.zeros(taken.sum()) if criterion is Criterion.REGRET else best[taken]
        tail, share = criterion is Criterion.CVAR, weights[taken]
        ideal = _tail_mean(floor, share) if tail else float(floor.max())
        return cls(excess, layer, candidate, floor, share, tail, ideal, ROUNDING * float(abs(best).max()))

    def solve(self, limits: Limits) -> _Chosen:
        """Solve by HiGHS, for the data sets with a weight."""
        items, sets = self.excess.shape
        least = float(self.floor.min())
        # Minimise t + sum_d w_d z_d / TAIL, where z_d >= (latency of d) - t. At the optimum t is the quantile and the
        # sum is the tail mean (Rockafellar and Uryasev 2000, theorem 1). With z fixed to 0, t is the largest latency.
        cost = np.concatenate([np.zeros(items), [1.0], self.share / TAIL])
        most = np.concatenate([np.ones(items), [np.inf], np.full(sets, np.inf if self.tail else 0.0)])
        one_each = csr_array((np.ones(items), (self.layer, np.arange(items))), (self.layer.max() + 1, len(cost)))
        latency = np.hstack([self.excess.T, -np.ones((sets, 1)), -np.eye(sets)])
        found = milp(
            cost,
            integrality=np.arange(len(cost)) < items,
            bounds=Bounds(0, most),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(csr_array(latency), -np.inf, least - self.floor),
            ],
            options={"time_limit": max(limits.seconds, 0.01), "mip_rel_gap": 0.0, "node_limit": NODES},
        )
        bound = -np.inf if found.mip_dual_bound is None else least + float(found.mip_dual_bound)
        if found.x is None:
            return _Chosen(None, bound)
        taken = found.x[:items] > 0.5
        return _Chosen(self.candidate[taken], bound)
