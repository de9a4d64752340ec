"""The command `report`, which writes a page about a plan."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import click

from optimizer.commands.declare import Option, command
from optimizer.commands.options import POSITIVE, CostOptions
from optimizer.commands.output import say
from optimizer.commands.pictures import PictureOptions, write_pictures
from optimizer.commands.progress import progress
from optimizer.commands.run_options import PlanArgument, hardware_of
from optimizer.commands.simulate import LayerOptions
from optimizer.commands.trace_options import BatchOptions, TraceOptions, trace_input
from optimizer.errors import InputError

if TYPE_CHECKING:
    from optimizer.planning.plan_file import Plan


@dataclass(frozen=True)
class ReportOptions:
    """The options that say what the page compares, and where it is written."""

    SECTION: ClassVar[str] = "Report"
    output: Annotated[Path, Option(("-o", "--output"), "Write the page here.", metavar="FILE.html", essential=True)] = (
        Path("report.html")
    )
    before: Annotated[
        Path | None,
        Option(
            ("--before",),
            "A plan or a server's placement file to compare with, under its own routing; by default greedy (EPLB's "
            "scheme).",
            essential=True,
        ),
    ] = None
    routing: Annotated[
        str | None,
        Option(
            ("--routing",),
            "Judge both placements under these policies, too (comma-separated, or all); by default those that solve "
            "tries.",
        ),
    ] = None
    batch_count: Annotated[
        int | None,
        Option(("--batch-count",), "Batches to simulate; by default 1024, or all of a batch file.", POSITIVE, "N"),
    ] = None
    moves: Annotated[
        Path | None,
        Option(("--moves",), "Show the gain against moves, too, from what `rebalance --json` printed.", metavar="FILE"),
    ] = None


@command(example="moeplan report plan.json traces/ -o report.html")
def report(
    plan: PlanArgument,
    wanted: ReportOptions,
    pictures: PictureOptions,
    layers: LayerOptions,
    traces: TraceOptions,
    batches: BatchOptions,
    cost: CostOptions,
) -> None:
    """Write a page about PLAN: one HTML file that needs no network.

    The verdict comes first; then the mesh before and after, latencies by stage and policy, critical devices and links,
    hot experts, bounds, and how all of it was made. Every figure is of the batches that `simulate` would judge the plan
    on: of TRACES that the plan was made from, the test requests alone.
    """
    from optimizer.commands.arguments import layer_ids, policy_names
    from optimizer.files import check_writable, write_whole
    from optimizer.planning.options import AUTO
    from optimizer.planning.plan_file import read_plan
    from optimizer.report.page.datasets import with_datasets
    from optimizer.report.page.gather import gather
    from optimizer.report.page.moves_file import read_moves
    from optimizer.report.page.plan_page import plan_page, sections
    from optimizer.report.page.request import PageRequest
    from optimizer.traces.datasets import datasets_of

    check_writable(wanted.output, "output")
    browsers = pictures.browsers()
    moves = None if wanted.moves is None else read_moves(wanted.moves)
    read = read_plan(plan.plan)
    hardware = hardware_of(read, cost)
    before = None if wanted.before is None else _before(wanted.before, read)
    routings = AUTO if wanted.routing is None else tuple(policy_names(wanted.routing))
    of_model = hardware.cost.for_model(read.model)
    given = trace_input(traces, batches)
    sets = {name: replace(given, traces=paths) for name, paths in (datasets_of(given.traces) or {}).items()}
    together = replace(given, traces=tuple(path for each in sets.values() for path in each.traces)) if sets else given
    shown, count = layer_ids(layers.layer), wanted.batch_count
    asked = PageRequest(read, of_model, together, routings, before, shown, count, _typed(), curves=True)
    with progress() as tell:
        facts = with_datasets(gather(asked, tell), asked, sets, tell)
    facts = replace(facts, moves=moves)
    say(facts.notes)
    write_whole(wanted.output, plan_page(facts))
    click.echo(f"The page is written to {wanted.output}.")
    for said in write_pictures(sections(facts), browsers, facts.first.layer):
        click.echo(said)


def _before(path: Path, plan: "Plan") -> tuple[str, "Plan"]:
    """The placement of a plan or of a server's file, as a plan, under the name that the page gives it. Raises
    InputError for any other file."""
    from optimizer.exchange.formats import PLAN, formats_of, read_placement
    from optimizer.planning.import_plan import ImportSettings, import_plan
    from optimizer.planning.plan_file import read_plan
    from optimizer.traces.infer import ModelChoice

    if formats_of(path) in ([], [PLAN]):
        return path.name, read_plan(path)
    model, mesh = plan.model, plan.mesh
    known = ModelChoice(None, model.routed_experts, model.shared_experts, model.top_k)
    settings = ImportSettings(known, model.first_moe_layer, plan.hardware, f"{mesh.rows}x{mesh.cols}", True)
    try:
        return path.name, import_plan(read_placement(path), settings)[0]
    except InputError as error:
        raise InputError(f"{error}; or make a plan of it by `moeplan import`", "before") from None


def _typed() -> str:
    """The command line as it was typed, for whoever wants to make the page again."""
    from shlex import join

    return join(["moeplan", *sys.argv[1:]])
