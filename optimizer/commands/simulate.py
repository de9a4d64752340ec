"""`simulate` and `sweep`: run a plan."""

import json
from pathlib import Path
from typing import Any

import click

from optimizer.commands.errors import BadInput
from optimizer.commands.given import conditions_of, judged
from optimizer.commands.options import batch_options, cost_options, run_options, trace_options


@click.command()
@click.argument("plan", type=click.Path(path_type=Path))
@trace_options
@batch_options
@cost_options
@run_options
@click.option("--routing", help="Judge this policy, several (comma-separated) or all, instead of the plan's.")
@click.option(
    "--capacity-factor",
    type=click.FloatRange(min=0, min_open=True),
    help="Let a replica take this many times its even part of the pairs, and reroute what is beyond; by default the "
    "plan's, if it has one.",
)
def simulate(plan: Path, routing: str | None, capacity_factor: float | None, as_json: bool, **given: Any) -> None:
    """Run the layers of PLAN through the token-dispatch simulator.

    All requests of TRACES count, unless the plan was made from these very traces: then its test requests alone do.
    Policies: primary, even (round robin), hash, nearest (fewest hops), capacity-fill, least-loaded, weights (learned
    shares), optimal (least peak, then fewest hops).
    """
    from dataclasses import replace

    from optimizer.commands.arguments import policy_names
    from optimizer.commands.report import simulation as report
    from optimizer.planning.plan_file import read_plan

    read = read_plan(plan)
    limit = read.capacity_factor if capacity_factor is None else capacity_factor
    if given["drop"] and limit is None:
        raise BadInput("--drop goes with --capacity-factor: without a capacity no pair is in want of room")
    conditions = replace(conditions_of(given, read), capacity_factor=limit)
    reports = judged(read, given, [replace(conditions, routing=name) for name in policy_names(routing or read.policy)])
    if as_json:
        found = {str(layer): report.as_json(of_layer) for layer, of_layer in reports.items()}
        click.echo(json.dumps({"layers": found}, indent=1))
        return
    for layer, of_layer in reports.items():
        report.show(of_layer, layer)


@click.command()
@click.argument("plan", type=click.Path(path_type=Path))
@trace_options
@batch_options
@cost_options
@run_options
@click.option("--routing", help="Policy whose choices are limited, instead of the plan's.")
@click.option(
    "--capacity-factor",
    "factors",
    default="1.0:3.0:0.25",
    show_default=True,
    metavar="FROM:TO:STEP",
    help="Capacity factors to try.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    default="sweep.html",
    show_default=True,
    help="Where the curve of latency against rerouting is drawn, as a page for a browser.",
)
def sweep(plan: Path, routing: str | None, factors: str, plot: Path, as_json: bool, **given: Any) -> None:
    """Try capacity factors on PLAN: what latency is won by rerouting how many pairs to other experts.

    A replica takes at most FACTOR * tokens * top_k / slots pairs. Beyond that a pair goes to another replica of its
    expert, else to the token's next expert: the recorded one where TRACES have candidate_experts, else an estimate.
    """
    from dataclasses import replace

    from optimizer.commands.arguments import policy_names, spaced
    from optimizer.commands.report import simulation as report
    from optimizer.commands.report.charts import sweep_page
    from optimizer.files import check_writable, write_whole
    from optimizer.planning.plan_file import read_plan

    check_writable(plot, "plot")
    read = read_plan(plan)
    conditions = replace(conditions_of(given, read), routing=policy_names(routing or read.policy, most=1)[0])
    tried = spaced("--capacity-factor", factors)
    reports = judged(read, given, [replace(conditions, capacity_factor=factor) for factor in tried])
    write_whole(plot, sweep_page(reports))
    if as_json:
        found = {str(layer): [each.summary() for each in of_layer] for layer, of_layer in reports.items()}
        click.echo(json.dumps({"plot": str(plot), "layers": found}, indent=1))
        return
    for layer, of_layer in reports.items():
        report.show_sweep(of_layer, layer)
    click.echo(f"The curve is drawn in {plot}.")
