"""The placement that is there now: from a plan, from a server's file, or as the server fills its slots by itself."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Constraints, Problem
from optimizer.errors import InputError
from optimizer.exchange.formats import PLAN, formats_of, read_placement
from optimizer.planning.import_plan import merged
from optimizer.planning.plan_file import read_plan
from optimizer.planning.server_rows import server_row
from optimizer.routing.hints import USUAL_HINTS, HintSettings
from optimizer.routing.servers.abilities import Server
from optimizer.search.seeds.orders import sequential

PLAIN = "even-source"
"""The policy that is taken to be in force where neither the server nor a plan tells: round robin in each source."""


@dataclass(frozen=True, eq=False)
class Present:
    """What runs now: the placement, how it routes, and both in words."""

    placement: Placement
    policy: str
    says: str
    hints: HintSettings = USUAL_HINTS

    def mesh(self, mesh: Mesh) -> Mesh:
        """This mesh with as many slots on a device as the placement has."""
        return replace(mesh, slots_per_device=self.placement.slots.shape[1])


def read_present(path: Path, layer: int, model: Model, mesh: Mesh, server: Server) -> Present:
    """The placement of one layer in a plan or in a server's file.

    Raises InputError, of the field `placement`, for a file that lacks the layer, is for other devices, or has a
    placement that breaks a rule. A second copy of an expert on a device counts as an empty slot.
    """
    try:
        present = (
            _of_plan(path, layer, server) if formats_of(path) == [PLAN] else _of_file(path, layer, model, mesh, server)
        )
    except InputError as error:
        said = str(error)
        raise InputError(said if said.startswith(f"{path}: ") else f"{path}: {said}", "placement") from None
    slots = present.placement.slots
    if len(slots) != mesh.devices:
        raise InputError(
            f"{path}: is for {len(slots)} devices, not for the {mesh.devices} of {mesh.rows}x{mesh.cols}", "placement"
        )
    if found := present.placement.violations(model.experts, mesh.devices, slots.shape[1]):
        raise InputError(f"{path}: layer {layer}: {found[0]}", "placement")
    return present


def _of_plan(path: Path, layer: int, server: Server) -> Present:
    plan = read_plan(path)
    if layer not in plan.layers:
        raise InputError(f"has no layer {layer}; it has {', '.join(map(str, sorted(plan.layers)))}")
    runs = not server.own_rule or plan.policy in server.policies
    policy = plan.policy if runs else server.policies[0]
    return Present(plan.layers[layer].placement, policy, f"the plan {path.name}", plan.hints or USUAL_HINTS)


def _of_file(path: Path, layer: int, model: Model, mesh: Mesh, server: Server) -> Present:
    placement = read_placement(path).numbered(model.first_moe_layer).on_ranks(mesh.devices)
    placement.row(layer)  # raises where there is none
    by_rank, _ = merged(placement.by_rank())
    policy = server.policies[0] if server.own_rule else PLAIN
    return Present(Placement(by_rank[placement.layers.index(layer)]), policy, f"the placement of {path.name}")


def default_present(problem: Problem, server: Server) -> Present:
    """What a server does by itself with these slots: experts in order, and in slots that are left the first ones again.

    Where files may leave slots empty, and for any server, it is experts in order without replicas, shared ones once in
    each mesh row.
    """
    mesh, experts = problem.mesh, problem.model.experts
    if server.names_all:
        bare = replace(problem, extra_replicas=0, any_shared=False)
        policy = server.policies[0] if server.own_rule else PLAIN
        return Present(sequential(bare), policy, "experts in order, without replicas")
    slots = server_row(server.name, experts, mesh.slots_per_device, mesh).reshape(mesh.devices, -1)
    redundant = mesh.slots - experts
    says = f"{server.title}'s own order of experts" + (f", {redundant} of them twice" if redundant else "")
    return Present(Placement(slots), server.policies[0], says)


def extra_of(placement: Placement, problem: Problem) -> int:
    """How many replicas a placement has beyond one of each expert, shared ones with a fixed number left out."""
    counts = placement.counts(problem.model.experts)
    return int((counts[~problem.spread] - 1).sum())


def constrained(server: Server, extra: int) -> Constraints:
    """The limits of a plan with so many extra replicas: none where all slots must be filled, as the slots say it."""
    return Constraints(extra_replicas=extra) if server.names_all else Constraints()


def room_for(server: Server, model: Model, mesh: Mesh, extra: int) -> tuple[Mesh, int]:
    """The mesh with slots for so many extra replicas, and how many there will be.

    Where a server fills all slots, they are rounded up so that all devices have equally many. Else the slots that are
    there are used first, and only then more are needed.
    """
    needed = -(-(model.experts + extra) // mesh.devices)
    if server.names_all:
        return replace(mesh, slots_per_device=max(needed, mesh.slots_per_device)), extra
    return replace(mesh, slots_per_device=needed), int(np.int64(needed * mesh.devices - model.experts))
