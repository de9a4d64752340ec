"""Which candidate each layer takes, so that the whole model is good on several data sets at once.

A model is as slow as the sum of its layers. One candidate per layer is free for the mean over data sets, where layers
do not matter to each other; for the worst data set they do, as one layer can make good what another loses. That is
NP-hard from two data sets on (Dolgui and Kovalev 2012, representatives selection), but a linear relaxation is
fractional in about as many layers as there are data sets. So with 58 layers of 12 candidates the bound is within 1 us
of the choice for 4 data sets, after a second, and within 6 of some 28,000 for 11, after five.
"""

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits

TAIL = 0.5
"""The share of data sets, by weight, that cvar looks at. With the handful there are, a smaller one is the worst alone,
which `worst` says already; half of them is the middle between that and the mean."""

NODES = 300  # of branch and bound: where these end the solve, the same scores give the same choice on any machine
PROVEN = 1e-6  # relative gap from which on `Outcome` takes a value for optimal
ROUNDING = 1e-9  # of the model's latency


class Criterion(StrEnum):
    """Over data sets: the weighted mean; the largest latency; the largest loss against the data set's own best choice;
    the weighted mean of the worst half (CVaR)."""

    MEAN = "mean"
    WORST = "worst"
    REGRET = "regret"
    CVAR = "cvar"


def choose_robustly(scores: Floats, weights: Floats, criterion: Criterion, limits: Limits) -> Outcome[Ints]:
    """The candidate of each layer, `[layer]`, for which the sum over layers is best by the criterion.

    scores `[layer, candidate, data set]` in microseconds, nan where a layer has fewer candidates; weights `[data set]`,
    sum 1. Data sets of weight 0 take no part in any criterion; among the others weights matter to mean and cvar alone.
    The objective is in microseconds of the whole model. Time is limited by `limits.seconds`, and work by `NODES`. There
    always is a choice: the best mean, where the solver finds nothing better. Raises ValueError for a layer without
    candidates, for scores that are known in part, and for weights that are negative or do not add up to 1.
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
    """What a choice `[layer]` comes to, in microseconds; scores and weights as of `choose_robustly`."""
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
    """Weighted mean of the largest, as many as weigh `TAIL` together; the last of them in part."""
    order = np.argsort(-total, kind="stable")
    before = np.cumsum(share[order]) - share[order]
    part = np.clip(TAIL - before, 0, share[order])
    return float(total[order] @ part / part.sum())


def _own_best(scores: Floats) -> Floats:
    """The least sum over layers that each data set could have, `[data set]`."""
    least: Floats = np.nanmin(scores, axis=1).sum(axis=0)
    return least


def _checked(scores: Floats, weights: Floats) -> Bools:
    """Which candidates there are, `[layer, candidate]`."""
    held: Bools = np.isfinite(scores.sum(axis=2))
    if (held != np.isfinite(scores).any(axis=2)).any():
        raise ValueError("a candidate is scored on some data sets only")
    if not held.any(axis=1).all():
        raise ValueError(f"layer {np.flatnonzero(~held.any(axis=1))[0]} of the scores has no candidate")
    if weights.shape != scores.shape[2:] or (weights < 0).any() or abs(weights.sum() - 1) > PROVEN:
        raise ValueError(f"weights {weights} of {scores.shape[2]} data sets are negative or do not add up to 1")
    return held


class _Model(NamedTuple):
    """excess `[item, data set]` microseconds of each candidate there is above the layer's best on the data set, so that
    numbers are small beside the solver's tolerances; layer and candidate `[item]`; floor `[data set]`: what the
    criterion adds to a sum of excesses; share `[data set]`; ideal: the criterion if every data set had its best."""

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
        """Of the data sets that have a weight."""
        taken, best = weights > 0, _own_best(scores)
        layer, candidate = np.nonzero(held)
        excess = (scores - np.nanmin(scores, axis=1, keepdims=True))[layer, candidate][:, taken]
        floor = np.zeros(taken.sum()) if criterion is Criterion.REGRET else best[taken]
        tail, share = criterion is Criterion.CVAR, weights[taken]
        ideal = _tail_mean(floor, share) if tail else float(floor.max())
        return cls(excess, layer, candidate, floor, share, tail, ideal, ROUNDING * float(abs(best).max()))

    def solve(self, limits: Limits) -> tuple[Ints | None, float]:
        """A choice `[layer]`, if one is found, and a valid lower bound."""
        items, sets = self.excess.shape
        least = float(self.floor.min())
        # min t + sum_d w_d z_d / TAIL with z_d >= (latency of d) - t, t its quantile (Rockafellar and Uryasev 2000,
        # theorem 1); without z, t is the largest.
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
            return None, bound
        taken = found.x[:items] > 0.5
        return self.candidate[taken], bound
