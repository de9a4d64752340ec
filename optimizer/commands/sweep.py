"""The command `sweep`, which shows how much latency a capacity of replicas wins, and how many pairs it reroutes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import click

from optimizer.commands.declare import Option, command
from optimizer.commands.options import CostOptions, JsonOptions
from optimizer.commands.output import say, show, show_json
from optimizer.commands.progress import progress
from optimizer.commands.run_options import PlanArgument, RunOptions, hardware_of
from optimizer.commands.trace_options import BatchOptions, TraceOptions, trace_input


@dataclass(frozen=True)
class SweepOptions:
    """The options that say which capacities are tried, under which routing policy, and where the curve is drawn."""

    SECTION: ClassVar[str] = "Routing"
    routing: Annotated[
        str | None, Option(("--routing",), "Policy whose choices are limited, instead of the plan's.", essential=True)
    ] = None
    capacity_factor: Annotated[
        str, Option(("--capacity-factor",), "Capacity factors to try.", metavar="FROM:TO:STEP", essential=True)
    ] = "1.0:3.0:0.25"
    plot: Annotated[
        Path,
        Option(
            ("--plot",),
            "Where the curve of latency against rerouting is drawn, as a page for a browser.",
            essential=True,
        ),
    ] = Path("sweep.html")


@command(example="moeplan sweep plan.json traces/ --capacity-factor 1.0:2.0:0.1")
def sweep(
    plan: PlanArgument,
    traces: TraceOptions,
    batches: BatchOptions,
    capacities: SweepOptions,
    cost: CostOptions,
    conditions: RunOptions,
    figures: JsonOptions,
) -> None:
    """Try capacity factors on PLAN: what latency is won by rerouting how many pairs to other experts.

    A replica takes at most FACTOR * tokens * top_k / slots pairs. Beyond that a pair goes to another replica of its
    expert, else to the token's next expert: the recorded one where TRACES have candidate_experts, else an estimate.
    """
    from optimizer.api.judging import simulate as run
    from optimizer.commands.arguments import policy_names, spaced
    from optimizer.files import check_writable, write_whole
    from optimizer.planning.plan_file import read_plan
    from optimizer.report.page.sweep_page import sweep_page
    from optimizer.report.simulation import sweep_table

    check_writable(capacities.plot, "plot")
    read = read_plan(plan.plan)
    policy = policy_names(capacities.routing or read.policy, most=1)[0]
    base = replace(conditions.conditions(read, cost), routing=policy)
    trials = [replace(base, capacity_factor=factor) for factor in spaced(capacities.capacity_factor)]
    given = trace_input(traces, batches)
    with progress() as tell:
        found = run(read, given, trials, hardware_of(read, cost), conditions.batch_count, tell)
    say(found.notes)
    write_whole(capacities.plot, sweep_page(found.reports))
    if figures.as_json:
        layers = {str(layer): [each.summary() for each in reports] for layer, reports in found.reports.items()}
        show_json({"plot": str(capacities.plot), "layers": layers})
        return
    show([sweep_table(reports, layer) for layer, reports in found.reports.items()])
    click.echo(f"The curve is drawn in {capacities.plot}.")
