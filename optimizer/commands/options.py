"""The options that several commands share, with one dataclass for each section of the help.

Methods turn the given options into the program's own types. They import these types where they run, so that help is
shown quickly.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import click

from optimizer.commands.declare import Argument, Option
from optimizer.commands.failures import BadInput

if TYPE_CHECKING:
    from optimizer.domain.hardware import Hardware
    from optimizer.domain.problem import Constraints
    from optimizer.routing.servers.abilities import Server
    from optimizer.traces.infer import ModelChoice
    from optimizer.traces.mending import Mending
    from optimizer.traces.source import TraceInput

POSITIVE = click.IntRange(min=1)
NOT_NEGATIVE = click.IntRange(min=0)
SEED = click.IntRange(0, 2**64 - 1)  # the range of seeds that a random stream takes as a part of its key

UnitName = Literal["tokens", "tiles"]
MoeOp = Literal["optimized", "functional"]
DispatchModel = Literal["link", "table", "node"]


ServerName = Literal["sglang", "vllm", "tensorrt-llm", "vllm-ascend", "tt-metal", "any"]


class SharedReplicas(click.ParamType[int | str]):
    """The type of an option that takes a number of replicas or the word auto."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """The number as an integer, or the word auto as it is. Ends the command with an error for any other value."""
        if str(value) == "auto":
            return "auto"
        if not str(value).isdecimal():
            self.fail(f"'{value}' is neither a number nor auto", param, ctx)
        return int(value)


@dataclass(frozen=True)
class TraceOptions:
    """The options that say which recorded routing is read, and how."""

    SECTION: ClassVar[str] = "Traces"
    traces: Annotated[tuple[str, ...], Argument("[TRACES]...", many=True)] = ()
    batches: Annotated[
        Path | None,
        Option(
            ("--batches",),
            "An .npz with experts [batch, token, top_k], consecutive batches of one layer, and, if wanted, "
            "source_row [batch, token] and source [batch, token] (rank or row), instead of TRACES.",
        ),
    ] = None
    format: Annotated[
        str | None,
        Option(
            ("--format",),
            "The traces' format, for instance vllm, instead of what their content shows.",
            metavar="NAME",
        ),
    ] = None
    first_moe_layer: Annotated[
        int | None,
        Option(
            ("--first-moe-layer",),
            "Model layer of the first entry of the traces' layer axis, where neither zero layers nor the model tell.",
            NOT_NEGATIVE,
        ),
    ] = None
    batch_tokens: Annotated[
        int | None,
        Option(
            ("--batch-tokens",),
            "Tokens in a batch, which are the users of a decode step; by default 512, or the plan's.",
            POSITIVE,
            essential=True,
        ),
    ] = None
    scale: Annotated[
        float | None,
        Option(
            ("--scale",),
            "What to multiply counts by that are no whole numbers, such as shares; they are then rounded.",
            click.FloatRange(min=0, min_open=True),
            "S",
        ),
    ] = None
    drop_repeats: Annotated[
        bool,
        Option(
            ("--drop-repeats",),
            "Of more than 64 equal tokens in a row, which a warm-up run leaves, keep the first.",
        ),
    ] = False
    no_op_experts: Annotated[
        int | None,
        Option(
            ("--no-op-experts",),
            "Expert ids from this one on do nothing: leave them out, and plan on counts of the others.",
            POSITIVE,
            metavar="FROM",
        ),
    ] = None
    placement: Annotated[
        Path | None,
        Option(
            ("--placement",),
            "The plan or server's placement file that was in force, where traces hold physical ids (slots).",
            metavar="FILE",
        ),
    ] = None
    strict: Annotated[
        bool, Option(("--strict",), "Refuse bad requests instead of skipping them, and whatever looks wrong.")
    ] = False

    def mending(self) -> "Mending":
        """What is left out of traces or translated while they are read. Raises InputError for a file that holds no
        placement."""
        from optimizer.planning.physical_map import read_physical_map
        from optimizer.traces.mending import Mending

        placement = None if self.placement is None else read_physical_map(self.placement, self.first_moe_layer)
        return Mending(self.drop_repeats, placement, self.no_op_experts)


@dataclass(frozen=True)
class BatchOptions:
    """The options that say how batches are made of requests, and where layers that were read are kept."""

    SECTION: ClassVar[str] = "Traces"
    row_users: Annotated[
        str | None,
        Option(("--row-users",), "Tokens of a batch from each mesh row, where rows differ.", metavar="N,N,..."),
    ] = None
    phase: Annotated[
        str | None,
        Option(
            ("--phase",),
            "What batches are made of; by default decode, or the plan's.",
            metavar="decode|prefill|mixed",
        ),
    ] = None
    cache: Annotated[
        Path | None,
        Option(
            ("--cache",),
            "Keep the layers that were read in this folder, so that the next run need not read the traces again.",
            metavar="DIR",
        ),
    ] = None


@dataclass(frozen=True)
class ModelOptions:
    """The options that say what is known of the model beside what the traces show."""

    SECTION: ClassVar[str] = "Model"
    model: Annotated[
        str | None,
        Option(
            ("--model",),
            "A model preset, or its config.json or the folder of it; by default what the traces fit, or deepseek-v3.",
            essential=True,
        ),
    ] = None
    routed_experts: Annotated[
        int | None,
        Option(("--routed-experts",), "By default the model's, or as many as the traces show.", click.INT),
    ] = None
    shared_experts: Annotated[
        int | None, Option(("--shared-experts",), "By default the model's, or 0 for an unknown model.", click.INT)
    ] = None
    top_k: Annotated[
        int | None, Option(("--top-k",), "Routed experts per token; by default the model's or the traces'.", click.INT)
    ] = None

    def choice(self) -> "ModelChoice":
        """What the user said of the model; what the user left open is inferred from the traces later."""
        from optimizer.traces.infer import ModelChoice

        return ModelChoice(self.model, self.routed_experts, self.shared_experts, self.top_k)


@dataclass(frozen=True)
class HardwareOptions:
    """The options that say which devices there are, and how they form a mesh."""

    SECTION: ClassVar[str] = "Hardware"
    hardware: Annotated[
        str | None,
        Option(
            ("--hardware",),
            "A hardware preset, or a TOML file like one; by default tt-wormhole-quad-galaxy, with --ep-size the one on "
            "which --server mostly runs.",
            essential=True,
        ),
    ] = None
    mesh: Annotated[
        str | None,
        Option(("--mesh",), "Rows x columns of devices; by default the hardware's.", metavar="RxC", essential=True),
    ] = None
    slots_per_device: Annotated[
        int | None,
        Option(("--slots",), "Expert slots per device; by default the hardware's.", click.INT, "N", essential=True),
    ] = None

    def to_hardware(self, cost: "CostOptions | None" = None) -> "Hardware":
        """The hardware that was asked for. Without cost options it has the MoE op that packs tokens per expert, and the
        hardware's own dispatch model. Raises InputError for an unknown preset or a mesh that is none."""
        from optimizer.domain.hardware import DEFAULT_HARDWARE, Hardware

        how, name = cost or CostOptions(), self.hardware or DEFAULT_HARDWARE
        return Hardware.of(name, self.mesh, self.slots_per_device, how.moe_op, how.dispatch_model, how.prices())


