"""What `bound` looks at: the test batches of traces, or the steps of counts that a plan is judged on."""

from collections.abc import Callable
from dataclasses import dataclass

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.planning.bounds import Bound, bound_any, bound_steps
from optimizer.planning.plan_expected_load import split_steps, step_loads
from optimizer.statistics.checked import checked_counts, checked_source
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput


@dataclass(frozen=True)
class LayerBounds:
    """The bounds of one layer; what they are of, as "1024 test batches of 512 tokens"; sentences for the user."""

    layer: int
    bounds: list[Bound]
    of: str
    notes: tuple[str, ...]


def bound_layer(
    named: TraceInput, known: Model | ModelChoice, layer: int, mesh: Mesh, cost: Cost, progress: Callable[[float], None]
) -> LayerBounds:
    """What no placement of this layer goes below, on what `solve` judges its plans on. Raises InputError."""
    counted = checked_counts(named, known)
    if counted is not None:
        counts, model = counted
        model.check_layers([layer])
        _, steps, _ = split_steps(step_loads(counts, layer, model))
        note = f"{counts.source}: counts alone, so the expected load is bounded"
        return LayerBounds(layer, bound_steps(steps, mesh), f"{len(steps)} recorded steps", (note, *counts.notes))
    source = checked_source(named, [layer], known, mesh, progress, cost.preset.network.tokens)
    test = source.sets(layer).test
    of = f"{test.count} test batches of {test.experts.shape[1]} tokens"
    bounds = bound_any(test, source.model, mesh, cost.for_model(source.model))
    return LayerBounds(layer, bounds, of, (source.origin, *source.notes, *cost.notes(source.model)))
