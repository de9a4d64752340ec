"""The plan that is best for many data sets, and how robust it is: beside plans made on one, and on data not used."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from formulations.choice.robust_choice import Criterion, choose_robustly
from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.outcome import Outcome
from formulations.kit.solver import Limits
from optimizer.domain.placement import Placement
from optimizer.simulation.report import SimulationReport
from optimizer.traces.datasets import MIX, ROBUST, mix_without

FIGURES = ("mean", "p50", "p99")
"""The figures by which plans are compared, over test batches or, of counts, over test steps."""


@dataclass(frozen=True)
class Measure:
    """What plans are compared by: `key` names it in JSON, `suffix` ends the keys of further figures with its unit, and
    `shown` is which of `FIGURES` tables show."""

    key: str
    suffix: str
    shown: str

    @property
    def selection_key(self) -> str:
        """The key in a candidate's quality of its scores on selection batches."""
        return f"selection{self.suffix}"

    @property
    def test_key(self) -> str:
        """The key in a candidate's quality of its figures on test batches."""
        return f"test{self.suffix}"


LATENCY = Measure("latency_us", "_us", "p99")
"""Simulated latency in microseconds, a sum over layers; of several figures the tail is shown."""

EXPECTED = Measure("expected_imbalance", "", "mean")
"""Peak / mean expected device load, a mean over layers; it is of counts, whose few steps have no tail to show."""


def latency_figures(report: SimulationReport) -> Floats:
    """`FIGURES` of a simulation, `[figure]`."""
    return np.array([report.latency_us.mean(), *np.percentile(report.latency_us, [50, 99])])


@dataclass(frozen=True, eq=False)
class LayerPool:
    """The candidates of one layer: what each was made on, a data set or one of `datasets.mixes`; selection
    `[candidate, data set]` scores in microseconds, for all of them."""

    layer: int
    placements: tuple[Placement, ...]
    made_on: tuple[str, ...]
    selection: Floats

    def __post_init__(self) -> None:
        if not len(self.placements) == len(self.made_on) == len(self.selection):
            raise ValueError(f"layer {self.layer}: placements, made_on and selection do not fit together")


@dataclass(frozen=True, eq=False)
class Pools:
    """All layers' candidates, and the data sets: names and weights `[data set]`, sum 1. Raises ValueError where a layer
    has no candidate that was made on a data set."""

    names: tuple[str, ...]
    weights: Floats
    layers: tuple[LayerPool, ...]

    def __post_init__(self) -> None:
        for pool in self.layers:
            lacking = [name for name in self.names if name not in pool.made_on]
            if lacking or pool.selection.shape[1:] != (len(self.names),):
                raise ValueError(f"layer {pool.layer}: no candidate of {lacking}, or scores {pool.selection.shape}")

    @cached_property
    def scores(self) -> Floats:
        """Selection scores `[layer, candidate, data set]`, nan where a layer has fewer candidates."""
        return _stacked([pool.selection for pool in self.layers])

    def made_on(self, names: Sequence[str]) -> Bools:
        """Which candidates were made on one of these, `[layer, candidate]`."""
        made = np.zeros(self.scores.shape[:2], dtype=np.bool_)
        for place, pool in enumerate(self.layers):
            made[place, : len(pool.made_on)] = np.isin(pool.made_on, list(names))
        return made


def _stacked(arrays: Sequence[Floats]) -> Floats:
    """One array of all, `[layer, candidate, ...]`, nan where a layer has fewer candidates."""
    most = max(len(array) for array in arrays)
    whole = np.full((len(arrays), most, *arrays[0].shape[1:]), np.nan)
    for place, array in enumerate(arrays):
        whole[place, : len(array)] = array
    return whole


@dataclass(frozen=True, eq=False)
class Choices:
    """Plans as candidates by layer, all chosen by selection scores. plans `[plan, layer]` in the order of `names`;
    left_out `[data set, layer]`: for each data set what would be chosen if it did not exist, empty for a single one;
    outcome: of the robust plan, the last."""

    pools: Pools
    criterion: Criterion
    names: tuple[str, ...]
    plans: Ints
    left_out: Ints
    outcome: Outcome[Ints]

    @property
    def placements(self) -> dict[int, Placement]:
        """The placements of the robust plan, by layer."""
        return {
            pool.layer: pool.placements[place] for pool, place in zip(self.pools.layers, self.plans[-1], strict=True)
        }

    @property
    def needed(self) -> dict[int, Ints]:
        """Candidates whose test figures `Robustness` needs, by layer, ascending."""
        every = np.concatenate([self.plans, self.left_out])
        return {pool.layer: np.unique(every[:, place]) for place, pool in enumerate(self.pools.layers)}


def choose_plans(pools: Pools, criterion: Criterion, limits: Limits) -> Choices:
    """The best plan made on each data set alone, by its own scores; the best made on the mix, if any was, by the mean;
    the robust plan, of all candidates; and what is chosen without each data set. `limits` hold for each choice."""
    own = [_best_of(pools, [name], pools.scores[:, :, place]) for place, name in enumerate(pools.names)]
    names, plans = [*pools.names], own
    if pools.made_on([MIX]).any(axis=1).all():
        names.append(MIX)
        plans.append(_best_of(pools, [MIX], pools.scores @ pools.weights))
    outcome = choose_robustly(pools.scores, pools.weights, criterion, limits)
    assert outcome.value is not None  # there always is a choice
    left_out = [_without(pools, place, criterion, limits) for place in range(len(pools.names)) if len(pools.names) > 1]
    return Choices(
        pools,
        criterion,
        (*names, ROBUST),
        np.array([*plans, outcome.value]),
        np.array(left_out, dtype=np.int64).reshape(-1, len(pools.layers)),
        outcome,
    )


