"""From a server's file to a plan, so that what a server runs can be judged, compared and improved."""

from dataclasses import dataclass, field, replace

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.network import Network
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.presets import load_hardware
from optimizer.errors import InputError
from optimizer.exchange.faults import faults
from optimizer.exchange.formats import FORMATS
from optimizer.exchange.server_placement import ServerPlacement
from optimizer.planning.export_plan import several
from optimizer.planning.import_model import model_of
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.planning.server_warnings import SERVER_OF, WEIGHTS
from optimizer.routing.context import LearnedShares
from optimizer.routing.servers.abilities import SERVERS
from optimizer.routing.tables import DispatchTable
from optimizer.traces.infer import ModelChoice

USUAL_HARDWARE = {
    "tt-metal": "tt-wormhole-quad-galaxy",
    "tt-metal-yaml": "tt-wormhole-quad-galaxy",
    "vllm-ascend": "ascend-384",
    "omniinfer": "ascend-384",
}
"""The hardware that costs are taken from where the user names none, by format; `USUAL_GPU` for all others."""

USUAL_GPU = "h800"


@dataclass(frozen=True)
class ImportSettings:
    """What a file does not say.

    model: what the user says of the model. first_moe_layer: the first layer with experts, where the model does not
    tell. hardware: a preset or a TOML file. mesh: rows x columns of its devices, None where the file or the hardware
    tells. merge_doubles: whether the second copy of an expert on a rank, which serves nothing that the first one could
    not, is taken as an empty slot.
    """

    model: ModelChoice = field(default_factory=ModelChoice)
    first_moe_layer: int | None = None
    hardware: str | None = None
    mesh: str | None = None
    merge_doubles: bool = False


def import_plan(placement: ServerPlacement, settings: ImportSettings) -> tuple[Plan, list[str]]:
    """The plan that a server's placement is, under the server's own rule, and notes for the user.

    Raises InputError where something is not known that a plan must say, and where the placement breaks a rule.
    """
    model, notes = model_of(placement, settings.model, settings.first_moe_layer)
    hardware, mesh, more = _machine(placement, settings)
    placed = placement.numbered(model.first_moe_layer).on_ranks(mesh.devices)
    dense = range(model.first_moe_layer)
    if found := faults(placed, model.experts, dense, doubles=False):
        raise InputError(several(found))
    if not settings.merge_doubles and (found := faults(placed, model.experts, dense)):
        raise InputError(several(found), "merge_doubles")
    by_rank, doubled = merged(placed.by_rank())
    more += [f"{doubled} slots with a second copy of an expert on the same rank are left empty"] if doubled else []
    plan = Plan(model, mesh, hardware, _policy(placed), {})
    tables = _tables(placed, plan.network)
    if placed.dispatch is not None and tables is None:
        plan = replace(plan, policy="nearest")
        more.append("devices of one row have different tables, but one source here: the plan is for nearest replicas")
    for row, layer in enumerate(placed.layers):
        if layer not in dense:
            table = None if tables is None else tables[row]
            plan.layers[layer] = _layer(placed, Placement(by_rank[row]), row, table)
    return plan, [*placement.remarks, *notes, *more]


def merged(by_rank: Ints) -> tuple[Ints, int]:
    """The same ids `[layer, rank, slot]` without those that a rank has in an earlier slot, and how many these were."""
    order = np.argsort(by_rank, axis=2, kind="stable")
    ordered = np.take_along_axis(by_rank, order, axis=2)
    again = np.zeros(by_rank.shape, dtype=np.bool_)
    again[:, :, 1:] = (ordered[:, :, 1:] == ordered[:, :, :-1]) & (ordered[:, :, 1:] != EMPTY)
    found = by_rank.copy()
    np.put_along_axis(found, order, np.where(again, EMPTY, ordered), axis=2)
    return found, int(again.sum())


