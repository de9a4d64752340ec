"""`validate`: check a plan."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a sentence.")
def validate(plan: Path, as_json: bool) -> None:
    """Check PLAN: format, mesh, and every placement. Exit code 2, and the first fault, if it may not be deployed."""
    from optimizer.planning.plan_file import read_plan

    read = read_plan(plan)
    layers = {str(layer): {"replicas": int((part.placement.slots >= 0).sum())} for layer, part in read.layers.items()}
    if as_json:
        click.echo(json.dumps({"valid": True, "model": read.model.name, "layers": layers}, indent=1))
        return
    mesh = read.mesh
    click.echo(
        f"{plan} is valid: {len(layers)} layer(s) of {read.model.name}, {read.model.experts} experts in "
        f"{mesh.slots} slots on {mesh.rows}x{mesh.cols} devices, routing {read.policy}."
    )
