"""One plan for several data sets of counts: candidates by expected load, then one choice for the whole model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from formulations.choice.robust_choice import Criterion
from formulations.kit.arrays import Floats, Ints
from formulations.kit.solver import Limits
from optimizer import __version__
from optimizer.domain.placement import Placement
from optimizer.domain.problem import check, make_problem
from optimizer.errors import InputError
from optimizer.planning.bounds import IMBALANCE, bound_steps, gaps
from optimizer.planning.choose_for_datasets import EXPECTED, FIGURES, Choices, Pools, Robustness, choose_plans
from optimizer.planning.many_layers.parallel import in_parallel
from optimizer.planning.many_layers.plan_for_datasets import (
    LEAST_SECONDS,
    MADE_ON,
    MOST_LEFT_OUT,
    figures_tested,
    pool_of,
)
from optimizer.planning.many_layers.plan_model_counts import FINGERPRINT
from optimizer.planning.many_layers.robust import CHOOSING_SECONDS, RobustPlan, chosen_parts
from optimizer.planning.many_layers.run import Run
from optimizer.planning.many_layers.settings import Settings
from optimizer.planning.options import silent
from optimizer.planning.plan_expected_load import (
    ROUTING,
    constructed,
    equal_steps,
    expected_imbalance,
    searched,
    split_steps,
    step_loads,
)
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.planning.warm_start import started
from optimizer.search.stop import Deadline
from optimizer.statistics.drift import Drift
from optimizer.streams import Purpose, derived_seed
from optimizer.traces.datasets import MIX, mixes, shared_out
from optimizer.traces.formats.counts import Counts
from optimizer.traces.trace import digest

MIXED_STEPS = 64
"""Steps of a mix, shared out over the data sets: weights are met to a part in 64. Not tuned."""


@dataclass(frozen=True, eq=False)
class CountSets:
    """What is to be planned: the counts of each data set with its name and its weight in the mix, sum 1; start: a plan
    to start from."""

    settings: Settings
    names: tuple[str, ...]
    weights: tuple[float, ...]
    counts: tuple[Counts, ...]
    layers: tuple[int, ...]
    start: Plan | None = None

    def task(self, layer: int) -> "CountSetsTask":
        """A layer with the loads of each data set. Raises InputError for a layer that one of them does not count."""
        loads = tuple(step_loads(counts, layer, self.settings.model) for counts in self.counts)
        return CountSetsTask(self.settings, layer, self.names, self.weights, loads, self.start)

    def drift(self) -> Drift:
        """How the data sets differ, in all layers."""
        tasks = [self.task(layer) for layer in self.layers]
        train, test = (self._summed(parts) for parts in ([t.train for t in tasks], [t.test for t in tasks]))
        return Drift.of(self.names, self.layers, train, test)

    def _summed(self, parts: Sequence[Sequence[Ints]]) -> Ints:
        """Pairs of routed experts over all steps, `[data set, layer, expert]`, of parts `[layer][data set]`."""
        routed = self.settings.model.routed_experts
        of = [[load.sum(axis=0, dtype=np.int64)[:routed] for load in loads] for loads in parts]
        return np.array(of).transpose(1, 0, 2)


@dataclass(frozen=True, eq=False)
class CountSetsTask:
    """A layer with the loads of each data set, `[step, expert]` as of `step_loads`."""

    settings: Settings
    layer: int
    names: tuple[str, ...]
    weights: tuple[float, ...]
    loads: tuple[Ints, ...]
    start: Plan | None = None

    @cached_property
    def train(self) -> tuple[Ints, ...]:
        """The steps of each data set that are planned on."""
        return tuple(split_steps(load)[0] for load in self.loads)

    @cached_property
    def test(self) -> tuple[Ints, ...]:
        """The steps of each data set that plans are judged on, which are all where there are fewer than five."""
        return tuple(split_steps(load)[1] for load in self.loads)

    @cached_property
    def makings(self) -> dict[str, Ints]:
        """What candidates are made on, by name: each data set, all, and where there are not too many all but one."""
        made = dict(zip(self.names, self.train, strict=True))
        for name, weights in mixes(dict(zip(self.names, self.weights, strict=True))).items():
            if name == MIX or len(self.names) <= MOST_LEFT_OUT:
                made[name] = mixed_steps(self.train, weights)
        return made

    @property
    def fingerprint(self) -> str:
        """A digest of the loads of all data sets."""
        return digest(*self.loads)


def mixed_steps(loads: Sequence[Ints], weights: Sequence[float]) -> Ints:
    """Steps of several data sets in proportion to their weights, `[step, expert]`, of loads `[step, expert]` of each.

    Where a data set has fewer steps than its share they are repeated, each about as often; where it has more,
    neighbouring ones are added up and scaled as all steps are.
    """
    numbers = shared_out(max(MIXED_STEPS, len(loads)), np.array(weights))
    return np.concatenate([_as_many(load, number) for load, number in zip(loads, numbers.tolist(), strict=True)])


def _as_many(load: Ints, number: int) -> Ints:
    """A number of steps that stand for all steps `[step, expert]`."""
    if number >= len(load):
        return load[np.arange(number) * len(load) // number]
    if number == 0:
        return load[:0]
    return equal_steps(np.stack([part.sum(axis=0, dtype=np.int64) for part in np.array_split(load, number)]))


def plan_robust_counts(run: Run, together: CountSets, criterion: Criterion) -> RobustPlan:
    """The plan of expected loads that is best for all data sets by this criterion, for even routing.

    Raises InputError for layers and experts that the counts do not have and where the work folder holds layers of other
    counts, and OutOfTimeError or, after Ctrl-C, KeyboardInterrupt where no layer was planned on all data sets.
    """
    settings, layers = together.settings, together.layers
    finished = {layer: list(plan.layers.values()) for layer, plan in run.finished(layers).items()}
    for layer in layers:
        _check(together.task(layer), finished.get(layer, []))

    def keep(layer: int, candidates: list[LayerPlan]) -> None:
        run.keep(layer, settings.plan(ROUTING, dict(enumerate(candidates))))

    even = {layer: 1.0 for layer in layers if layer not in finished}
    planned = finished | in_parallel(run, even, together.task, plan_counts_for_datasets, keep, in_time=True)
    run.cancel.heed()
    if not planned:
        raise run.ended_with_nothing()
    choices = _choices(together, planned, criterion)
    plans = {
        name: settings.plan(ROUTING, chosen_parts(planned, places, name, criterion))
        for name, places in zip(choices.names, choices.plans, strict=True)
    }
    figures = [figures_tested(together.names, planned[layer], EXPECTED) / len(planned) for layer in sorted(planned)]
    robustness = Robustness.of(choices, figures, EXPECTED)
    own = {name: plans[name] for name in together.names}
    return RobustPlan(plans[choices.names[-1]], own, robustness, replace(together, layers=tuple(planned)).drift())


def _check(task: CountSetsTask, finished: Sequence[LayerPlan]) -> None:
    """Raise InputError where a finished layer was planned on other counts."""
    if any(part.provenance.get(FINGERPRINT) != task.fingerprint for part in finished):
        raise InputError(
            f"layer {task.layer} of the counts is not what the run was begun with; name the same counts, or another "
            "folder for the work",
            field="resume",
        )


def plan_counts_for_datasets(task: CountSetsTask, deadline: Deadline) -> list[LayerPlan] | None:
    """Candidates made on each data set and on mixes, with their scores on all data sets; None once the deadline's token
    is asked, as a part of the candidates is no choice.

    Of each making it is the placement with the least mean on what it was made on, and of the mix of all also the one
    whose worst data set is best.
    """
    found: list[LayerPlan] = []
    for place, (name, load) in enumerate(task.makings.items()):
        each = deadline.remaining() / (len(task.makings) - place)
        pool = _pool(task, load, Deadline(max(each, LEAST_SECONDS), cancel=deadline.cancel))
        if pool is None:
            return None
        best = [min(pool, key=lambda placement: float(expected_imbalance(placement, load).mean()))]
        if name == MIX:
            best.append(min(pool, key=lambda placement: float(_means(placement, task.train).max())))
        found += [_part(task, name, placement) for placement in best]
    return found


def _pool(task: CountSetsTask, load: Ints, deadline: Deadline) -> list[Placement] | None:
    """All placements that a search on these steps comes to; None once the deadline's token is asked."""
    settings = task.settings
    problem = make_problem(settings.model, settings.mesh, settings.cost, load, settings.options.constraints)
    problem, effort = started(problem, task.start, task.layer), settings.effort(deadline)
    seeds = list(constructed(problem, settings.options, effort, silent))
    pool = [candidate.placement for candidate in seeds]
    pool += searched(problem, seeds, settings.options, effort, silent)
    if deadline.cancel.asked:
        return None
    for placement in pool:
        check(problem, placement)
    return pool


