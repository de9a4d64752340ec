"""`benchmark`: heuristics against optima."""

import json
from collections.abc import Iterable
from pathlib import Path

import click

from optimizer.commands.errors import BadInput, FailedRun
from optimizer.commands.given import progress


def named(option: str, text: str | None, known: Iterable[str]) -> list[str]:
    """Some of the known names, in their order; all of them for None."""
    names = list(known)
    asked = names if text is None else [name.strip() for name in text.split(",")]
    strange = [name for name in asked if name not in names]
    if strange:
        raise BadInput(f"{option} '{strange[0]}' is not known; there are {', '.join(names)}")
    return [name for name in names if name in asked]


@click.command()
@click.argument("traces", nargs=-1)
@click.option("--family", metavar="NAME,...", help="Of expected, batches and replication; by default all.")
@click.option("--sizes", metavar="RxC,...", help="Of 1x8, 4x2, 4x4, 4x8 and 16x8 devices; by default all.")
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="Seconds for each run, of a formulation or a heuristic.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the methods; instances are the same whatever it is.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="benchmark.csv",
    show_default=True,
    help="One row per run. What it has already is not run again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")  # fmt: skip
def benchmark(traces: tuple[str, ...], family: str | None, sizes: str | None, time_limit: float, seed: int,
              output: Path, as_json: bool) -> None:  # fmt: skip
    """Compare the placement heuristics with the optimum, or with a bound on it.

    Instances are layers of the built-in generator on a ladder of meshes, and layers of TRACES, each on the smallest
    mesh that has room for its experts. Gaps are to what the formulation has proven; optimal is the share of runs
    that meet it. Families: the peak of expected load, the peak of batches that are routed at best, and the load of the
    fullest replica. The ladder takes about five minutes on two cores.
    """
    from optimizer.commands.report import benchmark as report
    from optimizer.experiments.optimality_ladder.families import FAMILIES
    from optimizer.experiments.optimality_ladder.ladder import LADDER, generated, of_trace
    from optimizer.experiments.optimality_ladder.ladder_row import LadderJournal
    from optimizer.experiments.optimality_ladder.runs import WrongAnswerError, run_all
    from optimizer.files import check_writable

    families, meshes = named("--family", family, FAMILIES), named("--sizes", sizes, LADDER)
    check_writable(output, "output")
    journal = LadderJournal(output)
    known = len(journal)
    with progress() as notify:
        read = [instance for path in traces for instance in of_trace(path, meshes, notify)]
        instances = [*generated(meshes, notify), *read]
        try:
            rows = run_all(families, instances, seed, time_limit, journal, notify)
        except WrongAnswerError as error:
            raise FailedRun(str(error)) from None
    if as_json:
        click.echo(json.dumps({"output": str(output), "figures": report.as_json(rows)}, indent=1))
        return
    report.show(rows)
    click.echo(f"{len(rows)} runs, {len(journal) - known} of them made now; each is a row of {output}.")
