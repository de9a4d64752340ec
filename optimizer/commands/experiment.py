"""The command `experiment`, which shows what each step of optimisation wins on its own."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import click

from optimizer.commands.declare import Option, command
from optimizer.commands.options import (
    NOT_NEGATIVE,
    HardwareOptions,
    JsonOptions,
    ModelOptions,
    PageOptions,
    SeedOptions,
)
from optimizer.commands.output import say, show, show_json
from optimizer.commands.pictures import PictureOptions, write_pictures
from optimizer.commands.progress import progress
from optimizer.commands.trace_options import BatchOptions, TraceOptions, trace_input

if TYPE_CHECKING:
    from optimizer.experiments.optimisation_steps.step_row import StepRow
    from optimizer.report.page.pictures import Format


@dataclass(frozen=True)
class StepsOptions:
    """The options that say which layers are run, for how long, and where the rows of results go."""

    SECTION: ClassVar[str] = "What to run"
    layer: Annotated[
        str,
        Option(("--layer",), "Model layers: 12, or 12,15, or 3-60, or all.", metavar="LAYERS", essential=True),
    ] = "12"
    time_limit: Annotated[
        float,
        Option(
            ("--time-limit",),
            "Seconds for each search, of which there are two for a layer; judging takes about as long.",
            click.FloatRange(min=0.1),
            essential=True,
        ),
    ] = 20.0
    iterations: Annotated[
        int | None,
        Option(("--iterations",), "Moves that a search may evaluate, as in solve.", NOT_NEGATIVE, "N"),
    ] = None
    csv: Annotated[
        Path, Option(("--csv",), "One row per run. What it has already is not run again.", essential=True)
    ] = Path("experiment.csv")


@command(example="moeplan experiment traces/ --layer 12 --time-limit 20")
def experiment(
    target: StepsOptions,
    traces: TraceOptions,
    batches: BatchOptions,
    model: ModelOptions,
    hardware: HardwareOptions,
    seed: SeedOptions,
    page: PageOptions,
    pictures: PictureOptions,
    figures: JsonOptions,
) -> None:
    """Show what each step of optimisation wins, on the same test batches.

    TRACES may be data sets, each as NAME=PATH. A layer's routed experts are placed in as few slots as hold them, and
    all its experts, with replicas, in all slots: in order, by pairing, greedily, by the formulation and by search.
    Every placement is judged under even, least-loaded and optimal routing, without and with capacities. The ladder
    leads from the functional MoE op to the bound; what stands on it was chosen on selection batches.
    """
    from optimizer.commands.arguments import layer_ids
    from optimizer.experiments.optimisation_steps.run_experiment import StepsRequest
    from optimizer.experiments.optimisation_steps.run_experiment import experiment as run
    from optimizer.experiments.optimisation_steps.runs import Terms
    from optimizer.experiments.optimisation_steps.step_row import StepJournal
    from optimizer.files import check_writable
    from optimizer.report import experiment as report
    from optimizer.traces.datasets import datasets_of

    check_writable(target.csv, "csv")
    if page.html is not None:
        check_writable(page.html, "html")
    browsers = pictures.browsers()
    given = trace_input(traces, batches, seed.seed)
    sets = datasets_of(traces.traces) or {"traces" if traces.traces else "built-in": traces.traces}
    datasets = {name: replace(given, traces=paths) for name, paths in sets.items()}
    machine = hardware.to_hardware()
    request = StepsRequest(layer_ids(target.layer), model.choice(), machine.mesh, machine.cost,
                           Terms(target.time_limit, target.iterations, seed.seed))  # fmt: skip
    journal = StepJournal(target.csv)
    with progress() as tell:
        rows, notes = run(datasets, request, journal, tell)
    say(notes)
    drawn = _drawn(rows, page.html, browsers)
    if figures.as_json:
        show_json(report.as_json(rows) | {"csv": str(target.csv)})
        return
    show(report.parts(rows))
    click.echo(f"{len(rows)} runs; each is a row of {target.csv}.")
    if page.html is not None:
        click.echo(f"The page is written to {page.html}.")
    for said in drawn:
        click.echo(said)


def _drawn(rows: "list[StepRow]", html: Path | None, browsers: "dict[Format, tuple[str, Path]]") -> list[str]:
    """Write the page and its pictures, those that are asked for; gives a sentence on each folder of pictures."""
    if html is None and not browsers:
        return []
    from optimizer.files import write_whole
    from optimizer.report.page.experiment_page import experiment_page, experiment_sections

    if html is not None:
        write_whole(html, experiment_page(rows))
    return write_pictures(experiment_sections(rows), browsers)