def _best_of(pools: Pools, made_on: Sequence[str], score: Floats) -> Ints:
    """The candidate of each layer, `[layer]`, that has the least score `[layer, candidate]` of those made on the named
    data sets or mixes."""
    best: Ints = np.where(pools.made_on(made_on), score, np.inf).argmin(axis=1)
    return best


def _without(pools: Pools, place: int, criterion: Criterion, limits: Limits) -> Ints:
    """What is chosen where a data set neither scores candidates nor had a part in making them."""
    others = np.arange(len(pools.names)) != place
    known = pools.made_on([mix_without(pools.names[place]), *np.delete(pools.names, place)])
    scores = np.where(known[:, :, None], pools.scores, np.nan)[:, :, others]
    weights = pools.weights[others]
    if not weights.any():
        weights = np.ones(len(weights))
    value = choose_robustly(scores, weights / weights.sum(), criterion, limits).value
    assert value is not None
    return value


@dataclass(frozen=True, eq=False)
class Robustness:
    """Plans on data sets: latency `[plan, data set, figure]` and left_out `[data set, figure]` as summed over layers,
    in microseconds on test batches. left_out is of the plan chosen without the data set, on it. Of another measure they
    are figures of that, which sum up over layers as well."""

    choices: Choices
    latency: Floats
    left_out: Floats
    measure: Measure = LATENCY

    @classmethod
    def of(cls, choices: Choices, test: Sequence[Floats], measure: Measure = LATENCY) -> "Robustness":
        """test: for each layer `[candidate, data set, figure]`, nan for candidates that are not needed. Raises
        ValueError where one that is needed is nan."""
        figures, layers = _stacked(test), np.arange(len(test))
        latency = figures[layers, choices.plans].sum(axis=1)
        sets = np.arange(len(choices.left_out))[:, None]
        left_out = figures[layers, choices.left_out, sets].sum(axis=1)
        if np.isnan(latency).any() or np.isnan(left_out).any():
            raise ValueError("test figures of a chosen candidate are missing")
        return cls(choices, latency, left_out, measure)

    @property
    def plans(self) -> tuple[str, ...]:
        """What each plan is made on: each data set, then the mix if there is one; the robust plan is the last."""
        return self.choices.names

    @property
    def datasets(self) -> tuple[str, ...]:
        """The names of the data sets, in the order of every data set axis."""
        return self.choices.pools.names

    def of_figure(self, figure: str) -> Floats:
        """One of `FIGURES` of all plans on all data sets, `[plan, data set]` microseconds."""
        return self.latency[:, :, FIGURES.index(figure)]

    def own(self, figure: str) -> Floats:
        """A figure of each data set under its own plan, `[data set]` microseconds."""
        return np.diagonal(self.of_figure(figure)).copy()

    def regret(self, figure: str) -> Floats:
        """How much slower each data set is than under its own plan, `[plan, data set]` microseconds. As plans are
        chosen on other batches, it may be negative."""
        return self.of_figure(figure) - self.own(figure)

    def worst(self, figure: str) -> Floats:
        """A figure of each plan's slowest data set, of those that have a weight, `[plan]` microseconds."""
        worst: Floats = self.of_figure(figure)[:, self.choices.pools.weights > 0].max(axis=1)
        return worst

    def summary(self) -> dict[str, Any]:
        """These choices as JSON, with keys that do not change between versions."""
        choices, pools = self.choices, self.choices.pools
        return {
            "criterion": str(choices.criterion),
            self.measure.selection_key: choices.outcome.objective,
            f"lower_bound{self.measure.suffix}": choices.outcome.lower_bound,
            "status": str(choices.outcome.status),
            "layers": [pool.layer for pool in pools.layers],
            "weights": self._by_name(pools.weights),
            "plans": [self._plan_summary(place) for place in range(len(self.plans))],
            "left_out": [self._left_out_summary(place) for place in range(len(self.left_out))],
        }

    def _plan_summary(self, plan: int) -> dict[str, Any]:
        latency = {figure: self._by_name(self.of_figure(figure)[plan]) for figure in FIGURES}
        regret = {figure: self._by_name(self.regret(figure)[plan]) for figure in FIGURES}
        worst = {figure: float(self.worst(figure)[plan]) for figure in FIGURES}
        return {"plan": self.plans[plan], self.measure.key: latency} | {
            f"{name}{self.measure.suffix}": value for name, value in (("regret", regret), ("worst", worst))
        }

    def _by_name(self, values: Floats) -> dict[str, float]:
        return dict(zip(self.datasets, values.tolist(), strict=True))

    def _left_out_summary(self, place: int) -> dict[str, Any]:
        latency = dict(zip(FIGURES, self.left_out[place].tolist(), strict=True))
        own = dict(zip(FIGURES, self.latency[place, place].tolist(), strict=True))
        return {"dataset": self.datasets[place], self.measure.key: latency, f"own{self.measure.suffix}": own}
