"""Everything that seeds and searches read for one layer."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Bools, Ints
from optimizer.domain.arrays import frozen
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.errors import InputError


class MoveBudget(NamedTuple):
    """How far a placement may be from the one that is in force.

    current: the placement in force; most: how many expert weights devices may load, as `Placement.weights_to_load`
    counts them.
    """

    current: Placement
    most: int


class Constraints(NamedTuple):
    """The limits that a plan must keep to; `make_problem` takes them.

    shared: how many replicas each shared expert gets, None for as many as are found to be best; extra_replicas: how
    many replicas there may be beyond one of each expert; row_traffic: how many pairs per batch may come to a mesh row
    from other rows.
    """

    shared: int | str | None = None
    extra_replicas: int | None = None
    row_traffic: float | None = None


UNCONSTRAINED = Constraints()
"""As many replicas of shared experts as are found to be best, as many others as fit in the slots that planning finds
worth using, and any traffic between rows."""


@dataclass(frozen=True, eq=False)
class Problem:
    """One layer that is to be placed.

    load `[batch, expert]` integers: the token-expert pairs of each expert in each of the batches to plan on, or in each
    recorded step where there are counts but no tokens; it is copied and read-only. shared_replicas: how many replicas
    each shared expert gets, spread evenly over the rows; None treats it like a routed expert. extra_replicas: how many
    replicas the experts whose count is not fixed may have beyond one each; None allows as many as fit.
    most_row_traffic: how many pairs per batch may come to a mesh row from other rows, as the row assignment counts
    them. start: a placement from which the search starts too. layers_before: the placements of the model's layers
    before this one, by layer id, None where one is not known; empty for a layer of its own. any_shared: whether a plan
    may give shared experts other numbers of replicas, so that constructions alone begin with shared_replicas. budget:
    how far placements may be from one that is in force, None for any distance. Raises ValueError for a load of another
    shape.
    """

    model: Model
    mesh: Mesh
    cost: Cost
    load: Ints
    shared_replicas: int | None
    extra_replicas: int | None = None
    most_row_traffic: float = np.inf
    start: Placement | None = None
    any_shared: bool = False
    layers_before: tuple[Placement | None, ...] = ()
    budget: MoveBudget | None = None

    def __post_init__(self) -> None:
        if self.load.ndim != 2 or self.load.shape[1] != self.model.experts:
            raise ValueError(f"load is {self.load.shape}, not [batch, expert] with {self.model.experts} experts")
        object.__setattr__(self, "load", frozen(self.load))

    @property
    def total_load(self) -> Ints:
        """Sum the pairs of each expert over all train batches, `[expert]` int64."""
        total: Ints = self.load.sum(axis=0, dtype=np.int64)
        return total

    @property
    def batch_blocks(self) -> int | None:
        """How many blocks of tokens a batch has, where the MoE op works through blocks; else None."""
        if self.cost.moe_op != "functional":
            return None
        tokens = int(self.load[0].sum()) // (self.model.top_k + self.model.shared_experts)
        return max(1, -(-tokens // self.cost.functional.block_tokens))

    @property
    def network(self) -> Network:
        """The network of this mesh on this hardware."""
        return Network.of(self.mesh, self.cost.preset.network)

    @property
    def free_counts(self) -> bool:
        """Whether the loads alone decide how many replicas each expert gets."""
        return self.shared_replicas is None

    @property
    def free_shared(self) -> bool:
        """Whether a plan may give shared experts another number of replicas than constructions do: not where replicas
        are limited, as those of shared experts do not count towards the limit."""
        return self.any_shared and self.extra_replicas is None

    @property
    def loose(self) -> "Problem":
        """The same problem with shared experts treated like routed ones, where a plan may give them any number of
        replicas; else the problem as it is."""
        return replace(self, shared_replicas=None, any_shared=False) if self.free_shared else self

    @property
    def spread(self) -> Bools:
        """Whether an expert's replica count is fixed, its replicas being spread over the rows, `[expert]`."""
        fixed = np.zeros(self.model.experts, dtype=np.bool_)
        fixed[self.model.routed_experts :] = self.shared_replicas is not None
        return fixed

    @property
    def room(self) -> str:
        """In words what limits the number of replicas, like "3 slots per device, 112 extra replicas"."""
        said = [f"{self.mesh.slots_per_device} slots per device"]
        said += [] if self.extra_replicas is None else [f"{self.extra_replicas} extra replicas"]
        said += [] if self.shared_replicas is None else [f"{self.shared_replicas} replicas of each shared expert"]
        return ", ".join(said)

    @property
    def most_free_replicas(self) -> int:
        """How many replicas all experts whose count is not fixed may have together, by the slots and the budget."""
        fixed = self.model.shared_experts * (self.shared_replicas or 0)
        room = self.mesh.slots - fixed
        if self.extra_replicas is None:
            return room
        return min(room, int((~self.spread).sum()) + self.extra_replicas)

    @property
    def most_replicas(self) -> int:
        """How many replicas all experts may have together."""
        return self.most_free_replicas + self.model.shared_experts * (self.shared_replicas or 0)

    @property
    def fills_all(self) -> bool:
        """Whether replicas are limited to a number that all slots keep to: somebody wants as many as fit."""
        return self.extra_replicas is not None and self.most_replicas == self.mesh.slots

    @property
    def least_slots(self) -> int:
        """The least number of slots of a device in which the experts fit."""
        fixed = 1 if self.any_shared else self.shared_replicas or 1
        return -(-(self.model.routed_experts + self.model.shared_experts * fixed) // self.mesh.devices)

    def on_slots(self, number: int) -> "Problem":
        """The same problem on devices with this number of slots, `least_slots` or more, where shared experts have fewer
        replicas to begin with if there is no room for as many."""
        mesh, shared = replace(self.mesh, slots_per_device=number), self.shared_replicas
        if shared is not None and self.any_shared:
            shared = min(shared, (mesh.slots - self.model.routed_experts) // self.model.shared_experts)
        return replace(self, mesh=mesh, shared_replicas=shared)

    def violations(self, placement: Placement) -> list[str]:
        """Describe every rule and constraint that a placement breaks, in a sentence each."""
        mesh, experts = self.mesh, self.model.experts
        if faults := placement.violations(experts, mesh.devices, mesh.slots_per_device):
            return faults
        counts = placement.counts(experts)
        extra, fixed = int((counts[~self.spread] - 1).sum()), counts[self.spread]
        faults = [
            f"{count} replicas of shared expert {expert} instead of {self.shared_replicas}"
            for expert, count in zip(np.flatnonzero(self.spread), fixed, strict=True)
            if count != self.shared_replicas and not self.free_shared
        ]
        if self.extra_replicas is not None and extra > self.extra_replicas:
            faults.append(f"{extra} replicas beyond one of each expert instead of {self.extra_replicas} at most")
        if self.budget is not None and (loaded := placement.weights_to_load(self.budget.current)) > self.budget.most:
            faults.append(f"{loaded} expert weights to load instead of {self.budget.most} at most")
        return faults


def check(problem: Problem, placement: Placement) -> None:
    """Raise ValueError where a placement that is to become a plan breaks a rule or a constraint."""
    if faults := problem.violations(placement):
        raise ValueError("; ".join(faults))


def make_problem(
    model: Model,
    mesh: Mesh,
    cost: Cost,
    load: Ints,
    constraints: Constraints = UNCONSTRAINED,
    layer: int = 0,
) -> Problem:
    """Check that the model fits the mesh, and make the problem of placing its experts there.

    load: as of `Problem`. layer: the layer's id in the model, whose layers before it are taken as not known. Raises
    InputError where something cannot fit.
    """
    shared, extra_replicas, row_traffic = constraints
    if model.experts > mesh.slots:
        raise InputError(
            f"{model.experts} experts do not fit in {mesh.slots} slots ({mesh.rows}x{mesh.cols} devices, "
            f"{mesh.slots_per_device} each); more slots per device or more devices are needed",
            "slots_per_device",
        )
    if isinstance(shared, int) and not model.shared_experts:
        raise InputError(f"{shared} replicas of each shared expert, but {model.name} has none", "shared_replicas")
    room = (mesh.slots - model.routed_experts) // max(model.shared_experts, 1)
    if isinstance(shared, int) and not 1 <= shared <= min(room, mesh.devices):
        raise InputError(
            f"{shared} replicas of each shared expert: between 1 and {min(room, mesh.devices)} fit on {mesh.devices} "
            f"devices with {mesh.slots} slots and {model.routed_experts} routed experts",
            "shared_replicas",
        )
    replicas = shared if isinstance(shared, int) else None if shared == "auto" else min(mesh.rows, room)
    fixed, most = replicas if model.shared_experts else None, np.inf if row_traffic is None else row_traffic
    any_shared = shared is None and fixed is not None and extra_replicas is None
    before = (None,) * layer
    return Problem(model, mesh, cost, load, fixed, extra_replicas, most, any_shared=any_shared, layers_before=before)
