"""`slots`: how many extra replicas layers need."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from optimizer.commands.given import cost_of, mesh_of, model_choice, named_of, progress, say
from optimizer.commands.options import (
    batch_options,
    cost_options,
    options,
    problem_options,
    replica_options,
    trace_options,
)

if TYPE_CHECKING:
    from optimizer.planning.options import Progress
    from optimizer.planning.replica_curves import ReplicaCurve

slots_options = options(
    click.option("--layer", "layers", default="all", show_default=True, metavar="LAYERS",
                 help="Model layers: 12, or 12,15, or 3-60, or all."),
    click.option("--routing", type=click.Choice(["even", "optimal"]), default="even", show_default=True,
                 help="Policy that replicas are placed for and judged under."),
    click.option("--slot-budget", type=click.IntRange(min=0), metavar="N",
                 help="Extra replicas of all layers together, to be shared out where they help most."),
    click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Processes."),
    click.option("--csv", "csv_file", type=click.Path(path_type=Path), metavar="FILE",
                 help="Write the curves of all layers into this file, too."),
)  # fmt: skip


@click.command()
@trace_options
@batch_options
@problem_options
@cost_options
@replica_options
@slots_options
def slots(slot_budget: int | None, csv_file: Path | None, as_json: bool, **given: Any) -> None:
    """Print what extra replicas win: imbalance, tiles and latency against their number, which answers how many
    redundant experts a layer needs; and for servers whose layers may differ, who should get how many of a budget.

    Every number is planned for by quick seeds, on train batches; placements and shares are chosen by latency on
    selection batches; what is printed is of test batches. Slots that are not needed stay empty. `solve` finds better
    placements, in more time.
    """
    from optimizer.commands.report import slots as report
    from optimizer.files import check_writable, write_whole
    from optimizer.planning.replica_curves import share_slots

    if csv_file is not None:
        check_writable(csv_file, "--csv")
    with progress() as notify:
        curves, notes = _curves(slot_budget, given, notify)
    shares = None if slot_budget is None else share_slots(curves, slot_budget)
    routing, unit = given["routing"], cost_of(given["hardware"], given).unit
    if csv_file is not None:
        write_whole(csv_file, report.as_csv(curves, shares))
        notes.append(f"written: {csv_file}")
    say(notes)
    if as_json:
        click.echo(json.dumps(report.as_json(curves, shares, routing, unit), indent=1))
        return
    report.show(curves, shares, routing, unit)


def _curves(
    slot_budget: int | None, given: dict[str, Any], notify: "Progress"
) -> "tuple[list[ReplicaCurve], list[str]]":
    """Of all layers in order, and what the user should read."""
    from optimizer.commands.arguments import layer_ids
    from optimizer.domain.problem import Constraints
    from optimizer.errors import InputError
    from optimizer.planning.many_layers.curves import curves_of
    from optimizer.planning.many_layers.reading import LayerReader
    from optimizer.planning.many_layers.settings import Settings
    from optimizer.planning.many_layers.workers import Workers
    from optimizer.planning.options import SolveOptions
    from optimizer.traces.source import open_counts

    named, choice, mesh = named_of(given), model_choice(given), mesh_of(given)
    if open_counts(named, choice) is not None:
        raise InputError("slots needs token traces: with counts alone there are no batches to be balanced")
    reading = lambda share: notify("reading traces", share)  # noqa: E731
    reader = LayerReader.of(named, choice, mesh, layer_ids(given["layers"]), reading)
    wanted = [] if slot_budget is None else [slot_budget // len(reader.layers)]
    options = SolveOptions(
        seed=given["seed"],
        routings=(given["routing"],),
        unit=given["unit"],
        constraints=Constraints(given["shared_replicas"], given["extra_replicas"]),
    )
    settings = Settings(reader.model, mesh, cost_of(given["hardware"], given), options)
    with Workers(given["jobs"]).ready() as crew:
        curves = curves_of(reader, settings, crew, wanted, notify)
    return curves, list(reader.notes)
