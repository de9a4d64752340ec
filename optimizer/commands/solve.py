"""`solve`: plan one layer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from optimizer.commands.errors import BadInput
from optimizer.commands.given import STARTED, cost_of, mesh_of, model_choice, named_of, progress, say
from optimizer.commands.options import (
    batch_options,
    cost_options,
    problem_options,
    replica_options,
    solve_options,
    trace_options,
)

if TYPE_CHECKING:
    from optimizer.inputs import Source


@click.command()
@trace_options
@batch_options
@problem_options
@cost_options
@replica_options
@solve_options
def solve(layer: int, routing: str, max_rerouted: float | None, synthesise: bool, start: Path | None,
          time_limit: float, iterations: int | None, output: Path, as_json: bool, **given: Any) -> None:  # fmt: skip
    """Plan one layer, and judge the plan on requests that it was not made from.

    Seeds, a formulation, descents for even routing, annealing for optimal routing and exchanges of devices for the sake
    of the network plan on train batches. What is best on selection batches becomes the plan, with its routing policy;
    all figures printed are of test batches. The three share no request. Ctrl-C ends the search, not the command.
    Where TRACES are counts without tokens, the expected load is planned and judged instead.
    """
    from dataclasses import replace

    from optimizer.candidates import Effort
    from optimizer.commands.arguments import routings_named
    from optimizer.conditions import Conditions
    from optimizer.expected import plan_counts
    from optimizer.files import check_writable
    from optimizer.inputs import open_counts, open_source, synthesised
    from optimizer.plan import read_plan, write_plan
    from optimizer.problem import Constraints
    from optimizer.report import expected as expected_report
    from optimizer.report import solution as solution_report
    from optimizer.search.stop import Deadline
    from optimizer.solve import plan_tokens

    check_writable(output, "--output")
    mesh = mesh_of(given)
    cost = cost_of(given["hardware"], given)
    running = None if start is None else read_plan(start)
    conditions, routings = Conditions(unit=given["unit"]), routings_named(routing)
    constraints = Constraints(given["shared_replicas"], given["extra_replicas"], given["max_row_traffic"])
    effort = Effort(Deadline(time_limit, STARTED), given["seed"], iterations, given["search"], given["jobs"])
    named, choice = named_of(given), model_choice(given)
    with progress() as notify:
        reading = lambda share: notify("reading traces", share)  # noqa: E731
        counted = open_counts(named, choice)
        if synthesise and not counted:
            raise BadInput("--synthesise makes tokens from counts; give a file of counts, or leave the option out")
        if counted and not synthesise:
            plan, expected, notes = plan_counts(*counted, layer, mesh, cost, constraints, effort, notify, running)
            found: dict[str, Any] = expected_report.as_json(expected)
            show: Callable[[], None] = lambda: expected_report.show(expected, layer)  # noqa: E731
        else:
            if counted:
                source: Source = synthesised(*counted, layer, named, mesh)
            else:
                source = open_source(replace(named, extras=max_rerouted is not None), [layer], choice, mesh, reading)
            plan, solution, notes = plan_tokens(
                source, layer, mesh, cost, constraints, effort, notify, conditions, routings, running, max_rerouted
            )
            found = solution_report.as_json(solution)
            show = lambda: solution_report.show(solution, layer)  # noqa: E731
    write_plan(output, plan)
    say(notes)
    if as_json:
        click.echo(json.dumps({"layer": layer, "plan": str(output), **found}, indent=1))
        return
    show()
    click.echo(f"The last row is the plan, written to {output}.")
