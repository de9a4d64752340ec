"""The commands `export` and `import`, which turn plans into servers' files and back."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import click

from optimizer.commands.declare import Argument, Option, command
from optimizer.commands.failures import BadInput
from optimizer.commands.options import NOT_NEGATIVE, POSITIVE, ModelOptions
from optimizer.commands.output import say, warn
from optimizer.commands.run_options import PlanArgument
from optimizer.errors import InputError

if TYPE_CHECKING:
    from optimizer.exchange.formats import Format
    from optimizer.exchange.server_placement import ServerPlacement
    from optimizer.planning.export_plan import ExportSettings
    from optimizer.planning.import_plan import ImportSettings

ADVICE = {
    "shared_experts": "plan without them (solve --shared-experts 0), or leave them out with --drop-shared",
    "empty_slots": "plan without --replicas, or put further replicas there with --fill-empty",
    "replicas": "plan with --replicas 0",
    "fill": "plan all layers, or let the server's own order stand there with --fill identity",
    "hidden_layers": "say it with --hidden-layers and --first-moe-layer",
    "layer": "name one with --layer",
    "merge_doubles": "with --merge-doubles the second copy counts as an empty slot",
    "top_k": "give --top-k or --model",
    "ranks": "give --mesh, for example 4x8 for 4 nodes of 8 GPUs",
    "format": "give --from",
}
"""What to do about a fault of a plan or a file, by the field that is at fault."""


@dataclass(frozen=True)
class ExportOptions:
    """The options that say which file is written, and what is done about that which a plan does not have."""

    SECTION: ClassVar[str] = "What the file holds"
    to: Annotated[str, Option(("--to",), "The file's format: sglang, vllm, ... (docs/deploying.md).", essential=True)]
    output: Annotated[Path, Option(("-o", "--output"), "Write the file here.", essential=True)]
    fill: Annotated[
        Literal["identity", "refuse"],
        Option(
            ("--fill",),
            "What layers with experts hold that were not planned: experts in order, redundant ones as the server would "
            "have them; or refuse such a plan.",
            essential=True,
        ),
    ] = "refuse"
    drop_shared: Annotated[
        bool,
        Option(
            ("--drop-shared",),
            "Leave shared experts out of slots; where ranks then have unequal numbers of experts, routed ones get "
            "further replicas.",
        ),
    ] = False
    fill_empty: Annotated[
        bool, Option(("--fill-empty",), "Put further replicas of the hottest routed experts into empty slots.")
    ] = False
    mtp: Annotated[bool, Option(("--mtp",), "Give the layer after the last hidden one a row, too (tensorrt-llm).")] = (
        False
    )
    weighted: Annotated[bool, Option(("--weighted",), "Repeat slots in log2phy by the plan's shares (eplb).")] = False
    hidden_layers: Annotated[
        int | None,
        Option(
            ("--hidden-layers",), "Layers of the model, dense ones included, where the plan does not say.", POSITIVE
        ),
    ] = None
    first_moe_layer: Annotated[
        int | None,
        Option(("--first-moe-layer",), "The first layer with experts, where the plan does not say.", NOT_NEGATIVE),
    ] = None
    layer: Annotated[
        int | None, Option(("--layer",), "The layer of a format that holds one (tt-metal-yaml).", NOT_NEGATIVE)
    ] = None

    def settings(self) -> "ExportSettings":
        """The settings as the program's own type."""
        from optimizer.planning.export_plan import ExportSettings

        return ExportSettings(
            fill=self.fill,
            drop_shared=self.drop_shared,
            fill_empty=self.fill_empty,
            mtp=self.mtp,
            weighted=self.weighted,
            hidden_layers=self.hidden_layers,
            first_moe_layer=self.first_moe_layer,
            layer=self.layer,
        )


@command(example="moeplan export plan.json --to sglang -o expert_location.json")
def export(plan: PlanArgument, what: ExportOptions) -> None:
    """Write PLAN as the file that a server loads, checked by what the server must have.

    What the format cannot hold is refused, with what to solve for instead; notes say what the server will do with it.
    """
    from optimizer.exchange.formats import named_format, write_placement
    from optimizer.files import check_writable
    from optimizer.planning.export_plan import export_plan
    from optimizer.planning.plan_file import read_plan
    from optimizer.planning.server_warnings import warnings_of

    form = _named(what.to, "to")
    if not what.output.name.endswith(form.suffix):
        raise BadInput(f"-o: {what.output} does not end in {form.suffix}, by which {form.title} tells the file")
    check_writable(what.output, "output")
    read = read_plan(plan.plan)
    try:
        placement, notes = export_plan(read, named_format(form.name), what.settings())
    except InputError as error:
        raise advised(error) from None
    write_placement(what.output, placement)
    warnings = warnings_of(read, form, placement, what.weighted)
    say(note for note in notes if note not in warnings)
    warn(warnings)
    started = form.start.format(
        file=what.output, ranks=placement.ranks, redundant=placement.slots - read.model.routed_experts
    )
    click.echo(
        f"{what.output}: {len(placement.layers)} layers of {placement.slots} slots on {placement.ranks} ranks for "
        f"{form.title}."
    )
    click.echo(f"Used as: {started}")


