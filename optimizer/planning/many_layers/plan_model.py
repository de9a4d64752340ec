"""All layers of a model in one plan: surveyed, then planned in parallel, in the order and time that pays most."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from optimizer.planning.bounds import TIME
from optimizer.planning.many_layers.curves import curves_of
from optimizer.planning.many_layers.layer import LayerTask, plan_layer
from optimizer.planning.many_layers.parallel import in_order, in_parallel
from optimizer.planning.many_layers.reading import LayerReader
from optimizer.planning.many_layers.run import Run
from optimizer.planning.many_layers.settings import Settings
from optimizer.planning.many_layers.survey import surveyed, weights
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.planning.plan_layer import provenance_of
from optimizer.planning.replica_curves import share_slots

EXTRA = "extra_replicas"


@dataclass
class ModelToPlan:
    """What is to be planned: the layers of the reader; start: a plan to start from; extra_replicas: by layer, where
    these differ."""

    settings: Settings
    reader: LayerReader
    start: Plan | None = None
    extra_replicas: dict[int, int] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers of the reader."""
        return self.reader.layers

    def fingerprint(self, layer: int) -> str:
        """A digest of a layer's traces, as its task's provenance has it."""
        return self.reader.source_of(layer).fingerprint(layer)

    def task(self, layer: int) -> LayerTask:
        """A layer with its batches, read now."""
        source = self.reader.source_of(layer)
        sets = source.sets(layer)
        provenance = provenance_of(source, layer, sets, self.settings.options.seed)
        extra = self.extra_replicas.get(layer)
        provenance |= {} if extra is None else {EXTRA: extra}
        return LayerTask(self.settings, layer, sets, provenance, self.start, extra)

    def with_slots(self, run: Run, budget: int) -> "ModelToPlan":
        """The same with `budget` extra replicas of all layers together, placed where they help most. Where a run is
        gone on with, they are shared out as they were in that run."""
        kept = None if run.work is None else run.work.survey()
        if kept is not None:
            return replace(self, extra_replicas={layer: part.provenance[EXTRA] for layer, part in kept.layers.items()})
        equal = budget // len(self.layers)
        shares = share_slots(curves_of(self.reader, self.settings, run.crew, [equal], run.progress), budget)
        return replace(self, extra_replicas=shares.extra)


def plan_model(run: Run, asked: ModelToPlan) -> Plan:
    """The plan of all layers, under the routing policy whose seeds are fastest over all layers.

    Layers that were not planned, for want of time or after Ctrl-C, have their seeds, as their provenance says. Raises
    InputError where the work folder holds layers of other traces, LostWorkerError where workers die again and again,
    OutOfTimeError or, after Ctrl-C, KeyboardInterrupt where not even the seeds were judged.
    """
    survey = surveyed(run, asked)
    chosen = replace(asked, settings=asked.settings.under(survey.policy))
    finished = {layer: plan.layers[layer] for layer, plan in run.finished(asked.layers).items()}
    layers = [layer for layer in asked.layers if layer not in finished]

    def keep(layer: int, part: LayerPlan) -> None:
        run.keep(layer, asked.settings.plan(survey.policy, {layer: part}))

    paying = weights(survey, layers)
    asked.reader.coming = in_order(paying)
    planned = in_parallel(run, paying, chosen.task, plan_layer, keep, in_time=True, tell=_best_gap())
    run.cancel.heed()
    if not survey.layers | finished | planned:
        raise run.ended_with_nothing()
    return asked.settings.plan(survey.policy, survey.layers | finished | planned)


def _best_gap() -> Callable[[LayerPlan], str]:
    """Says of each layer that is done how near any has come to its bound so far."""
    seen: list[float] = []

    def tell(part: LayerPlan) -> str:
        gap = part.bounds.get(TIME, {}).get("gap_to_any_placement")
        seen.extend([] if gap is None else [gap])
        return f", compute at best {min(seen):.1%} above its bound" if seen else ""

    return tell
