"""The command `validate`, which checks a plan."""

import click

from optimizer.commands.declare import command
from optimizer.commands.options import JsonOptions
from optimizer.commands.output import show_json
from optimizer.commands.run_options import PlanArgument


@command(example="moeplan validate plan.json")
def validate(plan: PlanArgument, figures: JsonOptions) -> None:
    """Check PLAN: format, mesh, and every placement. Exit code 2, and the first fault, if it may not be deployed."""
    from optimizer.planning.plan_file import read_plan

    read = read_plan(plan.plan)
    layers = {str(layer): {"replicas": int((part.placement.slots >= 0).sum())} for layer, part in read.layers.items()}
    if figures.as_json:
        show_json({"valid": True, "model": read.model.name, "layers": layers})
        return
    mesh = read.mesh
    click.echo(
        f"{plan.plan} is valid: {len(layers)} layer(s) of {read.model.name}, {read.model.experts} experts in "
        f"{mesh.slots} slots on {mesh.rows}x{mesh.cols} devices, routing {read.policy}."
    )
