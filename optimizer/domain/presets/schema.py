"""What a preset file may say. Every section of hardware names the source of its figures.

Times are microseconds, bandwidths gigabytes (1e9 bytes) per second and device, in one direction.
"""

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator


class Section(BaseModel):
    """A section of a preset file. An unknown key is a fault, so that a misspelt constant cannot be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Sourced(Section):
    """A section that says where its figures come from."""

    source: str = Field(min_length=1)


class ModelPreset(Sourced):
    """A model's dimensions, which mean what they mean in `domain.model.Model`."""

    layers: PositiveInt
    first_moe_layer: int = Field(ge=0)
    routed_experts: PositiveInt
    shared_experts: int = Field(ge=0)
    top_k: PositiveInt
    groups: PositiveInt = 1
    groups_per_token: PositiveInt = 1
    mtp_layers: int = Field(default=0, ge=0)
    dense_layers: tuple[int, ...] = ()
    hidden_size: PositiveInt
    expert_width: PositiveInt


class DeploymentPreset(Sourced):
    """Where a model runs, in the words of the server's options.

    model, hardware: presets; server: a name of `routing.servers.abilities`. ep_size ranks, each a GPU, hold the routed
    experts and redundant_experts further replicas, each rank equally many. phase: what batches are made of.
    tokens_per_rank: in a batch, where that is published.
    """

    model: str
    hardware: str
    server: str
    phase: Literal["decode", "prefill"]
    ep_size: PositiveInt
    redundant_experts: int = Field(ge=0)
    gpus_per_node: PositiveInt
    tokens_per_rank: PositiveInt | None = None


class MeshSection(Sourced):
    """The mesh that this hardware has, unless the user names another."""

    rows: PositiveInt
    cols: PositiveInt
    slots_per_device: PositiveInt


class NetworkSection(Sourced):
    """Where tokens are before dispatch, and what they travel on.

    tokens: a token's hidden state is on all devices of its mesh row, on the row's first device, or the tokens of a row
    are shared out over its devices. links: directed rings along the mesh axes; one switch with a port in and out per
    device; or nodes of one mesh row each, with a fast network inside and a slower one between. hop_us, the latency of
    one hop, is used by the queueing model only: elsewhere it is part of the base times.
    """

    tokens: Literal["row", "column", "device"]
    links: Literal["rings", "switch", "nodes"]
    hop_us: float = Field(ge=0)


DEFAULT_NETWORK = NetworkSection(
    source="the default, as this file has no [network]: that of tt-wormhole-quad-galaxy",
    tokens="row",
    links="rings",
    hop_us=0.79,
)


class TileCompute(Sourced):
    """The staircase: an active slot pays for its first tile of tokens and for each further one.

    weight_bytes are those of one expert, None where they are not known; times do not depend on them.
    """

    kind: Literal["tiles"]
    weight_bytes: PositiveFloat | None = None
    tile_tokens: PositiveInt
    first_tile_us: PositiveFloat
    further_tile_us: PositiveFloat


class RooflineCompute(Sourced):
    """An active slot reads its expert's weights once, or multiplies for as long as that takes, whichever is longer.

    weight_bytes and flops_per_token are those of one expert; efficiency is the share of the peak that is reached.
    """

    kind: Literal["roofline"]
    weight_bytes: PositiveFloat
    memory_gigabytes_per_second: PositiveFloat
    flops_per_token: PositiveFloat
    peak_tflops: PositiveFloat
    efficiency: float = Field(gt=0, le=1)


class ExpertSection(Sourced):
    """The expert that the figures of compute, dispatch and combine are of, by the names of `domain.model.Model`.

    scales: whether these figures grow with the size of an expert: bytes and operations of an expert as hidden_size x
    expert_width, bytes of a message as hidden_size. Measured times of whole tiles do not say how they would.
    """

    hidden_size: PositiveInt
    expert_width: PositiveInt
    scales: bool


class FunctionalCompute(Sourced):
    """The functional MoE op, where tokens stay at their places in the global batch.

    Every filled slot is loaded. Then it works through each block that has any token for its expert; a block is
    `block_tokens` consecutive tokens of one source row.
    """

    block_tokens: PositiveInt
    block_us: PositiveFloat
    load_us: float = Field(ge=0)


class Transfer(Sourced):
    """The time of a transfer: a base time plus the time of the bytes over the busiest link."""

    base_us: float = Field(ge=0)
    bytes_per_token: PositiveInt


class LinkDispatch(Transfer):
    """Dispatch over ring edges: one multicast per token, ring and direction."""

    kind: Literal["link"]
    gigabytes_per_second: PositiveFloat


