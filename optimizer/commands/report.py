"""The command `report`, which writes a page about a plan."""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, ClassVar

import click

from optimizer.commands.declare import Option, command
from optimizer.commands.options import POSITIVE, CostOptions
from optimizer.commands.output import say
from optimizer.commands.progress import progress
from optimizer.commands.run_options import PlanArgument, hardware_of
from optimizer.commands.simulate import LayerOptions
from optimizer.commands.trace_options import BatchOptions, TraceOptions, trace_input
from optimizer.errors import InputError

if TYPE_CHECKING:
    from optimizer.planning.plan_file import Plan
    from optimizer.report.page.facts import PlanFacts
    from optimizer.report.page.pictures import Format


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


@dataclass(frozen=True)
class PictureOptions:
    """The options that say where pictures alone are written."""

    SECTION: ClassVar[str] = "Report"
    png: Annotated[
        Path | None,
        Option(
            ("--png",),
            "Write each picture of the first layer into this folder, too, for slides. Needs Chromium or Chrome.",
            metavar="DIR",
        ),
    ] = None
    svg: Annotated[Path | None, Option(("--svg",), "The same as vector graphics, for papers.", metavar="DIR")] = None

    def folders(self) -> "dict[Format, Path]":
        """The folders that were named, by the format of the pictures in them."""
        named: dict[Format, Path | None] = {"png": self.png, "svg": self.svg}
        return {form: folder for form, folder in named.items() if folder is not None}


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
    from optimizer.report.page.pictures import find_browser
    from optimizer.report.page.plan_page import plan_page
    from optimizer.report.page.request import PageRequest
    from optimizer.traces.datasets import datasets_of

    check_writable(wanted.output, "output")
    browsers = {form: find_browser(form) for form in pictures.folders()}
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
    say(facts.notes)
    write_whole(wanted.output, plan_page(facts))
    click.echo(f"The page is written to {wanted.output}.")
    for form, folder in pictures.folders().items():
        number = _write_pictures(facts, browsers[form], form, folder)
        click.echo(f"{number} pictures are written into {folder}.")


def _write_pictures(facts: "PlanFacts", browser: str, form: "Format", folder: Path) -> int:
    """Write the pictures of the first layer into a folder, which is made where it does not exist; gives how many."""
    from optimizer.files import write_whole_binary
    from optimizer.report.page.pictures import draw_pictures
    from optimizer.report.page.plan_page import sections

    drawn = draw_pictures(browser, sections(facts), facts.first.layer, form)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in drawn.items():
        write_whole_binary(folder / f"{name}.{form}", partial(_write, content))
    return len(drawn)


def _write(content: bytes, file: "IO[bytes]") -> None:
    file.write(content)


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