@dataclass(frozen=True)
class SeedOptions:
    """The option that gives the seed of all random numbers."""

    SECTION: ClassVar[str] = "Search"
    seed: Annotated[
        int,
        Option(("--seed",), "Seed of the built-in trace, the split of requests, the batches and the search.", SEED),
    ] = 0


@dataclass(frozen=True)
class CostOptions:
    """The options that say what the cost model counts, and by which models it times dispatch and compute."""

    SECTION: ClassVar[str] = "Hardware"
    unit: Annotated[
        UnitName | None,
        Option(
            ("--unit",),
            "What load-aware policies count; by default the plan's, or what the hardware's compute is paid by.",
        ),
    ] = None
    moe_op: Annotated[
        MoeOp,
        Option(("--moe-op",), "The MoE op that packs tokens per expert, or the one that leaves them in their places."),
    ] = "optimized"
    dispatch_model: Annotated[
        DispatchModel | None,
        Option(
            ("--dispatch-model",),
            "Dispatch time by the busiest ring edge, a fitted table, or GPU ports; by default the hardware's own.",
        ),
    ] = None
    price: Annotated[
        str | None,
        Option(
            ("--price",),
            "Microseconds that a batch waits for a policy's decision; by default the hardware's, by what the policy "
            "must know.",
            metavar="POLICY=US,...",
        ),
    ] = None

    def prices(self) -> dict[str, float]:
        """The prices that were given, in microseconds by policy. Raises InputError for a text that gives none."""
        from optimizer.commands.arguments import prices_named

        return prices_named(self.price)


