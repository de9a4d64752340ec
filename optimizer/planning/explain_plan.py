"""Why the fullest devices of a plan have as much to do as they have, on traces of the user's."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from optimizer.domain.cost import Cost
from optimizer.planning.certificates import Certificate, certificates
from optimizer.planning.judge_plan import as_planned, wanted_layers
from optimizer.planning.options import Progress
from optimizer.planning.plan_file import Plan
from optimizer.statistics.checked import checked_source
from optimizer.traces.source import TraceInput


@dataclass(frozen=True)
class ExplainedLayer:
    """What forces the peaks of one layer of a plan; of: on what, as "1024 batches of 512 tokens"."""

    layer: int
    of: str
    certificates: list[Certificate]


def explain(
    plan: Plan, named: TraceInput, cost: Cost, progress: Progress, wanted: Sequence[int] | None = None
) -> tuple[list[ExplainedLayer], list[str]]:
    """What forces the peaks of layers of a plan, and sentences that the user should read.

    wanted: the ids of the layers, None for all that the plan has. Batches are made up as the plan's were, unless
    something else was named; where the plan was made from these traces, its test batches are looked at. Raises
    InputError for layers that the plan lacks, and traces that do not fit it.
    """
    layers = wanted_layers(plan, wanted, named)
    named = as_planned(named, plan.layers[layers[0]].provenance)
    at, reading = cost.preset.network.tokens, partial(progress, "reading traces")
    source = checked_source(named, layers, plan.model, plan.mesh, reading, at)
    found, notes = [], [source.origin, *source.notes]
    for done, layer in enumerate(layers):
        part = plan.layers[layer]
        unseen = part.provenance.get("traces") == source.fingerprint(layer)
        chunks = list(source.stream(layer, unseen))
        load = np.concatenate([chunk.load(plan.model.experts) for chunk in chunks])
        of = f"{len(load)} {'test ' if unseen else ''}batches of {chunks[0].tokens} tokens"
        found.append(ExplainedLayer(layer, of, certificates(load, part.placement, cost)))
        progress("certificates", (done + 1) / len(layers))
    return found, notes
