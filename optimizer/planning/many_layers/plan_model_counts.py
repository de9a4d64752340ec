"""All layers of counts in one plan, of which the expected load is planned."""

from dataclasses import dataclass, replace

from optimizer.errors import InputError
from optimizer.planning.many_layers.parallel import in_parallel
from optimizer.planning.many_layers.run import Run
from optimizer.planning.many_layers.settings import Settings
from optimizer.planning.options import silent
from optimizer.planning.plan_expected_load import ROUTING, plan_counts
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.search.stop import Deadline
from optimizer.traces.formats.counts import Counts, step_counts
from optimizer.traces.trace import digest

FINGERPRINT = "counts"  # in a layer's provenance, of what was counted in it


@dataclass(frozen=True, eq=False)
class CountsTask:
    """A layer with its counts alone."""

    settings: Settings
    layer: int
    counts: Counts
    start: Plan | None = None


def plan_model_counts(
    run: Run, settings: Settings, counts: Counts, layers: tuple[int, ...], start: Plan | None
) -> Plan:
    """The plan of these layers; after Ctrl-C of those that are finished.

    Raises InputError as `plan_counts` does and where the work folder holds layers of other counts, and OutOfTimeError
    or, after Ctrl-C, KeyboardInterrupt where no layer was finished.
    """
    for layer in layers:
        step_counts(counts, layer)  # says which layers there are before anything is planned

    def task(layer: int) -> CountsTask:
        place = counts.layers.index(layer)
        return CountsTask(settings, layer, replace(counts, load=counts.load[:, [place]], layers=(layer,)), start)

    def keep(layer: int, part: LayerPlan) -> None:
        run.keep(layer, settings.plan(ROUTING, {layer: part}))

    finished = {layer: plan.layers[layer] for layer, plan in run.finished(layers).items()}
    _check_counts(counts, finished)
    weights = {layer: 1.0 for layer in layers if layer not in finished}
    planned = in_parallel(run, weights, task, _plan, keep)
    run.cancel.heed()
    if not finished | planned:
        raise run.ended_with_nothing()
    return settings.plan(ROUTING, finished | planned)


def _check_counts(counts: Counts, finished: dict[int, LayerPlan]) -> None:
    for layer, part in finished.items():
        if part.provenance.get(FINGERPRINT) != _fingerprint(counts, layer):
            raise InputError(
                f"layer {layer} of the counts is not what the run was begun with; name the same counts, or another "
                "folder for the work",
                field="resume",
            )


def _fingerprint(counts: Counts, layer: int) -> str:
    return digest(counts.load[:, counts.layers.index(layer)])


def _plan(task: CountsTask, deadline: Deadline) -> LayerPlan:
    given, counts, layer = task.settings, task.counts, task.layer
    asked = (counts, given.model), layer, given.mesh, given.cost, given.options
    part = plan_counts(*asked, given.effort(deadline), silent, task.start).plan.layers[layer]
    return replace(part, provenance=part.provenance | {FINGERPRINT: _fingerprint(counts, layer)})
