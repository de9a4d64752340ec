"""The command `stats`, which prints what traces say."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

import click

from optimizer.commands.declare import Option, command
from optimizer.commands.options import HardwareOptions, JsonOptions, ModelOptions, SeedOptions
from optimizer.commands.output import say, show, show_json
from optimizer.commands.progress import progress
from optimizer.commands.trace_options import TraceOptions, trace_input


@dataclass(frozen=True)
class StatsOptions:
    """The options that say which layers are looked at, and where all figures are written."""

    SECTION: ClassVar[str] = "What to look at"
    layer: Annotated[
        str,
        Option(
            ("--layer",), "Model layers to look at: 12, or 12,15, or 3-60, or all.", metavar="LAYERS", essential=True
        ),
    ]
    csv: Annotated[
        Path | None,
        Option(
            ("--csv",),
            "Write all figures as CSV files into this folder, too.",
            click.Path(path_type=Path, file_okay=False),
            "DIR",
            essential=True,
        ),
    ] = None


@command(example="moeplan stats traces/ --layer 12")
def stats(
    target: StatsOptions,
    traces: TraceOptions,
    model: ModelOptions,
    hardware: HardwareOptions,
    seed: SeedOptions,
    figures: JsonOptions,
) -> None:
    """Print what the traces say: what looks wrong in how they were recorded, whether enough was recorded, hot experts,
    bursts, co-activation and drift. One table per question."""
    from optimizer.commands.arguments import layer_ids
    from optimizer.report.recording import recording_parts
    from optimizer.report.statistics import as_json, tables, write_csv
    from optimizer.statistics.inspect_traces import inspect_traces

    given, machine = trace_input(traces, seed=seed.seed), hardware.to_hardware()
    with progress() as tell:
        reading = partial(tell, "reading traces")
        layers, at = layer_ids(target.layer), machine.cost.preset.network.tokens
        found = inspect_traces(given, model.choice(), layers, machine.mesh, reading, at)
    say(found.notes)
    if target.csv is not None:
        target.csv.mkdir(parents=True, exist_ok=True)
        say(f"written: {path}" for path in write_csv(target.csv, found.reports))
    if figures.as_json:
        show_json(as_json(found))
        return
    show([*recording_parts(found), *tables(found.reports)])  # figures mean little where the recording is bad
