"""`compare`: our plan beside those of published planners."""

import json
from typing import Any

import click

from optimizer.commands.given import cost_of, mesh_of, model_choice, named_of, progress, say
from optimizer.commands.options import batch_options, cost_options, problem_options, replica_options, trace_options


@click.command()
@trace_options
@batch_options
@problem_options
@cost_options
@replica_options
@click.option("--layer", type=click.IntRange(min=0), required=True, help="Model layer to plan.")
@click.option("--routing", default="auto", show_default=True, help="Policy of our plan, as in solve.")
@click.option(
    "--time-limit",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    help="Seconds for our plan; the others take what they take.",
)
@click.option("--iterations", type=click.IntRange(min=0), help="Moves that our search may evaluate.")
def compare(layer: int, routing: str, time_limit: float, iterations: int | None, as_json: bool,
            **given: Any) -> None:  # fmt: skip
    """Plan one layer with every published planner and with our own, and judge all on the same test batches.

    EPLB (also by groups, with METRO's routing and with optimal routing), SGLang's maximum per step (also packed as EPLB
    does), FlashLB, one more copy of the hottest with balanced rows, and plain orders. Each placement is judged under
    the routing that it was published with, and under optimal routing in tokens and tiles, or in --unit. Planning times
    are without compilation.
    """
    from optimizer.commands.arguments import routings_named
    from optimizer.commands.report import compare as report
    from optimizer.domain.problem import Constraints
    from optimizer.errors import InputError
    from optimizer.experiments.compare_rivals import OwnPlanning
    from optimizer.experiments.compare_rivals import compare as compare_layer
    from optimizer.simulation.conditions import Conditions
    from optimizer.traces.source import open_counts, open_source

    mesh, cost = mesh_of(given), cost_of(given["hardware"], given)
    conditions, constraints = (
        Conditions(unit=given["unit"]),
        Constraints(given["shared_replicas"], given["extra_replicas"]),
    )
    ours = OwnPlanning(time_limit, iterations, conditions, routings_named(routing), given["seed"], constraints)
    named, choice = named_of(given), model_choice(given)
    with progress() as notify:
        if open_counts(named, choice) is not None:
            raise InputError("compare needs token traces: with counts alone there is nothing to route")
        source = open_source(named, [layer], choice, mesh, lambda share: notify("reading traces", share))
        found = compare_layer(source, layer, mesh, cost, ours, notify)
    say([source.origin, *source.notes])
    if as_json:
        click.echo(json.dumps(report.as_json(found), indent=1))
        return
    report.show(found)
