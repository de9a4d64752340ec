"""The first look at all layers: a complete plan of seeds, the policy that suits them, and where time pays."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from optimizer.errors import InputError
from optimizer.planning.many_layers.layer import EXCESS, LayerTask, survey_layer
from optimizer.planning.many_layers.parallel import in_parallel
from optimizer.planning.many_layers.run import Run
from optimizer.planning.many_layers.settings import Settings
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.search.stop import Deadline

LEAST_WEIGHT = 0.2  # of the mean weight: a layer whose compute is at its bound may still save hops; not tuned
TINY = 1e-9  # so that a weight is never zero, which would be a share of no time


class LayersToSurvey(Protocol):
    """The layers that are to be planned."""

    @property
    def settings(self) -> Settings: ...
    @property
    def layers(self) -> tuple[int, ...]: ...

    def task(self, layer: int) -> LayerTask:
        """A layer with its batches."""

    def fingerprint(self, layer: int) -> str:
        """A digest of a layer's traces, as its task's provenance has it."""


def surveyed(run: Run, asked: LayersToSurvey) -> Plan:
    """The plan of seeds, made now or by the run that is gone on with."""
    kept = None if run.work is None else run.work.survey()
    if kept is not None:
        _check_traces(asked, kept)
        return kept
    found = in_parallel(run, dict.fromkeys(asked.layers, 1.0), asked.task, _survey, lambda layer, of: None)
    if run.cancel.asked:
        raise KeyboardInterrupt
    survey = asked.settings.plan(*_best_policy(asked.settings.options.routings, found))
    if run.work is not None and survey.layers:
        run.work.keep_survey(survey)
    return survey


def _survey(task: LayerTask, deadline: Deadline) -> dict[str, LayerPlan]:
    return survey_layer(task)


def _best_policy(routings: Sequence[str], found: dict[int, dict[str, LayerPlan]]) -> tuple[str, dict[int, LayerPlan]]:
    """The policy with seeds for most layers, of several the one with the least latency over all, and its parts."""
    parts = {routing: {layer: of[routing] for layer, of in found.items() if routing in of} for routing in routings}

    def worth(routing: str) -> tuple[int, float]:
        latencies = [part.quality["latency_us"]["mean"] for part in parts[routing].values()]
        return -len(latencies), sum(latencies)

    best = min(routings, key=worth)
    return best, parts[best]


def _check_traces(asked: LayersToSurvey, survey: Plan) -> None:
    for layer, part in survey.layers.items():
        if asked.fingerprint(layer) != part.provenance.get("traces"):
            raise InputError(
                f"layer {layer} of the traces is not what the run was begun with; name the same traces, or another "
                "folder for the work",
                field="resume",
            )


def weights(survey: Plan, layers: Sequence[int]) -> dict[int, float]:
    """The weight of each layer in sharing out time: how far its seed is from what no placement can beat."""
    known = {layer: float(part.quality[EXCESS]) for layer, part in survey.layers.items()}
    mean = float(np.mean(list(known.values()))) if known else 1.0
    return {layer: max(known.get(layer, mean), LEAST_WEIGHT * mean, TINY) for layer in layers}
