"""A problem that is planned from an earlier plan."""

from dataclasses import replace

from optimizer.domain.model import Model
from optimizer.domain.problem import Problem
from optimizer.errors import InputError
from optimizer.planning.plan_file import Plan


def started(problem: Problem, plan: Plan | None, layer: int) -> Problem:
    """The problem with a plan's placement of this layer to start from, too; without a plan as it is.

    Raises InputError where the plan is for another model or mesh, lacks the layer, or breaks a constraint.
    """
    if plan is None:
        return problem
    if _sizes(plan.model) != _sizes(problem.model):
        said = f"the plan to start from is for {_sizes(plan.model)}, not for {_sizes(problem.model)}"
        raise InputError(said, field="start")
    if plan.mesh != problem.mesh:
        said = f"the plan to start from is for {plan.mesh}, not for {problem.mesh}; plan for the same mesh and slots"
        raise InputError(said, field="start")
    if layer not in plan.layers:
        there = ", ".join(map(str, sorted(plan.layers)))
        raise InputError(f"the plan to start from has no layer {layer}; it has {there}", field="start")
    placement = plan.layers[layer].placement
    if faults := problem.violations(placement):
        said = f"the plan to start from breaks what is asked for: layer {layer} has {'; '.join(faults)}"
        raise InputError(said, field="start")
    return replace(problem, start=placement)


def _sizes(model: Model) -> str:
    """What two models must have in common; the name may differ."""
    return f"{model.routed_experts} routed experts (top-{model.top_k}) and {model.shared_experts} shared ones"
