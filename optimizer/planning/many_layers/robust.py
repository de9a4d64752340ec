"""One plan for many data sets: candidates of all layers in parallel, then one choice for the whole model."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from formulations.choice.robust_choice import Criterion
from formulations.kit.arrays import Ints
from formulations.kit.solver import Limits
from optimizer.planning.choose_for_datasets import Choices, Pools, Robustness, choose_plans
from optimizer.planning.many_layers.layer import LayerTask
from optimizer.planning.many_layers.parallel import in_order, in_parallel
from optimizer.planning.many_layers.plan_for_datasets import (
    BATCHES,
    DataSetsTask,
    figures_tested,
    plan_for_datasets,
    pool_of,
)
from optimizer.planning.many_layers.reading import LayerReader
from optimizer.planning.many_layers.run import Run
from optimizer.planning.many_layers.settings import Settings
from optimizer.planning.many_layers.survey import surveyed, weights
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.planning.plan_layer import provenance_of
from optimizer.statistics.drift import Drift, routed_counts
from optimizer.streams import Purpose, derived_seed
from optimizer.traces.datasets import ROBUST, DataSet, mixed
from optimizer.traces.trace import digest

CHOOSING_SECONDS = 2.0  # for one choice; there is one more for each data set that is left out; not tuned


@dataclass
class DataSetsToPlan:
    """What is to be planned: the layers of all data sets, a reader for each; start: a plan to start from."""

    settings: Settings
    datasets: Sequence[DataSet]
    readers: Sequence[LayerReader]
    start: Plan | None = None
    train: dict[int, list[Ints]] = field(default_factory=dict)
    test: dict[int, list[Ints]] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are planned, the same in all data sets."""
        return self.readers[0].layers

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the data sets."""
        return tuple(each.name for each in self.datasets)

    def fingerprint(self, layer: int) -> str:
        """A digest of a layer's traces in all data sets."""
        prints = "".join(reader.source_of(layer).fingerprint(layer) for reader in self.readers)
        return digest(np.frombuffer(prints.encode(), dtype=np.uint8))

    def task(self, layer: int) -> LayerTask:
        """A layer with the mix of all batches."""
        return self.apart(layer).mix

    def apart(self, layer: int) -> DataSetsTask:
        """A layer with the batches of each data set, read now."""
        sources = [reader.source_of(layer) for reader in self.readers]
        sets = [source.sets(layer, BATCHES) for source in sources]
        self.train[layer] = [routed_counts(each.train, self.settings.model) for each in sets]
        self.test[layer] = [routed_counts(each.test, self.settings.model) for each in sets]
        shares = tuple(each.weight for each in self.datasets)
        mix = mixed(sets, shares, self.settings.options.seed)
        provenance = provenance_of(sources[0], layer, mix, self.settings.options.seed)
        provenance |= {"origin": self._origin(), "traces": self.fingerprint(layer)}
        together = LayerTask(self.settings, layer, mix, provenance, self.start)
        return DataSetsTask(together, self.names, tuple(sets), shares)

    def _origin(self) -> str:
        return ", ".join(f"{each.weight:.1%} {each.name}" for each in self.datasets)

    def drift(self) -> Drift:
        """How the data sets differ, in all layers."""
        for layer in self.layers:
            if layer not in self.train:
                self.apart(layer)
        layers = sorted(self.train)
        train, test = (np.array([of[layer] for layer in layers]).transpose(1, 0, 2) for of in (self.train, self.test))
        return Drift.of(self.names, layers, train, test)


@dataclass(frozen=True, eq=False)
class RobustPlan:
    """The plan for all data sets; each data set's own, chosen without a look at the others; how robust they are, and
    how the data sets differ."""

    plan: Plan
    own: dict[str, Plan]
    robustness: Robustness
    drift: Drift


def plan_robust(run: Run, together: DataSetsToPlan, criterion: Criterion) -> RobustPlan:
    """The plan that is best for all data sets by this criterion, under the policy whose seeds are fastest on their mix.

    Raises as `plan_model.plan_model` does, also where no layer was planned on all data sets.
    """
    survey = surveyed(run, together)
    settings = together.settings.under(survey.policy)
    chosen = replace(together, settings=settings)
    finished = {layer: list(plan.layers.values()) for layer, plan in run.finished(together.layers).items()}
    layers = [layer for layer in together.layers if layer not in finished]

    def keep(layer: int, candidates: list[LayerPlan]) -> None:
        run.keep(layer, settings.plan(survey.policy, dict(enumerate(candidates))))

    paying = weights(survey, layers)
    for reader in together.readers:
        reader.coming = in_order(paying)
    planned = finished | in_parallel(run, paying, chosen.apart, plan_for_datasets, keep, in_time=True)
    run.cancel.heed()
    if not planned:
        raise run.ended_with_nothing()
    choices = _choices(together, planned, criterion, settings.options.seed)
    plans = {
        name: settings.plan(survey.policy, survey.layers | chosen_parts(planned, places, name, criterion))
        for name, places in zip(choices.names, choices.plans, strict=True)
    }
    robustness = Robustness.of(choices, [figures_tested(together.names, planned[layer]) for layer in sorted(planned)])
    own = {name: plans[name] for name in together.names}
    return RobustPlan(plans[choices.names[-1]], own, robustness, chosen.drift())


def _choices(together: DataSetsToPlan, planned: dict[int, list[LayerPlan]], criterion: Criterion, seed: int) -> Choices:
    pools = tuple(pool_of(layer, together.names, planned[layer]) for layer in sorted(planned))
    shares = np.array([each.weight for each in together.datasets])
    return choose_plans(
        Pools(together.names, shares, pools),
        criterion,
        Limits(CHOOSING_SECONDS, seed=derived_seed(Purpose.CHOICE_OVER_DATA_SETS, seed)),
    )


def chosen_parts(
    planned: dict[int, list[LayerPlan]], places: Ints, name: str, criterion: Criterion
) -> dict[int, LayerPlan]:
    """The candidates of a plan, layer by layer, which say what they were chosen for."""
    said = {"chosen_for": f"all data sets, by {criterion}" if name == ROBUST else name}
    chosen = {layer: planned[layer][place] for layer, place in zip(sorted(planned), places.tolist(), strict=True)}
    return {layer: replace(part, provenance=part.provenance | said) for layer, part in chosen.items()}
