"""What `bound` looks at: the test batches of traces, or the steps of counts that a plan is judged on."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.planning.bounds import Bound, bound_any, bound_given, bound_steps
from optimizer.planning.certificates import Certificate, certificates
from optimizer.planning.plan_expected_load import split_steps, step_loads
from optimizer.planning.plan_file import Plan
from optimizer.statistics.checked import checked_counts, checked_source
from optimizer.traces.batches import Batches
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput


@dataclass(frozen=True)
class LayerBounds:
    """The bounds of one layer; what they are of, as "1024 test batches of 512 tokens"; sentences for the user; what
    forces the peaks of the plan, if one was given."""

    layer: int
    bounds: list[Bound]
    of: str
    notes: tuple[str, ...]
    certificates: tuple[Certificate, ...] = ()


def bound_layer(
    named: TraceInput,
    known: Model | ModelChoice,
    layer: int,
    mesh: Mesh,
    cost: Cost,
    progress: Callable[[float], None],
    plan: Plan | None = None,
) -> LayerBounds:
    """What no placement of this layer goes below, on what `solve` judges its plans on, and what no routing of a plan's
    placement goes below. Raises InputError."""
    counted = checked_counts(named, known)
    if counted is not None and plan is not None:
        raise InputError("what a plan's routing can reach needs token traces, not counts", "plan")
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
    found = LayerBounds(layer, bounds, of, (source.origin, *source.notes, *cost.notes(source.model)))
    return found if plan is None else _with_plan(found, plan, test, source.model, mesh, cost.for_model(source.model))


def _with_plan(found: LayerBounds, plan: Plan, test: Batches, model: Model, mesh: Mesh, cost: Cost) -> LayerBounds:
    """The bounds with those of a plan's placement of the layer, and what forces its peaks."""
    if found.layer not in plan.layers:
        raise InputError(f"the plan has no layer {found.layer}; it has {', '.join(map(str, plan.layers))}", "plan")
    if plan.mesh != mesh or plan.model.experts != model.experts:
        raise InputError(
            f"the plan is for {plan.model.experts} experts on {plan.mesh}, but {model.experts} experts on {mesh} are "
            "bounded; name the mesh, the slots and the model of the plan",
            "plan",
        )
    placement = plan.layers[found.layer].placement
    given = bound_given(test, model, mesh, cost, placement)
    forced = certificates(test.load(model.experts), placement, cost)
    return replace(found, bounds=[*found.bounds, *given], certificates=tuple(forced))