class LinkCombine(LinkDispatch):
    """Combine over ring edges, by unicast: one message per (token, device) or per (token, expert)."""

    message_per: Literal["device", "expert"]


class NodeTransfer(Transfer):
    """Dispatch or combine through ports, by unicast.

    local_gigabytes_per_second is the speed inside a node or at the switch, gigabytes_per_second that between nodes.
    """

    kind: Literal["node"]
    gigabytes_per_second: PositiveFloat | None = None
    local_gigabytes_per_second: PositiveFloat
    message_per: Literal["device", "expert"]


class TableDispatch(Sourced):
    """Dispatch time of one token: base_us + per_expert_us * its experts in one column + per_hop_us * hops."""

    base_us: float = Field(ge=0)
    per_expert_us: float = Field(ge=0)
    per_hop_us: float = Field(ge=0)


class RoutingPrice(Sourced):
    """How long a forward pass waits until replicas are chosen, by what the choice must know, in microseconds.

    none: nothing but a table or the token itself; own: the counts of the token's own source; hint: loads of earlier
    batches, which were gathered beside the step; batch: the loads of all sources in the very batch, which must be
    gathered and worked on while everything waits.
    """

    none_us: float = Field(default=0.0, ge=0)
    own_us: float = Field(default=0.0, ge=0)
    hint_us: float = Field(default=0.0, ge=0)
    batch_us: float = Field(ge=0)


DEFAULT_ROUTING = RoutingPrice(
    source="the default, as this file has no [routing]: that of tt-wormhole-quad-galaxy", batch_us=100.0
)


Figures = TypeVar("Figures", bound=Sourced)
"""Any section with figures."""


class HardwarePreset(Section):
    """What a MoE layer costs on this hardware, in microseconds."""

    mesh: MeshSection
    network: NetworkSection = DEFAULT_NETWORK
    expert: ExpertSection | None = None
    routing: RoutingPrice = DEFAULT_ROUTING
    compute: Annotated[TileCompute | RooflineCompute, Field(discriminator="kind")]
    functional: FunctionalCompute | None = None
    dispatch: Annotated[LinkDispatch | NodeTransfer, Field(discriminator="kind")]
    combine: Annotated[LinkCombine | NodeTransfer, Field(discriminator="kind")]
    table: TableDispatch | None = None

    def for_expert(self, hidden_size: int, expert_width: int) -> "HardwarePreset":
        """The preset with figures of an expert of this size, where its figures grow with it; else the preset itself.

        What takes the same time whatever the size (base times) stays, and so does the precision of weights and
        messages, in which the given figures are.
        """
        own = self.expert
        if own is None or not own.scales or (hidden_size, expert_width) == (own.hidden_size, own.expert_width):
            return self
        larger = hidden_size * expert_width / (own.hidden_size * own.expert_width)
        return self.model_copy(
            update={
                "expert": own.model_copy(update={"hidden_size": hidden_size, "expert_width": expert_width}),
                "compute": _scaled(self.compute, larger, "weight_bytes", "flops_per_token"),
                "dispatch": _scaled(self.dispatch, hidden_size / own.hidden_size, "bytes_per_token"),
                "combine": _scaled(self.combine, hidden_size / own.hidden_size, "bytes_per_token"),
            }
        )

    @model_validator(mode="after")
    def _scales_need_a_roofline(self) -> "HardwarePreset":
        """Tiles have measured times, which say nothing of experts of another size."""
        if self.expert is not None and self.expert.scales and self.compute.kind != "roofline":
            raise ValueError("expert.scales: must be false where compute.kind is not 'roofline'")
        return self

    @model_validator(mode="after")
    def _transfers_fit_the_links(self) -> "HardwarePreset":
        """Rings have link transfers, ports node transfers, and nodes a speed between them."""
        links = self.network.links
        kind = "link" if links == "rings" else "node"
        for name, transfer in (("dispatch", self.dispatch), ("combine", self.combine)):
            if transfer.kind != kind:
                raise ValueError(f"{name}.kind: must be '{kind}' where network.links is '{links}'")
            if links == "nodes" and transfer.gigabytes_per_second is None:
                raise ValueError(f"{name}.gigabytes_per_second: is needed where network.links is 'nodes'")
        return self


def _scaled(section: Figures, factor: float, *names: str) -> Figures:
    """The section with those of these figures multiplied that it has; one that is a whole number stays one."""
    grown = {name: type(value)(round(value * factor)) for name in names if (value := getattr(section, name, None))}
    return section.model_copy(update=grown)