@dataclass(frozen=True)
class FileArgument:
    """The argument that names a server's file, and the option that names its format."""

    SECTION: ClassVar[str] = "What is read"
    file: Annotated[Path, Argument("FILE")]
    origin: Annotated[
        str | None,
        Option(
            ("--from",), "The file's format, where its content does not tell: vllm-json, rtp-llm, ...", essential=True
        ),
    ] = None


@dataclass(frozen=True)
class ImportOptions:
    """The options that say what a server's file does not."""

    SECTION: ClassVar[str] = "What the file does not say"
    first_moe_layer: Annotated[
        int | None,
        Option(
            ("--first-moe-layer",),
            "Model layer of the first one with experts, where neither the file nor the model tells.",
            NOT_NEGATIVE,
        ),
    ] = None
    hardware: Annotated[
        str | None,
        Option(
            ("--hardware",),
            "A hardware preset, or a TOML file like one; by default h800, or what the server is known to run on.",
            essential=True,
        ),
    ] = None
    mesh: Annotated[
        str | None,
        Option(("--mesh",), "Nodes x devices of each; by default the hardware's.", metavar="RxC", essential=True),
    ] = None
    merge_doubles: Annotated[
        bool,
        Option(("--merge-doubles",), "Take the second copy of an expert on one rank as an empty slot."),
    ] = False

    def settings(self, model: ModelOptions) -> "ImportSettings":
        """The settings as the program's own type."""
        from optimizer.planning.import_plan import ImportSettings

        return ImportSettings(model.choice(), self.first_moe_layer, self.hardware, self.mesh, self.merge_doubles)


@dataclass(frozen=True)
class PlanOutput:
    """The option that names the plan file that is written."""

    SECTION: ClassVar[str] = "Output"
    output: Annotated[Path, Option(("-o", "--output"), "Write the plan here.", essential=True)]


@command(example="moeplan import expert_location.json --model deepseek-v3 --mesh 4x8 -o plan.json")
def import_(source: FileArgument, model: ModelOptions, missing: ImportOptions, target: PlanOutput) -> None:
    """Make a plan of a server's FILE, to be simulated, compared, bounded, or improved by `solve --start`.

    The file's content tells its format where only one fits.
    """
    from optimizer.files import check_writable
    from optimizer.planning.import_plan import import_plan
    from optimizer.planning.plan_file import write_plan

    check_writable(target.output, "output")
    placement = placement_of(source.file, source.origin, model)
    try:
        plan, notes = import_plan(placement, missing.settings(model))
    except InputError as error:
        raise advised(InputError(f"{source.file}: {error}", error.field)) from None
    write_plan(target.output, plan)
    say(notes)
    click.echo(
        f"{target.output}: {len(plan.layers)} layer(s) of {plan.model.name}, {plan.model.experts} experts in "
        f"{plan.mesh.slots} slots on {plan.mesh.rows}x{plan.mesh.cols} devices, routing {plan.policy}."
    )


def placement_of(path: Path, origin: str | None, model: ModelOptions) -> "ServerPlacement":
    """The placement in a server's file. origin: its format's name, None to tell it by the content; the model, if it is
    named, decides between formats that both fit. Raises BadInput for a file of no format, or of two."""
    from optimizer.domain.presets import load_model
    from optimizer.exchange.formats import format_of

    if origin is not None:
        return _named(origin, "from").read(path)
    known = load_model(model.model) if model.model else None
    try:
        form = format_of(path, *((known.layers, known.moe_layers) if known else ()))
    except InputError as error:
        raise advised(error) from None
    return form.read(path)


def _named(name: str, option: str) -> "Format":
    from optimizer.exchange.formats import named_format

    try:
        return named_format(name)
    except InputError as error:
        raise BadInput(f"--{option}: {error}") from None


def advised(error: InputError) -> BadInput | InputError:
    """The error with what to do about it, where that is known of its field; else the error as it is."""
    if error.field not in ADVICE:
        return error
    return BadInput(f"{' '.join(str(error).split())}; {ADVICE[error.field]}")
