"""The command `solve`, which plans one layer or several."""

import click

from optimizer.commands.declare import command
from optimizer.commands.layer_input import LayerInput
from optimizer.commands.options import JsonOptions
from optimizer.commands.output import say, show, show_json, warn
from optimizer.commands.progress import progress
from optimizer.commands.search_options import SearchOptions, solve_options
from optimizer.commands.solve_options import DatasetOptions, ManyLayerOptions, PlanLimits, PlanOutput, TargetOptions
from optimizer.commands.solve_request import SolveRequest


@command(example="moeplan solve traces/ --layer 12 --time-limit 60 -o plan.json")
def solve(
    target: TargetOptions,
    given: LayerInput,
    limits: PlanLimits,
    search: SearchOptions,
    many: ManyLayerOptions,
    datasets: DatasetOptions,
    output: PlanOutput,
    figures: JsonOptions,
) -> None:
    """Plan layers, and judge the plan on requests that it was not made from.

    Seeds, a formulation, descents for even routing, annealing for optimal routing and exchanges of devices for the
    sake of the network plan on train batches. What is best on selection batches becomes the plan, with its routing
    policy; all figures printed are of test batches. The three share no request. Ctrl-C ends the search, not the
    command; a second Ctrl-C ends the command at once. Where TRACES are counts without tokens, the expected load is
    planned and judged instead.

    Several layers are planned at once and share the time: first seeds are judged for all of them, which decides on the
    routing policy, then layers far above their bound get more time than others.
    """
    from optimizer.api.results import PlannedLayer
    from optimizer.files import check_writable, write_whole
    from optimizer.planning.plan_file import write_plan

    check_writable(output.output, "output")
    if datasets.matrix is not None:
        check_writable(datasets.matrix, "matrix")
    given = given.filled()
    constraints = limits.replicas.constraints(limits.more.max_row_traffic)
    options = solve_options(search, given.seed, given.cost, constraints, given.server, limits.more.max_rerouted)
    request = SolveRequest(target, given, options, many, datasets)
    files = request.own_files(output.output)
    with progress(search.time_limit) as tell:
        found = request.planned(tell)
    write_plan(output.output, found.plan)
    for path, plan in request.own_plans(found, files):
        write_plan(path, plan)
    if datasets.matrix is not None:
        write_whole(datasets.matrix, request.page(found))
    placements = [part.placement for part in found.plan.layers.values()]
    say(found.notes)
    warn(given.server.to_server().warnings(found.plan.policy, found.plan.model, placements))
    if figures.as_json:
        show_json({"plan": str(output.output), **found.as_json()})
        return
    show(found.parts())
    ending = "The last row is the plan, written" if isinstance(found, PlannedLayer) else "The plan is written"
    click.echo(f"{ending} to {', '.join(map(str, [output.output, *files.values()]))}.")
