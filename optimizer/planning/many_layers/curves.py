"""Replica curves of many layers, found in parallel: what extra replicas win in each."""

from collections.abc import Sequence
from dataclasses import replace

from optimizer.domain.problem import make_problem
from optimizer.interrupts import Cancel
from optimizer.planning.many_layers.reading import LayerReader
from optimizer.planning.many_layers.settings import Settings
from optimizer.planning.many_layers.workers import Crew
from optimizer.planning.options import Progress
from optimizer.planning.pool import SPLITTING
from optimizer.planning.replica_curves import ROUTINGS, CurveTask, ReplicaCurve, curve_of, task_of

EVEN, OPTIMAL = ROUTINGS


def curves_of(
    reader: LayerReader, settings: Settings, crew: Crew, wanted: Sequence[int], progress: Progress
) -> list[ReplicaCurve]:
    """The curve of each layer of the reader, with points at the wanted numbers of extra replicas.

    For optimal routing where any policy of the settings follows the load of the batch, else for even routing.
    """
    routing = OPTIMAL if {*SPLITTING} & {*settings.options.routings} else EVEN
    conditions = replace(settings.options.conditions, routing=routing)

    def task(layer: int) -> CurveTask:
        sets = reader.source_of(layer).sets(layer)
        load = sets.train.load(reader.model.experts)
        problem = make_problem(reader.model, settings.mesh, settings.cost, load, settings.options.constraints)
        return task_of(layer, problem, sets, conditions, settings.options.seed, wanted)

    found: dict[int, ReplicaCurve] = {}
    for curve in crew.results(curve_of, map(task, reader.layers), Cancel()):
        found[curve.layer] = curve
        progress(f"curves of {len(found)} of {len(reader.layers)} layers", len(found) / len(reader.layers))
    return [found[layer] for layer in reader.layers]
