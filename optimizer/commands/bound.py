"""`bound`: what no plan can beat."""

import json
from typing import Any

import click

from optimizer.commands.given import cost_of, mesh_of, model_choice, named_of, progress, say
from optimizer.commands.options import batch_options, cost_options, problem_options, trace_options


@click.command()
@trace_options
@batch_options
@problem_options
@cost_options
@click.option("--layer", type=click.IntRange(min=0), required=True, help="Model layer to bound.")
def bound(layer: int, as_json: bool, **given: Any) -> None:
    """Print what no placement of a layer can beat, on the test batches by which `solve` judges its plans.

    Bounds are of the mean over batches and, where they hold for each batch alone, of p50 and p99 too: imbalance, tiles,
    copies of tokens, hops, time of compute. Where TRACES are counts without tokens, the expected load is bounded.
    """
    from optimizer.commands.report import bounds as report
    from optimizer.planning.bound_traces import bound_layer

    mesh, cost = mesh_of(given), cost_of(given["hardware"], given)
    with progress() as notify:
        reading = lambda share: notify("reading traces", share)  # noqa: E731
        found = bound_layer(named_of(given), model_choice(given), layer, mesh, cost, reading)
    say(found.notes)
    if as_json:
        click.echo(json.dumps(report.as_json(found), indent=1))
        return
    report.show(found)
