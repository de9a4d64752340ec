"""One layer of a plan for many data sets: candidates made on each of them and on their mix, judged on all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from formulations.kit.arrays import Floats
from optimizer.domain.placement import Placement
from optimizer.planning.bounds import Bound, bound_any, gaps_of
from optimizer.planning.choose_for_datasets import FIGURES, LATENCY, LayerPool, Measure, latency_figures
from optimizer.planning.many_layers.layer import LayerTask, seeds_for
from optimizer.planning.options import silent
from optimizer.planning.plan_file import LayerPlan
from optimizer.planning.plan_layer import part_of
from optimizer.planning.pool import LayerJudge
from optimizer.search.choose import LATENCIES, figures
from optimizer.search.stop import Deadline
from optimizer.traces.batches import Sets
from optimizer.traces.datasets import MIX, mixed, mixes

BATCHES = (512, 128, 128)
"""Batches of each data set to plan on, to choose by and to judge on. They are fewer than for one data set alone: every
candidate is simulated on all data sets, and the sum over layers evens out what chance does to 128 batches."""
JUDGING = 0.4  # share of the time that judging is taken to need, until the first candidate tells; a guess
LEAST_SECONDS = 0.1  # for a search: enough for seeds to be judged
MOST_LEFT_OUT = 6  # data sets: with more, time goes to the candidates of the plan instead; a compromise, not tuned
MADE_ON, SELECTION, TEST = "made_on", LATENCY.selection_key, LATENCY.test_key  # what a candidate's plan says besides
TAIL = 3  # of the latencies in `choose.figures`: the mean of the worst 3 %, which is less noisy than p99


@dataclass(frozen=True, eq=False)
class DataSetsTask:
    """A layer with the batches of each data set; mix: with those of all together, as every other layer's task."""

    mix: LayerTask
    names: tuple[str, ...]
    sets: tuple[Sets, ...]
    weights: tuple[float, ...]

    @cached_property
    def makings(self) -> dict[str, Sets]:
        """What candidates are made on, by name: each data set, all, and where there are not too many all but one."""
        made = dict(zip(self.names, self.sets, strict=True))
        for name, weights in mixes(dict(zip(self.names, self.weights, strict=True))).items():
            if name == MIX:
                made[name] = self.mix.sets
            elif len(self.names) <= MOST_LEFT_OUT:
                made[name] = mixed(self.sets, weights, self.mix.settings.options.seed)
        return made


def plan_for_datasets(task: DataSetsTask, deadline: Deadline) -> list[LayerPlan] | None:
    """The best placement found on each data set and on mixes, each once, with its scores on all data sets; None once
    the deadline's token is asked, as a part of the candidates is no choice.

    Their quality and bounds are of the mix of test batches, their loads of the mix of train batches.
    """
    found, judged = list[LayerPlan](), DataSetsJudge.of(task)
    judging = JUDGING * deadline.seconds / len(task.makings)
    for place, (name, sets) in enumerate(task.makings.items()):
        each = deadline.remaining() / (len(task.makings) - place) - judging
        placement = _best_on(task.mix, sets, Deadline(max(each, LEAST_SECONDS), cancel=deadline.cancel))
        if placement is None:
            return None
        began = deadline.elapsed()
        found.append(judged.part(name, placement))
        judging = deadline.elapsed() - began
    return found


def _best_on(mix: LayerTask, sets: Sets, deadline: Deadline) -> Placement | None:
    """What a search on these batches alone ends with; None once the deadline's token is asked."""
    task = replace(mix, sets=sets)
    effort, problem = task.settings.effort(deadline), task.problem()
    portfolio = task.portfolio(problem, sets)
    found = seeds_for(problem, portfolio, effort)
    if not deadline.cancel.asked:
        portfolio.search(found, effort, deadline.seconds, silent)
    if deadline.cancel.asked:
        return None
    portfolio.settle()
    pool = portfolio.pools[portfolio.chosen()]
    return pool.placements[pool.best()]


@dataclass(frozen=True, eq=False)
class DataSetsJudge:
    """What all candidates of a layer are judged by: the simulator as taught by the mix, and the bounds of its test
    batches."""

    task: DataSetsTask
    judge: LayerJudge
    bounds: list[Bound]

    @classmethod
    def of(cls, task: DataSetsTask) -> "DataSetsJudge":
        """The judge of this layer's candidates."""
        given, problem = task.mix.settings, task.mix.problem()
        judge = LayerJudge(problem, task.mix.sets, replace(given.options.conditions, routing=given.options.routings[0]))
        return cls(task, judge, bound_any(task.mix.sets.test, problem.model, problem.mesh, problem.cost))

    def part(self, name: str, placement: Placement) -> LayerPlan:
        """The plan with a placement that was made on a data set or mix of this name."""
        task, judge, report = self.task, self.judge, self.judge.test(placement)
        sets = dict(zip(task.names, task.sets, strict=True))
        selection = {other: _score(judge, placement, of) for other, of in sets.items()}
        latency = {other: latency_figures(judge.on(placement, of.test)).tolist() for other, of in sets.items()}
        test = {other: dict(zip(FIGURES, of, strict=True)) for other, of in latency.items()}
        provenance = task.mix.provenance | {"method": "search", MADE_ON: name}
        part = part_of(judge, placement, report, gaps_of(self.bounds, report), provenance)
        return replace(part, quality=part.quality | {SELECTION: selection, TEST: test})


def _score(judge: LayerJudge, placement: Placement, sets: Sets) -> float:
    return float(figures(judge.on(placement, sets.selection))[LATENCIES][TAIL])


def pool_of(layer: int, names: Sequence[str], candidates: Sequence[LayerPlan], measure: Measure = LATENCY) -> LayerPool:
    """The candidates of a layer with their scores on each data set, from which `choose_for_datasets` chooses."""
    scores = [[part.quality[measure.selection_key][name] for name in names] for part in candidates]
    placements = tuple(part.placement for part in candidates)
    return LayerPool(layer, placements, tuple(part.provenance[MADE_ON] for part in candidates), np.array(scores))


def figures_tested(names: Sequence[str], candidates: Sequence[LayerPlan], measure: Measure = LATENCY) -> Floats:
    """Test figures `[candidate, data set, figure]`, latencies in microseconds unless the measure is another."""

    def of(part: LayerPlan) -> list[list[Any]]:
        return [[part.quality[measure.test_key][name][figure] for figure in FIGURES] for name in names]

    return np.array([of(part) for part in candidates])