@dataclass(frozen=True)
class ServerOptions:
    """The option that says which server a plan is for."""

    SECTION: ClassVar[str] = "Server"
    server: Annotated[
        ServerName | None,
        Option(
            ("--server",),
            "The server that a plan is for: policies are those that it runs as released, and others are refused. By "
            "default any.",
        ),
    ] = None

    def to_server(self) -> "Server":
        """The server with what it runs."""
        from optimizer.routing.servers.abilities import SERVERS

        return SERVERS[self.server or "any"]


@dataclass(frozen=True)
class ReplicaOptions:
    """The options that say how many replicas a plan may have."""

    SECTION: ClassVar[str] = "Replicas and limits"
    shared_replicas: Annotated[
        int | str | None,
        Option(
            ("--shared-replicas",),
            "Replicas of each shared expert, spread over the rows; auto treats a shared expert like a routed one. By "
            "default as many as are found to be best, one per row to begin with.",
            SharedReplicas(),
        ),
    ] = None
    extra_replicas: Annotated[
        int | None,
        Option(
            ("--replicas",),
            "Replicas beyond one of each expert, at most; those of shared experts count only with --shared-replicas "
            "auto. Slots that are left stay empty. By default as many as fit.",
            NOT_NEGATIVE,
            "N",
        ),
    ] = None

    def constraints(self, row_traffic: float | None = None) -> "Constraints":
        """The limits that a plan must keep to. row_traffic: the most pairs that may come to a mesh row from others in a
        batch, None for any number."""
        from optimizer.domain.problem import Constraints

        return Constraints(self.shared_replicas, self.extra_replicas, row_traffic)


@dataclass(frozen=True)
class JsonOptions:
    """The option that says how figures are printed."""

    SECTION: ClassVar[str] = "Output"
    as_json: Annotated[bool, Option(("--json",), "Print JSON instead of tables.", essential=True)] = False


def trace_input(traces: TraceOptions, batches: BatchOptions | None = None, seed: int | None = None) -> "TraceInput":
    """The traces that the options name, for one data set, as the program's own type. Raises BadInput where both TRACES
    and a batch file are named, and where several phases are named."""
    from optimizer.commands.arguments import format_named, row_users
    from optimizer.traces.datasets import phases_of
    from optimizer.traces.source import TraceInput

    if traces.traces and traces.batches:
        raise BadInput("TRACES and --batches exclude each other; give one of them")
    how = batches or BatchOptions()
    if len(phases_of(how.phase)) > 1:
        raise BadInput(f"--phase {how.phase} makes several data sets, for which solve alone plans; name one")
    return TraceInput(
        traces=traces.traces,
        format=format_named(traces.format),
        cache=how.cache,
        batches=traces.batches,
        first_moe_layer=traces.first_moe_layer,
        phase=how.phase,
        batch_tokens=traces.batch_tokens,
        row_users=row_users(how.row_users),
        seed=TraceInput.seed if seed is None else seed,
        strict=traces.strict,
        scale=traces.scale,
        mending=traces.mending(),
    )
