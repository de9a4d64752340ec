"""The options that several commands share, with one dataclass for each section of the help.

Methods turn the given options into the program's own types. They import these types where they run, so that help is
shown quickly.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import click

from optimizer.commands.declare import Option

if TYPE_CHECKING:
    from optimizer.domain.hardware import Hardware
    from optimizer.domain.problem import Constraints
    from optimizer.routing.servers.abilities import Server
    from optimizer.traces.infer import ModelChoice

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
            "auto. Slots that are left stay empty. By default as many as fit in the slots that are used: where compute "
            "is paid for by tiles and further replicas would take longer, devices leave some of theirs empty.",
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


@dataclass(frozen=True)
class PageOptions:
    """The option that says where a page for a browser is written, besides what is printed."""

    SECTION: ClassVar[str] = "Output"
    html: Annotated[
        Path | None,
        Option(("--html",), "Write tables and pictures into this page for a browser, too.", metavar="FILE.html"),
    ] = None