def _machine(placement: ServerPlacement, settings: ImportSettings) -> tuple[str, Mesh, list[str]]:
    """The hardware's name, the mesh, and notes on what of them was not said."""
    hardware = settings.hardware or USUAL_HARDWARE.get(placement.format, USUAL_GPU)
    own = load_hardware(hardware).mesh
    notes = [] if settings.hardware else [f"costs are those of {hardware}; name the hardware if it is another"]
    if settings.mesh is not None:
        mesh = Mesh.parse(settings.mesh, 1)
    elif placement.ranks in (None, own.rows * own.cols) and (settings.hardware or placement.ranks):
        mesh = Mesh(own.rows, own.cols, 1)
    elif placement.ranks is None:
        raise InputError(f"the file does not say on how many ranks its {placement.slots} slots are", "ranks")
    else:
        mesh = Mesh(1, placement.ranks, 1)
        notes.append(f"the {placement.ranks} devices are taken to be one node (mesh 1x{placement.ranks})")
    slots = placement.on_ranks(mesh.devices).slots // mesh.devices
    return hardware, replace(mesh, slots_per_device=slots), notes


def _policy(placement: ServerPlacement) -> str:
    """The policy that the server runs with this file."""
    if placement.dispatch is not None:
        return "table"
    if placement.log2phy is not None:
        return WEIGHTS
    server = SERVERS.get(SERVER_OF.get(placement.format, placement.format))
    return "even-source" if server is None else server.policies[0]


def _tables(placement: ServerPlacement, network: Network) -> Ints | None:
    """The device to which each source sends, `[layer, source, expert]`, None where the file has no tables, or has
    different ones for devices that are one source."""
    if placement.dispatch is None:
        return None
    layers, devices, experts = placement.dispatch.shape
    by_source = placement.dispatch.reshape(layers, network.sources, devices // network.sources, experts)
    return None if (by_source != by_source[:, :, :1]).any() else by_source[:, :, 0]


def _layer(placement: ServerPlacement, slots: Placement, row: int, table: Ints | None) -> LayerPlan:
    """One layer, with the shares and the table that the file gives. table: devices `[source, expert]`."""
    provenance = {"imported_from": FORMATS[placement.format].title}
    learned = None
    if table is not None:
        learned = _from_table(slots, table)
    elif placement.log2phy is not None:
        learned = _from_entries(slots, placement.log2phy[row])
    return LayerPlan(slots, provenance=provenance, learned=learned)


def _from_table(placement: Placement, table: Ints) -> LearnedShares:
    """What is learned from a table of devices `[source, expert]`: all experts are taken to have equal loads."""
    flat = placement.slots.ravel()
    slot_of = np.zeros((len(placement.slots), table.shape[1]), dtype=np.int64)
    filled = np.flatnonzero(flat != EMPTY)
    slot_of[filled // placement.slots.shape[1], flat[filled]] = filled
    replica = slot_of[table, np.arange(table.shape[1])]
    share = np.bincount(replica.ravel(), minlength=flat.size) / len(table)
    return LearnedShares(
        np.ones(table.shape[1]), share.reshape(placement.slots.shape), DispatchTable(placement, replica)
    )


def _from_entries(placement: Placement, entries: Ints) -> LearnedShares:
    """What is learned from repeated slots `[expert, entry]` padded with -1: all experts are taken to have equal
    loads."""
    often = np.bincount(entries[entries != EMPTY], minlength=placement.slots.size).astype(np.float64)
    flat, experts = placement.slots.ravel(), len(entries)
    filled = np.flatnonzero(flat != EMPTY)
    whole = np.bincount(flat[filled], often[filled], minlength=experts)
    often[whole[np.maximum(flat, 0)] == 0] = 1  # an expert of which no slot is named
    whole = np.bincount(flat[filled], often[filled], minlength=experts)
    share = np.where(flat == EMPTY, 0.0, often / whole[np.maximum(flat, 0)])
    return LearnedShares(np.ones(experts), share.reshape(placement.slots.shape))
