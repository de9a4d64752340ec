"""The dimensions of a Mixture-of-Experts model, as far as placement needs them."""

from dataclasses import dataclass

from optimizer.errors import InputError

MOST_EXPERTS = 1 << 16  # so that an id takes two bytes in traces and batches


@dataclass(frozen=True)
class Model:
    """Expert ids are 0..routed_experts-1, then the shared ones; every token uses every shared expert.

    `layers` counts all layers of the model, dense ones included, and `first_moe_layer` is the first with experts;
    both are 0 where nothing is known of the model but its experts. `mtp_layers` follow those: layers with experts that
    predict further tokens, which run only where a server speculates with them, so recordings may lack them. The routed
    experts form `groups`, of which one token may use `groups_per_token`; this matters to the trace generator only.
    Raises InputError for numbers that no model can have.
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
        if self.experts > MOST_EXPERTS:
            raise InputError(
                f"model {self.name}: {self.experts} experts, shared ones included, but there may be {MOST_EXPERTS}",
                "routed_experts",
            )

    @property
    def experts(self) -> int:
        """Routed and shared experts together."""
        return self.routed_experts + self.shared_experts

    @property
    def shared_ids(self) -> range:
        """The ids of the shared experts."""
        return range(self.routed_experts, self.experts)

    @property
    def moe_layers(self) -> int:
        """How many layers have experts, MTP layers not counted, or 0 where the layers are not known."""
        return self.layers - self.first_moe_layer if self.layers else 0
