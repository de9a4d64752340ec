"""The command `benchmark`, which compares placement heuristics with optima."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import click

from optimizer.commands.declare import Argument, Option, command
from optimizer.commands.failures import BadInput, FailedRun
from optimizer.commands.options import SEED, JsonOptions
from optimizer.commands.output import show, show_json
from optimizer.commands.progress import progress


@dataclass(frozen=True)
class LadderOptions:
    """The options that say which instances are run, and where the rows of results go."""

    SECTION: ClassVar[str] = "What to run"
    traces: Annotated[tuple[str, ...], Argument("[TRACES]...", many=True)] = ()
    family: Annotated[
        str | None,
        Option(
            ("--family",),
            "Of expected, batches and replication; by default all.",
            metavar="NAME,...",
            essential=True,
        ),
    ] = None
    sizes: Annotated[
        str | None,
        Option(
            ("--sizes",), "Of 1x8, 4x2, 4x4, 4x8 and 16x8 devices; by default all.", metavar="RxC,...", essential=True
        ),
    ] = None
    time_limit: Annotated[
        float,
        Option(
            ("--time-limit",),
            "Seconds for each run, of a formulation or a heuristic.",
            click.FloatRange(min=0.1),
            essential=True,
        ),
    ] = 10.0
    seed: Annotated[int, Option(("--seed",), "Seed of the methods; instances are the same whatever it is.", SEED)] = 0
    output: Annotated[
        Path,
        Option(("-o", "--output"), "One row per run. What it has already is not run again.", essential=True),
    ] = Path("benchmark.csv")


@command(example="moeplan benchmark --sizes 4x4 --time-limit 5 -o benchmark.csv")
def benchmark(what: LadderOptions, figures: JsonOptions) -> None:
    """Compare the placement heuristics with the optimum, or with a bound on it.

    Instances are layers of the built-in generator on a ladder of meshes, and layers of TRACES, each on the smallest
    mesh that has room for its experts. Gaps are to what the formulation has proven; optimal is the share of runs
    that meet it. Families: the peak of expected load, the peak of batches that are routed at best, and the load of the
    fullest replica. The ladder takes about five minutes on two cores.
    """
    from optimizer.experiments.optimality_ladder.families import FAMILIES
    from optimizer.experiments.optimality_ladder.ladder import LADDER, generated, of_trace
    from optimizer.experiments.optimality_ladder.ladder_row import LadderJournal
    from optimizer.experiments.optimality_ladder.runs import WrongAnswerError, run_all
    from optimizer.files import check_writable
    from optimizer.report import benchmark as report

    families, meshes = _named("--family", what.family, FAMILIES), _named("--sizes", what.sizes, LADDER)
    check_writable(what.output, "output")
    journal = LadderJournal(what.output)
    known = len(journal)
    with progress() as tell:
        read = [instance for path in what.traces for instance in of_trace(path, meshes, tell)]
        instances = [*generated(meshes, tell), *read]
        try:
            rows = run_all(families, instances, what.seed, what.time_limit, journal, tell)
        except WrongAnswerError as error:
            raise FailedRun(str(error)) from None
    if figures.as_json:
        show_json({"output": str(what.output), "figures": report.as_json(rows)})
        return
    show(report.parts(rows))
    click.echo(f"{len(rows)} runs, {len(journal) - known} of them made now; each is a row of {what.output}.")


def _named(option: str, text: str | None, known: Iterable[str]) -> list[str]:
    """The names in a text, separated by commas there, in the order of the known names; all known names where no text is
    given. Raises BadInput, which names the option, for a name that is not known."""
    names = list(known)
    asked = names if text is None else [name.strip() for name in text.split(",")]
    strange = [name for name in asked if name not in names]
    if strange:
        raise BadInput(f"{option}: '{strange[0]}' is not known; there are {', '.join(names)}")
    return [name for name in names if name in asked]
