"""All layers of a model in one plan: surveyed, then planned in parallel, in the order and time that pays most."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from optimizer.campaign.layer import EXCESS, LayerTask, plan_layer, survey_layer
from optimizer.campaign.parallel import in_parallel
from optimizer.campaign.reading import LayerReader
from optimizer.campaign.run import Run
from optimizer.campaign.settings import Settings
from optimizer.errors import InputError
from optimizer.plan import LayerPlan, Plan
from optimizer.solve import provenance_of

LEAST_WEIGHT = 0.2  # of the mean: a layer at its bound may still save hops
TINY = 1e-9


@dataclass
class Whole:
    """What is to be planned: the layers of the reader; start: a plan to start from; extra_replicas: by layer, where
    these differ."""

    settings: Settings
    reader: LayerReader
    start: Plan | None = None
    extra_replicas: dict[int, int] = field(default_factory=dict)

    def task(self, layer: int) -> LayerTask:
        """A layer with its batches, read now."""
        source = self.reader.source_of(layer)
        sets = source.sets(layer)
        provenance = provenance_of(source, layer, sets, self.settings.seed)
        return LayerTask(self.settings, layer, sets, provenance, self.start, self.extra_replicas.get(layer))


def plan_whole(run: Run, whole: Whole) -> Plan:
    """The plan of all layers, under the routing policy whose seeds are fastest over all layers.

    After Ctrl-C layers that were not planned have their seeds, as their provenance says. Raises InputError where the
    work folder holds layers of other traces, LostWorkerError where workers die again and again, KeyboardInterrupt where
    not even the seeds were judged.
    """
    survey = _surveyed(run, whole)
    chosen = replace(whole, settings=replace(whole.settings, routings=(survey.policy,)))
    finished = {} if run.work is None else run.work.finished(whole.reader.layers)
    layers = [layer for layer in whole.reader.layers if layer not in finished]

    def keep(layer: int, part: LayerPlan) -> None:
        if run.work is not None:
            run.work.keep(layer, whole.settings.plan(survey.policy, {layer: part}), run.spent())

    planned = in_parallel(run, _weights(survey, layers), chosen.task, plan_layer, keep)
    return whole.settings.plan(survey.policy, survey.layers | finished | planned)


def _surveyed(run: Run, whole: Whole) -> Plan:
    """The plan of seeds, made now or by the run that is gone on with."""
    kept = None if run.work is None else run.work.survey()
    if kept is not None:
        _check_traces(whole.reader, kept)
        return kept
    found = in_parallel(run, dict.fromkeys(whole.reader.layers, 1.0), whole.task, _survey, lambda layer, of: None)
    if run.stop.asked:
        raise KeyboardInterrupt
    survey = whole.settings.plan(*_best_policy(whole.settings.routings, found))
    if run.work is not None and survey.layers:
        run.work.keep_survey(survey)
    return survey


def _survey(task: LayerTask, seconds: float) -> dict[str, LayerPlan] | None:
    try:
        return survey_layer(task)
    except KeyboardInterrupt:
        return None


def _best_policy(routings: Sequence[str], found: dict[int, dict[str, LayerPlan]]) -> tuple[str, dict[int, LayerPlan]]:
    """The policy with seeds for most layers, of such with the least latency over all, and its parts."""
    parts = {routing: {layer: of[routing] for layer, of in found.items() if routing in of} for routing in routings}

    def worth(routing: str) -> tuple[int, float]:
        latencies = [part.quality["latency_us"]["mean"] for part in parts[routing].values()]
        return -len(latencies), sum(latencies)

    best = min(routings, key=worth)
    return best, parts[best]


def _check_traces(reader: LayerReader, survey: Plan) -> None:
    for layer, part in survey.layers.items():
        if reader.source_of(layer).fingerprint(layer) != part.provenance.get("traces"):
            raise InputError(
                f"--resume: layer {layer} of the traces is not what the run was begun with; name the same traces, or "
                "another --work folder"
            )


def _weights(survey: Plan, layers: Sequence[int]) -> dict[int, float]:
    """How far seeds are from what no placement can beat, which is where time pays."""
    known = {layer: float(part.quality[EXCESS]) for layer, part in survey.layers.items()}
    mean = float(np.mean(list(known.values()))) if known else 1.0
    return {layer: max(known.get(layer, mean), LEAST_WEIGHT * mean, TINY) for layer in layers}
