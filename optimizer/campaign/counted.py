"""All layers of counts in one plan, of which the expected load is planned."""

from dataclasses import dataclass, replace

from optimizer.campaign.layer import silent
from optimizer.campaign.parallel import in_parallel
from optimizer.campaign.run import Run
from optimizer.campaign.settings import Settings
from optimizer.expected import ROUTING, plan_counts
from optimizer.plan import LayerPlan, Plan
from optimizer.traces.counts import Counts, step_counts


@dataclass(frozen=True, eq=False)
class CountsTask:
    """A layer with its counts alone."""

    settings: Settings
    layer: int
    counts: Counts
    start: Plan | None = None


def plan_whole_counts(
    run: Run, settings: Settings, counts: Counts, layers: tuple[int, ...], start: Plan | None
) -> Plan:
    """The plan of these layers; after Ctrl-C of those that are finished. Raises InputError as `plan_counts` does."""

    for layer in layers:
        step_counts(counts, layer)  # says which layers there are before anything is planned

    def task(layer: int) -> CountsTask:
        place = counts.layers.index(layer)
        return CountsTask(settings, layer, replace(counts, load=counts.load[:, [place]], layers=(layer,)), start)

    def keep(layer: int, part: LayerPlan) -> None:
        if run.work is not None:
            run.work.keep(layer, settings.plan(ROUTING, {layer: part}), run.spent())

    kept = {} if run.work is None else run.work.finished(layers)
    finished = {layer: plan.layers[layer] for layer, plan in kept.items()}
    weights = {layer: 1.0 for layer in layers if layer not in finished}
    planned = in_parallel(run, weights, task, _plan, keep)
    return settings.plan(ROUTING, finished | planned)


def _plan(task: CountsTask, seconds: float) -> LayerPlan | None:
    given = task.settings
    try:
        return plan_counts(
            task.counts,
            given.model,
            task.layer,
            given.mesh,
            given.cost,
            given.constraints,
            given.effort(seconds),
            silent,
            task.start,
        )[0].layers[task.layer]
    except KeyboardInterrupt:
        return None
