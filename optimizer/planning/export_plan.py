"""From a plan to what a server's file holds, checked by what the server must have.

A format that cannot hold a plan as it is refuses it: the error's field names the setting of `ExportSettings` by which
what does not fit is left out, or that says what the plan does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.placement import EMPTY
from optimizer.errors import InputError
from optimizer.exchange.eplb_arrays import NAME as EPLB
from optimizer.exchange.faults import faults
from optimizer.exchange.formats import Format
from optimizer.exchange.server_placement import Numbering, ServerPlacement
from optimizer.planning.export_tables import device_tables, weighted_entries
from optimizer.planning.plan_file import Plan
from optimizer.planning.server_rows import server_row
from optimizer.planning.server_warnings import warnings_of
from optimizer.planning.spare_slots import filled, loads_of, packed, routed_slots

MOST_FAULTS = 3  # in one line


@dataclass(frozen=True)
class ExportSettings:
    """What is done about that which a format asks and a plan does not have, or has and the format cannot hold.

    fill: what layers with experts hold that were not planned: "identity" gives them experts in order as the server
    would, "refuse" refuses them. drop_shared: leave shared experts out of slots, and fill the slots that so become
    uneven. fill_empty: put further replicas into empty slots. mtp: whether the server runs the layer after the last
    hidden one, too. weighted: repeat slots by the plan's shares. hidden_layers, first_moe_layer: the model's, where the
    plan does not say. layer: the one layer, of a format that holds one.
    """

    fill: Literal["identity", "refuse"] = "refuse"
    drop_shared: bool = False
    fill_empty: bool = False
    mtp: bool = False
    weighted: bool = False
    hidden_layers: int | None = None
    first_moe_layer: int | None = None
    layer: int | None = None


def export_plan(plan: Plan, form: Format, settings: ExportSettings) -> tuple[ServerPlacement, list[str]]:
    """What a file of this format holds of a plan, and what the user should know of it, in a sentence each.

    Raises InputError where the format cannot hold the plan, and where the server could not load the file.
    """
    if settings.weighted and form.name != EPLB:
        raise InputError(f"{form.title}'s files do not repeat slots by their shares; EPLB's arrays do", "weighted")
    slots, notes = _slots(plan, form, settings)
    layers, dense, numbering, more = _layers(plan, form, settings)
    notes += more
    rows = _rows(plan, form, settings, slots, layers, dense)
    experts = plan.model.experts if form.names_shared else plan.model.routed_experts
    placement = ServerPlacement(
        format=form.name,
        layers=tuple(range(len(layers))) if numbering == "moe" else tuple(layers),
        physical_to_logical=rows,
        experts=experts,
        ranks=plan.mesh.devices,
        numbering=numbering,
        dispatch=device_tables(plan, layers) if form.rows == "planned" else None,
        log2phy=weighted_entries(plan, layers, rows, slots) if settings.weighted else None,
        routed=plan.model.routed_experts,
    )
    if found := faults(placement, dense=dense):
        raise InputError(f"{form.title} could not load the plan: {several(found)}")
    return placement, notes + warnings_of(plan, form, placement, settings.weighted)


def several(found: list[str]) -> str:
    """The first faults in one line, and how many more there are."""
    rest = f"; and {len(found) - MOST_FAULTS} more" if len(found) > MOST_FAULTS else ""
    return "; ".join(found[:MOST_FAULTS]) + rest


def _slots(plan: Plan, form: Format, settings: ExportSettings) -> tuple[dict[int, Ints], list[str]]:
    """The experts of the planned layers, `[device, slot]`, as the format can hold them, and notes on what changed."""
    before = {layer: part.placement.slots for layer, part in plan.layers.items()}
    _check_slots(plan, form, settings, any((each == EMPTY).any() for each in before.values()))
    drop = settings.drop_shared and plan.model.shared_experts > 0
    slots = packed(routed_slots(plan)) if drop else before
    notes = []
    if drop:
        freed = sum(int((each >= plan.model.routed_experts).sum()) for each in before.values())
        notes.append(f"replicas of shared experts were left out of {freed} slots")
    empty = sum(int((each == EMPTY).sum()) for each in slots.values())
    if empty and (drop or settings.fill_empty):
        loads = {layer: loads_of(part, plan.model.routed_experts) for layer, part in plan.layers.items()}
        slots = {layer: filled(each, loads[layer]) for layer, each in slots.items()}
        notes.append(f"{empty} empty slots got further replicas of routed experts")
    width = next(iter(slots.values())).shape[1]
    if width != plan.mesh.slots_per_device:
        notes.append(f"each rank has {width} slots now, not {plan.mesh.slots_per_device}")
    return slots, notes


def _check_slots(plan: Plan, form: Format, settings: ExportSettings, empty: bool) -> None:
    """Raise InputError where the format cannot hold the plan's slots and nothing says what is done about it, and where
    something is to be done that the format does not need. empty: whether any slot is empty."""
    model = plan.model
    if form.names_shared and settings.drop_shared:
        raise InputError(f"{form.title}'s files name shared experts, so that none need be left out", "drop_shared")
    if model.shared_experts and not form.names_shared and not settings.drop_shared:
        said = (
            f"the plan has {model.shared_experts} shared expert(s) in slots, but {form.title}'s files do not name them"
        )
        raise InputError(f"{said}: the server keeps them beside the slots, on every rank", "shared_experts")
    if form.empty == "yes" and settings.fill_empty:
        raise InputError(f"{form.title}'s files can leave slots empty, so that none need be filled", "fill_empty")
    if empty and form.empty == "no" and not settings.fill_empty:
        raise InputError(f"the plan leaves slots empty, but {form.title} wants an expert in every slot", "empty_slots")


def _layers(plan: Plan, form: Format, settings: ExportSettings) -> tuple[list[int], set[int], Numbering, list[str]]:
    """The model's layers that the file must have a row for, which of them are dense, how the file counts them, and
    notes."""
    if form.rows == "planned":
        return sorted(plan.layers), set(), "model", []
    if form.rows == "one":
        return [_one_layer(plan, form, settings)], set(), "moe", []
    hidden, first = _numbers(plan, form, settings)
    last = hidden + (settings.mtp and form.rows == "ids")
    notes = []
    outside = [layer for layer in sorted(plan.layers) if not first <= layer < last]
    if any(layer != hidden for layer in outside):
        said = f"the plan has layer {outside[0]}, but layers with experts are {first}..{hidden - 1}"
        raise InputError(f"{said} of {hidden}", "hidden_layers")
    if outside:
        notes.append(f"layer {hidden}, the MTP layer, is planned but left out of the file")
    if settings.mtp and form.rows != "ids":
        raise InputError(f"{form.title}'s file has no row for the MTP layer", "mtp")
    if form.rows == "hidden":
        return list(range(hidden)), set(range(first)), "model", notes
    return list(range(first, last)), set(), "moe" if form.rows == "moe" else "model", notes


def _one_layer(plan: Plan, form: Format, settings: ExportSettings) -> int:
    layer = settings.layer
    if layer is None and len(plan.layers) > 1:
        raise InputError(f"the plan has {len(plan.layers)} layers, but {form.title}'s settings hold one", "layer")
    found = next(iter(plan.layers)) if layer is None else layer
    if found not in plan.layers:
        raise InputError(f"the plan has no layer {found}; it has {', '.join(map(str, sorted(plan.layers)))}", "layer")
    routed = plan.model.routed_experts
    count = plan.layers[found].placement.counts(plan.model.experts)[:routed]
    if count.max() > 1:
        said = f"expert {int(count.argmax())} has {count.max()} replicas"
        raise InputError(f"{said}, but tt-metal's settings have one device for each routed expert", "replicas")
    return found


def _numbers(plan: Plan, form: Format, settings: ExportSettings) -> tuple[int, int]:
    """How many hidden layers the model has, and which is the first with experts."""
    model = plan.model
    if not model.layers and (settings.hidden_layers is None or settings.first_moe_layer is None):
        wanted = "all hidden layers" if form.rows == "hidden" else "all layers with experts"
        said = f"{form.title} wants {wanted}, but the plan does not say how many layers {model.name} has and which is"
        raise InputError(f"{said} the first with experts", "hidden_layers")
    hidden = model.layers if settings.hidden_layers is None else settings.hidden_layers
    first = model.first_moe_layer if settings.first_moe_layer is None else settings.first_moe_layer
    if not 0 <= first < hidden:
        raise InputError(f"layer {first} cannot be the first with experts of {hidden} layers", "first_moe_layer")
    return hidden, first


def _rows(
    plan: Plan, form: Format, settings: ExportSettings, slots: Mapping[int, Ints], layers: list[int], dense: set[int]
) -> Ints:
    """The experts of all slots of these layers, `[layer, slot]`."""
    missing = [layer for layer in layers if layer not in slots and layer not in dense]
    if missing and settings.fill == "refuse":
        named = f"{missing[0]}..{missing[-1]}" if len(missing) > 1 else str(missing[0])
        said = f"{len(missing)} layer(s) with experts between {named} are not planned"
        raise InputError(f"{said}, but {form.title} wants all of them", "fill")
    width = next(iter(slots.values())).shape[1]
    other = server_row(form.name, plan.model.routed_experts, width, plan.mesh)
    rows = [slots[layer].ravel() if layer in slots else other for layer in layers]
    return np.array(rows, dtype=np.int32)
