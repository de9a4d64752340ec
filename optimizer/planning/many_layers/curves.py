"""What extra replicas win in every layer, found in parallel."""

from collections.abc import Sequence
from dataclasses import replace

from optimizer.domain.problem import make_problem
from optimizer.planning.candidates import Notify
from optimizer.planning.many_layers.reading import LayerReader
from optimizer.planning.many_layers.settings import Settings
from optimizer.planning.many_layers.workers import Crew, Stop
from optimizer.planning.portfolio import SPLITTING
from optimizer.planning.replica_curves import ROUTINGS, CurveTask, ReplicaCurve, curve_of, task_of

EVEN, OPTIMAL = ROUTINGS


def curves_of(
    reader: LayerReader, settings: Settings, crew: Crew, wanted: Sequence[int], notify: Notify
) -> list[ReplicaCurve]:
    """The curve of each layer of the reader, with points at the wanted numbers of extra replicas.

    For optimal routing where any policy of the settings follows the load of the batch, else for even routing.
    """
    routing = OPTIMAL if {*SPLITTING} & {*settings.routings} else EVEN
    conditions = replace(settings.conditions, routing=routing)

    def task(layer: int) -> CurveTask:
        sets = reader.source_of(layer).sets(layer)
        load = sets.train.load(reader.model.experts)
        problem = make_problem(reader.model, settings.mesh, settings.cost, load, *settings.constraints)
        return task_of(layer, problem, sets, conditions, settings.seed, wanted)

    found: dict[int, ReplicaCurve] = {}
    for curve in crew.results(curve_of, map(task, reader.layers), Stop()):
        found[curve.layer] = curve
        notify(f"curves of {len(found)} of {len(reader.layers)} layers", len(found) / len(reader.layers))
    return [found[layer] for layer in reader.layers]
