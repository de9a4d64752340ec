"""The command `validate`, which checks a plan or a server's file."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import click

from optimizer.commands.declare import Option, command
from optimizer.commands.exchange import FileArgument, placement_of
from optimizer.commands.failures import BadInput
from optimizer.commands.options import JsonOptions, ModelOptions
from optimizer.commands.output import say, show, show_json
from optimizer.commands.progress import progress
from optimizer.commands.trace_options import BatchOptions, TraceOptions, trace_input

if TYPE_CHECKING:
    from pathlib import Path

    from optimizer.api.results import Explained
    from optimizer.domain.model import Model
    from optimizer.exchange.server_placement import ServerPlacement


@dataclass(frozen=True)
class RankOptions:
    """The option that says on how many ranks a server's file is used, where the file does not say."""

    SECTION: ClassVar[str] = "Hardware"
    mesh: Annotated[str | None, Option(("--mesh",), "Nodes x devices of each, for a server's file.", metavar="RxC")] = (
        None
    )


@dataclass(frozen=True)
class WhyOptions:
    """The options that ask why the fullest devices of a plan have as much to do as they have."""

    SECTION: ClassVar[str] = "Why"
    why: Annotated[
        bool,
        Option(
            ("--why",),
            "Of a plan: which experts and devices force the peak load of the median and of the worst batch of TRACES, "
            "whatever the routing.",
            essential=True,
        ),
    ] = False
    layer: Annotated[
        str, Option(("--layer",), "Layers of the plan to explain: 12, or 12,15, or 3-60, or all.", metavar="LAYERS")
    ] = "all"


@command(example="moeplan validate plan.json traces/ --why")
def validate(
    source: FileArgument,
    traces: TraceOptions,
    batches: BatchOptions,
    why: WhyOptions,
    model: ModelOptions,
    ranks: RankOptions,
    figures: JsonOptions,
) -> None:
    """Check FILE, a plan or a placement in any server's format. Exit code 2, and the first faults, if it may not be
    deployed.

    With --why, and TRACES as simulate takes them, it also names the experts that can only use certain devices, and
    whose load thus forces the peak: what more replicas would help.
    """
    from optimizer.exchange.formats import PLAN, formats_of

    if traces.traces and not why.why:
        raise BadInput("TRACES go with --why, which tells on them what forces the peaks of a plan")
    if source.origin is None and formats_of(source.file) in ([], [PLAN]):
        _plan(source.file, figures.as_json, _explained(source.file, traces, batches, why.layer) if why.why else None)
    elif why.why:
        raise BadInput("--why is for plans; make one of this file with moeplan import")
    else:
        _server_file(source, model, ranks.mesh, figures.as_json)


def _explained(path: "Path", traces: TraceOptions, batches: BatchOptions, layer: str) -> "Explained":
    """What forces the peaks of a plan on these traces."""
    from optimizer.api.judging import explain
    from optimizer.commands.arguments import layer_ids
    from optimizer.planning.plan_file import read_plan

    plan, given = read_plan(path), trace_input(traces, batches)
    with progress() as tell:
        found = explain(plan, given, None, tell, layer_ids(layer))
    say(found.notes)
    return found


def _plan(path: "Path", as_json: bool, explained: "Explained | None") -> None:
    """Check a plan, and say what it is of, and what forces its peaks if that was asked for."""
    from optimizer.planning.plan_file import read_plan

    read = read_plan(path)
    layers = {str(layer): {"replicas": int((part.placement.slots >= 0).sum())} for layer, part in read.layers.items()}
    if as_json:
        more = {} if explained is None else {"why": explained.as_json()}
        show_json({"valid": True, "model": read.model.name, "layers": layers} | more)
        return
    mesh = read.mesh
    click.echo(
        f"{path} is valid: {len(layers)} layer(s) of {read.model.name}, {read.model.experts} experts in "
        f"{mesh.slots} slots on {mesh.rows}x{mesh.cols} devices, routing {read.policy}."
    )
    if explained is not None:
        show(explained.parts())


def _server_file(source: FileArgument, options: ModelOptions, mesh: str | None, as_json: bool) -> None:
    """Check a server's file, and say what it is of."""
    from optimizer.domain.mesh import Mesh
    from optimizer.exchange.faults import faults
    from optimizer.exchange.formats import FORMATS
    from optimizer.planning.export_plan import several
    from optimizer.planning.import_model import known_model

    placement = placement_of(source.file, source.origin, options)
    form, known = FORMATS[placement.format], known_model(placement, options.choice())
    if mesh is not None:
        placement = placement.on_ranks(Mesh.parse(mesh, 1).devices)
    if found := faults(placement, _experts(placement, known, options), _dense(placement, known)):
        raise BadInput(f"{source.file}, {form.file}: {several(found)}")
    say([*placement.remarks, *_unchecked(placement, known)])
    if as_json:
        layers = {str(layer): {"replicas": placement.slots} for layer in placement.layers}
        show_json({"valid": True, "format": form.name, "experts": placement.experts, "layers": layers})
        return
    on = f"{placement.ranks} ranks" if placement.ranks else "ranks that it does not count"
    click.echo(
        f"{source.file} is valid, {form.file}: {len(placement.layers)} layer(s) of {placement.experts} experts in "
        f"{placement.slots} slots on {on}."
    )


def _experts(placement: "ServerPlacement", known: "Model | None", options: ModelOptions) -> int | None:
    """How many experts the file should have, where that is known."""
    from optimizer.exchange.formats import FORMATS

    routed = options.routed_experts
    if routed is not None and FORMATS[placement.format].names_shared:
        return max(routed + (options.shared_experts or 0), placement.experts)
    if routed is not None or known is None:
        return routed
    return known.experts if placement.experts == known.experts else known.routed_experts


def _dense(placement: "ServerPlacement", known: "Model | None") -> range:
    """The rows of dense layers, which may hold anything."""
    from optimizer.exchange.formats import FORMATS

    return range(known.first_moe_layer if known and FORMATS[placement.format].rows == "hidden" else 0)


def _unchecked(placement: "ServerPlacement", known: "Model | None") -> list[str]:
    """What could not be checked for want of knowing it."""
    found = []
    if placement.ranks is None:
        found.append("whether a rank has an expert twice was not checked: give the ranks with --mesh")
    if known is None:
        found.append(
            f"the file shows {placement.experts} experts; with --model or --routed-experts it is checked for more"
        )
    return found
