"""`solve`: plan one layer, or many."""

import json
from pathlib import Path
from typing import Any

import click

from optimizer.commands.errors import BadInput
from optimizer.commands.found import Found
from optimizer.commands.given import say
from optimizer.commands.many_layers import solve_many
from optimizer.commands.one_layer import solve_one
from optimizer.commands.options import (
    batch_options,
    cost_options,
    problem_options,
    replica_options,
    solve_options,
    trace_options,
)
from optimizer.commands.robust_plan import several, solve_robustly


@click.command()
@trace_options
@batch_options
@problem_options
@cost_options
@replica_options
@solve_options
def solve(layer_text: str, output: Path, as_json: bool, **given: Any) -> None:
    """Plan layers, and judge the plan on requests that it was not made from.

    Seeds, a formulation, descents for even routing, annealing for optimal routing and exchanges of devices for the sake
    of the network plan on train batches. What is best on selection batches becomes the plan, with its routing policy;
    all figures printed are of test batches. The three share no request. Ctrl-C ends the search, not the command.
    Where TRACES are counts without tokens, the expected load is planned and judged instead.

    Several layers are planned at once and share the time: first seeds are judged for all of them, which decides on the
    routing policy, then layers far above their bound get more time than others.
    """
    from optimizer.commands.arguments import layer_ids
    from optimizer.files import check_writable, file_names, write_whole
    from optimizer.planning.plan_file import write_plan

    check_writable(output, "output")
    if given["matrix"] is not None:
        check_writable(given["matrix"], "matrix")
    if given["resume"] and given["work"] is None:
        raise BadInput("--resume goes on with a run that kept its layers; name their folder with --work")
    layers = layer_ids(layer_text)
    found = _found(layers, given)
    write_plan(output, found.plan)
    written = [output]
    for name, part in file_names(found.own).items() if given["separate"] else ():
        written.append(output.with_name(f"{output.stem}.{part}{output.suffix}"))
        write_plan(written[-1], found.own[name])
    if given["matrix"] is not None:
        write_whole(given["matrix"], found.page)
    say(found.notes)
    if as_json:
        click.echo(json.dumps({"plan": str(output), **found.figures}, indent=1))
        return
    found.show()
    click.echo(f"{found.ending} to {', '.join(map(str, written))}.")


def _found(layers: list[int] | None, given: dict[str, Any]) -> Found:
    spread = [given[option] for option in ("work", "cluster", "fast")]
    if several(given):
        return solve_robustly(layers, given)
    for option in ("separate", "matrix", "weights"):
        if given[option]:
            raise BadInput(f"--{option} is for several data sets; name them as NAME=PATH, or by --phase decode,prefill")
    if layers is not None and len(layers) == 1 and not any(spread):
        if given["slot_budget"] is not None:
            raise BadInput("--slot-budget is shared out over layers; of one layer limit them with --replicas")
        return solve_one(layers[0], given)
    return solve_many(layers, given)