def _means(placement: Placement, loads: Sequence[Ints]) -> Floats:
    """The mean expected imbalance on each data set, `[data set]`."""
    return np.array([expected_imbalance(placement, load).mean() for load in loads])


def _part(task: CountSetsTask, name: str, placement: Placement) -> LayerPlan:
    """The plan with a placement that was made on a data set or mix of this name."""
    test = mixed_steps(task.test, task.weights)
    of_mix = expected_imbalance(placement, test)
    selection = dict(zip(task.names, _means(placement, task.train).tolist(), strict=True))
    judged = [expected_imbalance(placement, load) for load in task.test]
    figures = [(float(each.mean()), *np.percentile(each, [50, 99]).tolist()) for each in judged]
    quality = {
        EXPECTED.key: {"mean": float(of_mix.mean()), "max": max(float(each.max()) for each in judged)},
        EXPECTED.selection_key: selection,
        EXPECTED.test_key: {
            each: dict(zip(FIGURES, values, strict=True)) for each, values in zip(task.names, figures, strict=True)
        },
    }
    reached = gaps(bound_steps(test, task.settings.mesh), {IMBALANCE: quality[EXPECTED.key]["mean"]})
    provenance = {
        "moeplan": __version__,
        "method": "search",
        "seed": task.settings.options.seed,
        "origin": ", ".join(f"{weight:.1%} {each}" for each, weight in zip(task.names, task.weights, strict=True)),
        "train_steps": sum(map(len, task.train)),
        "test_steps": sum(map(len, task.test)),
        "unseen_test_steps": all(split_steps(load)[2] for load in task.loads),
        FINGERPRINT: task.fingerprint,
        MADE_ON: name,
    }
    return LayerPlan(placement, quality, {gap.unit: gap.summary() for gap in reached}, provenance)


def _choices(together: CountSets, planned: dict[int, list[LayerPlan]], criterion: Criterion) -> Choices:
    """The choice over all layers; scores are divided by their number, so that a sum over layers is their mean."""
    pools = []
    for layer in sorted(planned):
        pool = pool_of(layer, together.names, planned[layer], EXPECTED)
        pools.append(replace(pool, selection=pool.selection / len(planned)))
    seed = derived_seed(Purpose.CHOICE_OVER_DATA_SETS, together.settings.options.seed)
    whole = Pools(together.names, np.array(together.weights), tuple(pools))
    return choose_plans(whole, criterion, Limits(CHOOSING_SECONDS, seed=seed))
