"""The command `simulate`, which runs a plan through the simulator."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import click

from optimizer.commands.declare import Option, command
from optimizer.commands.failures import BadInput
from optimizer.commands.options import CostOptions, JsonOptions, ServerOptions
from optimizer.commands.output import say, show, show_json, warn
from optimizer.commands.progress import progress
from optimizer.commands.run_options import PlanArgument, RunOptions, hardware_of
from optimizer.commands.trace_options import BatchOptions, TraceOptions, trace_input


@dataclass(frozen=True)
class PolicyOptions:
    """The options that say under which routing policies and with which capacity the plan is judged."""

    SECTION: ClassVar[str] = "Routing"
    routing: Annotated[
        str | None,
        Option(
            ("--routing",),
            "Judge this policy, several (comma-separated) or all, instead of the plan's, or those that --server runs.",
            essential=True,
        ),
    ] = None
    capacity_factor: Annotated[
        float | None,
        Option(
            ("--capacity-factor",),
            "Let a replica take this many times its even part of the pairs, and reroute what is beyond; by default the "
            "plan's, if it has one.",
            click.FloatRange(min=0, min_open=True),
        ),
    ] = None


@dataclass(frozen=True)
class MapOptions:
    """The option that asks for a map of the mesh."""

    SECTION: ClassVar[str] = "Output"
    as_map: Annotated[
        bool,
        Option(
            ("--map",),
            "Print a map of the mesh, too, with the mean load of each device.",
            essential=True,
        ),
    ] = False


@dataclass(frozen=True)
class LayerOptions:
    """The option that says which layers of the plan are run."""

    SECTION: ClassVar[str] = "Plan"
    layer: Annotated[
        str, Option(("--layer",), "Layers of the plan to run: 12, or 12,15, or 3-60, or all.", metavar="LAYERS")
    ] = "all"


@command(example="moeplan simulate plan.json traces/ --routing all")
def simulate(
    plan: PlanArgument,
    layers: LayerOptions,
    traces: TraceOptions,
    batches: BatchOptions,
    policies: PolicyOptions,
    server: ServerOptions,
    cost: CostOptions,
    conditions: RunOptions,
    mesh: MapOptions,
    figures: JsonOptions,
) -> None:
    """Run the layers of PLAN through the token-dispatch simulator.

    All requests of TRACES count, unless the plan was made from these very traces: then its test requests alone do.
    Policies: primary, even-ideal (round robin over the whole batch), even-source (round robin inside each source),
    near-source (the same, but near replicas more often), hash, nearest (fewest hops), table (a learned dispatch
    table), weights (learned shares), capacity-fill, least-loaded, optimal (least peak, then fewest hops), least-active
    (fewest experts to work on, where reading their weights takes longest); by recent
    loads hint (shares), hint-table, hint-random and hint-device (to the device that has had least); and what servers
    do: sglang-static, sglang-dynamic, sglang-rows, vllm, tensorrt-llm, vllm-ascend.
    """
    from optimizer.api.judging import simulate as run
    from optimizer.commands.arguments import layer_ids, server_policies
    from optimizer.planning.plan_file import read_plan
    from optimizer.report.terminal_map import map_parts

    if mesh.as_map and figures.as_json:
        raise BadInput("--map and --json exclude each other; give one of them")
    read = read_plan(plan.plan)
    factor = read.capacity_factor if policies.capacity_factor is None else policies.capacity_factor
    if conditions.drop and factor is None:
        raise BadInput("--drop goes with --capacity-factor: without a capacity no pair is in want of room")
    base = replace(conditions.conditions(read, cost), capacity_factor=factor)
    on, text = server.to_server(), policies.routing or ("all" if server.to_server().own_rule else read.policy)
    trials = [replace(base, routing=name) for name in server_policies(text, on)]
    given, wanted = trace_input(traces, batches), layer_ids(layers.layer)
    with progress() as tell:
        found = run(read, given, trials, hardware_of(read, cost), conditions.batch_count, tell, wanted)
    placements = [read.layers[layer].placement for layer in found.reports]
    say(found.notes)
    warn(on.warnings(trials[0].routing, read.model, placements))
    if figures.as_json:
        show_json(found.as_json())
        return
    show([*found.parts(), *(map_parts(found.reports) if mesh.as_map else [])])
