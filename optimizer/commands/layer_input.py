"""On what layers are planned or bounded: traces, the model, and devices in our words or in those of a server."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, get_args

from optimizer.commands.declare import Option
from optimizer.commands.failures import BadInput
from optimizer.commands.options import (
    NOT_NEGATIVE,
    POSITIVE,
    CostOptions,
    HardwareOptions,
    ModelOptions,
    SeedOptions,
    ServerName,
    ServerOptions,
)
from optimizer.commands.output import say
from optimizer.commands.trace_options import BatchOptions, TraceOptions, trace_input

if TYPE_CHECKING:
    from optimizer.domain.hardware import Hardware
    from optimizer.domain.model import Model
    from optimizer.domain.presets.schema import DeploymentPreset
    from optimizer.traces.infer import ModelChoice
    from optimizer.traces.source import TraceInput

USUAL_GPU, USUAL_OF_SERVER = "h100", {"vllm-ascend": "ascend-384"}
"""The hardware that ranks are taken to be where none is named: what the servers are most often run on [inferred]."""


@dataclass(frozen=True)
class DeploymentOptions:
    """The options that say in the words of a server how it shares experts out over GPUs."""

    SECTION: ClassVar[str] = "Server"
    ep_size: Annotated[
        int | None,
        Option(
            ("--ep-size",),
            "Ranks of --server, each a GPU, that hold the experts, instead of --mesh and --slots. Shared experts are "
            "where the server keeps them.",
            POSITIVE,
            "RANKS",
        ),
    ] = None
    redundant_experts: Annotated[
        int | None,
        Option(
            ("--redundant-experts",),
            "Replicas of all ranks beyond one of each expert; by default 0.",
            NOT_NEGATIVE,
            "N",
        ),
    ] = None
    gpus_per_node: Annotated[
        int | None,
        Option(("--gpus-per-node",), "Ranks that share a fast network; by default the hardware's.", POSITIVE, "N"),
    ] = None
    deployment: Annotated[
        str | None,
        Option(
            ("--deployment",),
            "A deployment that `moeplan presets deployments` lists: its model, hardware, server, ranks and tokens, as "
            "far as no other option says otherwise.",
        ),
    ] = None

    def filled(self, preset: "DeploymentPreset") -> "DeploymentOptions":
        """The same with what was not given taken from a preset."""
        names = ("ep_size", "redundant_experts", "gpus_per_node")
        return replace(self, **{name: getattr(preset, name) for name in names if getattr(self, name) is None})


@dataclass(frozen=True)
class LayerInput:
    """A bundle of all options that say on what a layer is planned or bounded: traces, model, devices, and the seed."""

    traces: TraceOptions
    batches: BatchOptions
    model: ModelOptions
    hardware: HardwareOptions
    cost: CostOptions
    seed: SeedOptions
    server: ServerOptions
    deployment: DeploymentOptions

    def filled(self) -> "LayerInput":
        """The same with what was not given taken from the deployment, if one is named. Raises BadInput for options that
        do not go together, and InputError for an unknown deployment."""
        named = self.deployment
        self._check()
        if named.deployment is None:
            return self
        from optimizer.domain.presets import load_deployment

        preset = load_deployment(named.deployment)
        filled = named.filled(preset)
        tokens = None if preset.tokens_per_rank is None else preset.tokens_per_rank * (filled.ep_size or 1)
        (server,) = (name for name in get_args(ServerName) if name == (self.server.server or preset.server))
        return replace(
            self,
            traces=replace(self.traces, batch_tokens=self.traces.batch_tokens or tokens),
            batches=replace(self.batches, phase=self.batches.phase or preset.phase),
            model=replace(self.model, model=self.model.model or preset.model),
            hardware=replace(self.hardware, hardware=self.hardware.hardware or preset.hardware),
            server=ServerOptions(server),
            deployment=filled,
        )

    def trace_input(self) -> "TraceInput":
        """The traces of one data set as the program's own type. Raises BadInput as the function `trace_input` does."""
        return trace_input(self.traces, self.batches, self.seed.seed)

    def on_devices(self, traces: "TraceInput") -> "tuple[Model | ModelChoice, Hardware]":
        """What is known of the model of these traces, and the devices, with the MoE op and the dispatch model that were
        asked for. Where they are named in a server's words, the model has its shared experts where the server keeps
        them. Raises InputError for sizes that do not fit."""
        if self.deployment.ep_size is None:
            return self.model.choice(), self.hardware.to_hardware(self.cost)
        from optimizer.domain.deployment import ExpertRanks, with_shared_beside
        from optimizer.domain.presets import load_hardware
        from optimizer.traces.counted_source import known_model

        model, hardware = known_model(traces, self.model.choice()), self._gpus()
        model = with_shared_beside(model) if self.server.to_server().shared_beside else model
        node = self.deployment.gpus_per_node or load_hardware(hardware.hardware or USUAL_GPU).mesh.cols
        ranks = ExpertRanks(self.deployment.ep_size, self.deployment.redundant_experts or 0, node)
        mesh = ranks.mesh(model)
        say([f"{ranks.ep_size} ranks are {mesh}; {_where_shared(model)}"])
        meshed = replace(hardware, mesh=f"{mesh.rows}x{mesh.cols}", slots_per_device=mesh.slots_per_device)
        return model, meshed.to_hardware(self.cost)

    def _gpus(self) -> HardwareOptions:
        """The hardware that was named, or else what the server is most often run on, which is said."""
        if self.hardware.hardware is not None:
            return self.hardware
        usual = USUAL_OF_SERVER.get(self.server.server or "", USUAL_GPU)
        say([f"no hardware is named: times are those of {usual}"])
        return replace(self.hardware, hardware=usual)

    def _check(self) -> None:
        """Raise BadInput for options that do not go together."""
        ranks, hardware = self.deployment, self.hardware
        words = "--deployment" if ranks.ep_size is None else "--ep-size"
        if ranks.ep_size is None and ranks.deployment is None:
            for name in ("redundant_experts", "gpus_per_node"):
                if getattr(ranks, name) is not None:
                    raise BadInput(f"--{name.replace('_', '-')} goes with --ep-size, the number of ranks")
            return
        if hardware.mesh is not None or hardware.slots_per_device is not None:
            raise BadInput(
                f"{words} says the mesh and the slots, so --mesh and --slots exclude it; give one or the other"
            )
        if ranks.deployment is None and self.server.server in (None, "any"):
            raise BadInput("--ep-size is in the words of a server; say which with --server, as servers differ in where "
                           "they keep shared experts")  # fmt: skip
        if self.server.server == "tt-metal":
            raise BadInput(f"{words} is in the words of GPU servers; for tt-metal give --mesh and --slots")


def _where_shared(model: "Model") -> str:
    """Where the shared experts of a model are, in words."""
    if model.shared_beside:
        return f"{model.shared_beside} shared expert(s) on every rank, outside the slots"
    return f"{model.shared_experts} shared expert(s) in the slots" if model.shared_experts else "no shared experts"
