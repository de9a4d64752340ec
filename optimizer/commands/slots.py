"""The command `slots`, which prints how many extra replicas layers need."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from optimizer.commands.declare import Option, command
from optimizer.commands.layer_input import LayerInput
from optimizer.commands.options import NOT_NEGATIVE, POSITIVE, JsonOptions, ReplicaOptions
from optimizer.commands.output import say, show, show_json
from optimizer.commands.progress import progress
from optimizer.errors import InputError

if TYPE_CHECKING:
    from optimizer.domain.hardware import Hardware
    from optimizer.domain.model import Model
    from optimizer.planning.options import Progress, SolveOptions
    from optimizer.planning.replica_curves import ReplicaCurve
    from optimizer.traces.infer import ModelChoice
    from optimizer.traces.source import TraceInput


@dataclass(frozen=True)
class SlotsOptions:
    """The options that say which layers are planned, under which policy, and which budget of replicas is shared out."""

    SECTION: ClassVar[str] = "What to plan"
    layer: Annotated[
        str,
        Option(("--layer",), "Model layers: 12, or 12,15, or 3-60, or all.", metavar="LAYERS", essential=True),
    ] = "all"
    routing: Annotated[
        Literal["even-source", "optimal"],
        Option(("--routing",), "Policy that replicas are placed for and judged under.", essential=True),
    ] = "even-source"
    slot_budget: Annotated[
        int | None,
        Option(
            ("--slot-budget",),
            "Extra replicas of all layers together, to be shared out where they help most.",
            NOT_NEGATIVE,
            "N",
            essential=True,
        ),
    ] = None
    jobs: Annotated[int, Option(("--jobs",), "Processes that plan layers at once.", POSITIVE)] = 2
    csv: Annotated[
        Path | None,
        Option(("--csv",), "Write the curves of all layers into this file, too.", metavar="FILE"),
    ] = None


@command(example="moeplan slots traces/ --layer all")
def slots(target: SlotsOptions, given: LayerInput, replicas: ReplicaOptions, figures: JsonOptions) -> None:
    """Print what extra replicas win: imbalance, tiles and latency against their number, which answers how many
    redundant experts a layer needs; and for servers whose layers may differ, who should get how many of a budget.

    Every number is planned for by quick seeds, on train batches; placements and shares are chosen by latency on
    selection batches; what is printed is of test batches. Slots that are not needed stay empty. `solve` finds better
    placements, in more time.
    """
    from optimizer.files import check_writable, write_whole
    from optimizer.planning.options import SolveOptions
    from optimizer.planning.replica_curves import share_slots
    from optimizer.report import slots as report

    if target.csv is not None:
        check_writable(target.csv, "csv")
    seed, unit = given.seed.seed, given.cost.unit
    options = SolveOptions(seed=seed, routings=(target.routing,), unit=unit, constraints=replicas.constraints())
    given = given.filled()
    traces = given.trace_input()
    choice, machine = given.on_devices(traces)
    with progress() as tell:
        curves, notes = _curves(target, traces, choice, machine, options, tell)
    shares = None if target.slot_budget is None else share_slots(curves, target.slot_budget)
    if target.csv is not None:
        write_whole(target.csv, report.as_csv(curves, shares))
        notes.append(f"written: {target.csv}")
    say(notes)
    if figures.as_json:
        show_json(report.as_json(curves, shares, target.routing, machine.cost.unit))
        return
    show(report.parts(curves, shares, target.routing, machine.cost.unit))


def _curves(
    target: SlotsOptions,
    traces: "TraceInput",
    choice: "Model | ModelChoice",
    machine: "Hardware",
    options: "SolveOptions",
    tell: "Progress",
) -> "tuple[list[ReplicaCurve], list[str]]":
    """The curves of all layers in the order of the layers, and notes that the user should read. Raises InputError for
    counts, which hold no tokens to make batches of."""
    from optimizer.commands.arguments import layer_ids
    from optimizer.planning.many_layers.curves import curves_of
    from optimizer.planning.many_layers.reading import LayerReader
    from optimizer.planning.many_layers.settings import Settings
    from optimizer.planning.many_layers.workers import Workers
    from optimizer.traces.counted_source import open_counts

    if open_counts(traces, choice) is not None:
        raise InputError("slots needs token traces: with counts alone there are no batches to be balanced")
    reader = LayerReader.of(traces, choice, machine.mesh, layer_ids(target.layer), partial(tell, "reading traces"))
    wanted = [] if target.slot_budget is None else [target.slot_budget // len(reader.layers)]
    settings = Settings(reader.model, machine.mesh, machine.cost.for_model(reader.model), options)
    with Workers(target.jobs).ready() as crew:
        curves = curves_of(reader, settings, crew, wanted, tell)
    return curves, [*reader.notes, *machine.cost.notes(reader.model)]
