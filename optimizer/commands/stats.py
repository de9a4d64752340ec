"""`stats`: look at traces."""

import json
from pathlib import Path
from typing import Any

import click

from optimizer.commands.given import mesh_of, model_choice, named_of, progress, say
from optimizer.commands.options import problem_options, trace_options


@click.command()
@trace_options
@problem_options
@click.option("--layer", "layers", required=True, help="Model layers to look at: 12, or 12,15, or 3-60, or all.")
@click.option(
    "--csv",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write all figures as CSV files into this folder, too.",
)
def stats(layers: str, folder: Path | None, as_json: bool, **given: Any) -> None:  # fmt: skip
    """Print what the traces say: hot experts, bursts, co-activation, drift. One table per question."""
    from optimizer.commands.arguments import layer_ids
    from optimizer.commands.report.statistics import as_json as statistics_json
    from optimizer.commands.report.statistics import tables, write_csv
    from optimizer.commands.report.tables import show_table
    from optimizer.statistics.inspect_traces import look

    with progress() as notify:
        reading = lambda share: notify("reading traces", share)  # noqa: E731
        reports, notes = look(named_of(given), model_choice(given), layer_ids(layers), mesh_of(given), reading)
    say(notes)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        say(f"written: {path}" for path in write_csv(folder, reports))
    if as_json:
        click.echo(json.dumps(statistics_json(reports), indent=1))
        return
    for table in tables(reports):
        show_table(table)
