"""The dimensions of a Mixture-of-Experts model, as far as placement and its costs need them."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from optimizer.errors import InputError

MOST_EXPERTS = 1 << 16  # so that an id takes two bytes in traces and batches

MOST_LAYERS = 10_000
"""No model comes near so many layers, and a slip of the keyboard would otherwise make a list of billions."""

WIDEST = 1 << 24
"""No model comes near so large a hidden size or expert width: a larger one is most likely a number of another thing."""


@dataclass(frozen=True)
class Model:
    """Expert ids are 0..routed_experts-1, then the shared ones; every token uses every shared expert.

    `layers` counts the layers of the model, dense ones included and multi-token prediction (MTP) ones not, and
    `first_moe_layer` is the first with experts; both are 0 where nothing is known of the model but its experts.
    `dense_layers` are the ids of layers after the first MoE layer that have no experts. The `mtp_layers` follow the
    others, have experts and run only where a server predicts several tokens at once.

    `hidden_size` is the number of values of a token's hidden state, `expert_width` the inner size of an expert, which
    has three matrices of hidden_size x expert_width parameters; both are 0 where they are not known. `shared_beside`
    shared experts take no slots and have no ids: every device has them and computes them for its own tokens.

    The routed experts form `groups`, of which one token may use `groups_per_token`; this matters to the trace generator
    only. Raises InputError for numbers that no model can have.
    """

    name: str
    routed_experts: int
    shared_experts: int
    top_k: int
    layers: int = 0
    first_moe_layer: int = 0
    groups: int = 1
    groups_per_token: int = 1
    mtp_layers: int = 0
    dense_layers: tuple[int, ...] = ()
    hidden_size: int = 0
    expert_width: int = 0
    shared_beside: int = 0

    def __post_init__(self) -> None:
        if self.routed_experts < 1 or self.shared_experts < 0:
            raise InputError(
                f"model {self.name}: {self.routed_experts} routed and {self.shared_experts} shared experts; "
                "at least 1 routed expert is needed, and no number may be negative",
                "routed_experts" if self.routed_experts < 1 else "shared_experts",
            )
        if not 1 <= self.top_k <= self.routed_experts:
            raise InputError(
                f"model {self.name}: top-{self.top_k} of {self.routed_experts} routed experts is impossible", "top_k"
            )
        if self.experts > MOST_EXPERTS or self.shared_beside > MOST_EXPERTS:
            raise InputError(
                f"model {self.name}: {self.experts + self.shared_beside} experts, shared ones included, but there may "
                f"be {MOST_EXPERTS}",
                "routed_experts",
            )
        self._check_layers()
        sizes = self.hidden_size, self.expert_width
        if not all(0 <= size <= WIDEST for size in sizes) or (0 in sizes and any(sizes)):
            raise InputError(
                f"model {self.name}: hidden size {self.hidden_size} and expert width {self.expert_width}; both must be "
                f"between 1 and {WIDEST}, or neither be known",
                "hidden_size",
            )

    def _check_layers(self) -> None:
        """Refuse numbers of layers that no model can have, and a model without any MoE layer."""
        if not (0 <= self.layers <= MOST_LAYERS and 0 <= self.mtp_layers <= MOST_LAYERS):
            said = f"{self.layers} layers and {self.mtp_layers} MTP layers; there may be 0 to {MOST_LAYERS} of each"
            raise InputError(f"model {self.name}: {said}", "layers")
        if self.layers and not self.moe_layer_ids:
            raise InputError(f"model {self.name}: none of its {self.layers} layers has experts", "layers")

    @property
    def experts(self) -> int:
        """Routed experts and those shared ones that take slots, together."""
        return self.routed_experts + self.shared_experts

    @property
    def shared_ids(self) -> range:
        """The ids of the shared experts that take slots."""
        return range(self.routed_experts, self.experts)

    @property
    def moe_layer_ids(self) -> tuple[int, ...]:
        """The ids of the layers with experts, without the MTP layers; empty where the layers are not known."""
        dense = set(self.dense_layers)
        return tuple(layer for layer in range(self.first_moe_layer, self.layers) if layer not in dense)

    @property
    def mtp_layer_ids(self) -> range:
        """The ids of the MTP layers, which follow those of all other layers."""
        return range(self.layers, self.layers + self.mtp_layers)

    @property
    def moe_layers(self) -> int:
        """How many layers have experts, without the MTP layers, or 0 where the layers are not known."""
        return len(self.moe_layer_ids)

    def check_layers(self, layers: Iterable[int]) -> None:
        """Raise InputError for the first of these layers that has no experts; MTP layers have some. Any layer is taken
        to have experts where the layers of the model are not known."""
        held = {*self.moe_layer_ids, *self.mtp_layer_ids}
        for layer in layers:
            if self.layers and layer not in held:
                more = f" and of MTP {in_stretches(self.mtp_layer_ids)}" if self.mtp_layers else ""
                known = in_stretches(self.moe_layer_ids) + more
                raise InputError(f"layer {layer} is no MoE layer of {self.name}, which are {known}", "layers")


def in_stretches(ids: Iterable[int]) -> str:
    """Ascending ids in words: `3..60` for neighbours, `1, 3, 5 .. 47` for equal steps, others one after another."""
    every = list(ids)
    steps = {after - before for before, after in pairwise(every)}
    if len(every) > 3 and len(steps) == 1 and steps != {1}:
        return f"{', '.join(map(str, every[:3]))} .. {every[-1]}"
    found: list[list[int]] = []
    for each in every:
        if found and each == found[-1][-1] + 1:
            found[-1][1:] = [each]
        else:
            found.append([each])
    return ", ".join("..".join(map(str, stretch)) for stretch in found)
