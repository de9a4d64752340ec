"""How a server shares experts out over GPUs, in the words of its own options."""

from dataclasses import dataclass, replace

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError


@dataclass(frozen=True)
class ExpertRanks:
    """`ep_size` ranks, each a GPU, that hold a model's experts and `redundant_experts` further replicas.

    A row of the mesh is a node with `gpus_per_node` of them. Raises InputError for numbers that are none, and for
    ranks that are no whole nodes.
    """

    ep_size: int
    redundant_experts: int = 0
    gpus_per_node: int = 8

    def __post_init__(self) -> None:
        for name, least in (("ep_size", 1), ("redundant_experts", 0), ("gpus_per_node", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{getattr(self, name)} is too few; at least {least} is needed", name)
        ranks, node = self.ep_size, self.gpus_per_node
        if ranks > node and ranks % node:
            fewer, more = ranks // node * node, (ranks // node + 1) * node
            most = max(size for size in range(1, node) if ranks % size == 0)
            raise InputError(
                f"{ranks} ranks are no whole number of nodes of {node} GPUs; take {fewer} or {more} ranks, or {most} "
                "GPUs per node",
                "ep_size",
            )

    def mesh(self, model: Model) -> Mesh:
        """The mesh whose rows are nodes, with as many slots as a rank has: (experts + redundant experts) / ranks.

        The experts are those that take slots. Raises InputError, with the nearest numbers of redundant experts that
        there may be, where ranks would have different numbers of slots, which no server accepts.

        Examples
        --------
        >>> print(ExpertRanks(72, 32, 8).mesh(Model("m", 256, 0, 8)))
        9x8 devices of 4 slots
        """
        slots, ranks = model.experts + self.redundant_experts, self.ep_size
        if beyond := slots % ranks:
            fewer = self.redundant_experts - beyond
            there = " or ".join(str(count) for count in (fewer, fewer + ranks) if count >= 0)
            raise InputError(
                f"{model.experts} experts and {self.redundant_experts} redundant ones are {slots} slots, which {ranks} "
                f"ranks cannot share evenly; take {there} redundant experts",
                "redundant_experts",
            )
        cols = min(ranks, self.gpus_per_node)
        return Mesh(ranks // cols, cols, slots // ranks)


def with_shared_beside(model: Model) -> Model:
    """The model on a server that keeps shared experts outside the slots, on every GPU."""
    return replace(model, shared_experts=0, shared_beside=model.shared_beside + model.shared_experts)
