"""tt-metal's tables and settings.

The dispatch kernel takes a table `[source device, expert]` of uint16, the device to which each device sends each
expert's tokens; shared experts have the columns after the routed ones. An `.npz` holds these as `expert_mapping
[layer, source device, expert]` uint16, and `layers [layer]` int32, the model's ids of these layers. A device that no
source sends an expert to is not in it.

The Python layer takes YAML with `experts.expert_mapping`, the device of each routed expert, and
`experts.shared_expert_ids_to_devices`. It has no replicas of routed experts, and cuts the routed experts into as many
equal parts as there are devices.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from formulations.kit.arrays import Bools, Ints
from optimizer.errors import InputError
from optimizer.exchange.arrays import held, slots_of
from optimizer.exchange.reading import MOST_CELLS, ids_of, npz_of, object_of, whole_number
from optimizer.exchange.safe_yaml import yaml_of
from optimizer.exchange.server_placement import ServerPlacement

NAME, YAML_NAME = "tt-metal", "tt-metal-yaml"
TABLE, LAYERS = "expert_mapping", "layers"
SHARED = "shared_expert_ids_to_devices"
MOST_DEVICES = 1 << 16  # a table names devices in two bytes
EVERYWHERE = "fully_replicated"
"""tt-metal's own word for a shared expert on every device."""


def read(path: Path) -> ServerPlacement:
    """The placement in a file of tables. Raises InputError for what is no such file."""
    arrays = npz_of(path, (TABLE, LAYERS))
    if TABLE not in arrays or arrays[TABLE].ndim != 3:
        raise InputError(f"{path}: has no array {TABLE} [layer, source device, expert]")
    table = arrays[TABLE]
    layers, devices, experts = table.shape
    ids = arrays.get(LAYERS, np.arange(layers))
    if ids.shape != (layers,) or len(set(ids.tolist())) != layers or ids.min() < 0:
        raise InputError(f"{path}: {LAYERS} does not give each of {layers} layers an id of its own")
    wrong = np.argwhere((table < 0) | (table >= devices))
    if len(wrong):
        layer, source, expert = wrong[0].tolist()
        said = (
            f"device {source} sends expert {expert} of layer {int(ids[layer])} to device {table[layer, source, expert]}"
        )
        raise InputError(f"{path}: {said}, but there are {devices}")
    numbering: Any = "model" if LAYERS in arrays else "moe"
    slots = slots_of(receiving(table))
    return ServerPlacement(NAME, tuple(ids.tolist()), slots, experts, devices, numbering, dispatch=table)


def receiving(table: Ints) -> Bools:
    """Whether any source sends an expert to a device, `[layer, device, expert]`."""
    layers, devices, experts = table.shape
    found = np.zeros((layers, devices, experts), dtype=np.bool_)
    found[np.arange(layers)[:, None, None], table, np.arange(experts)] = True
    return found


def content(placement: ServerPlacement) -> bytes:
    """The file that holds the dispatch tables of a placement."""
    assert placement.dispatch is not None, "a placement without tables cannot be written as tables"
    file = io.BytesIO()
    layers = np.array(placement.layers, dtype=np.int32)
    np.savez(file, expert_mapping=placement.dispatch.astype(np.uint16), layers=layers)
    return file.getvalue()


def read_yaml(path: Path) -> ServerPlacement:
    """The placement in a file of settings, which is one for all layers. Raises InputError for what is no such file."""
    value = object_of(yaml_of(path), str(path))
    experts = object_of(value.get("experts"), f"{path}: experts")
    device_of = ids_of(experts.get(TABLE), f"{path}: experts.{TABLE}")
    if not device_of or min(device_of) < 0:
        raise InputError(f"{path}: experts.{TABLE} does not name a device for each expert")
    devices = _devices(path, value, max(device_of) + 1)
    shared = _shared(path, experts.get(SHARED), len(device_of), devices)
    if devices * (len(device_of) + len(shared)) > MOST_CELLS:
        raise InputError(f"{path}: {len(device_of)} experts on {devices} devices are more than are read")
    found = np.zeros((1, devices, len(device_of) + len(shared)), dtype=np.bool_)
    found[0, device_of, np.arange(len(device_of))] = True
    for expert, places in shared.items():
        found[0, places, expert] = True
    experts_found, routed = found.shape[2], len(device_of)
    return ServerPlacement(YAML_NAME, (0,), slots_of(found), experts_found, devices, "moe", routed=routed)


def _devices(path: Path, value: dict[str, Any], named: int) -> int:
    """How many devices there are: those of the mesh where the file gives one, else as many as are named."""
    if "mesh_shape" not in value:
        return named
    shape = ids_of(value["mesh_shape"], f"{path}: mesh_shape")
    if len(shape) != 2 or min(shape) < 1 or not named <= shape[0] * shape[1] <= MOST_DEVICES:
        raise InputError(f"{path}: mesh_shape {str(shape)[:40]} does not have the {named} devices that are named")
    return shape[0] * shape[1]


def _shared(path: Path, given: Any, routed: int, devices: int) -> dict[int, list[int]]:
    """The devices of each shared expert; their ids follow those of the routed ones."""
    if given is None or given == EVERYWHERE:
        return {} if given is None else {routed: list(range(devices))}
    found = {
        whole_number(expert, f"{path}: a key of {SHARED}"): ids_of(places, f"{path}: {SHARED}[{str(expert)[:20]}]")
        for expert, places in object_of(given, f"{path}: {SHARED}").items()
    }
    if sorted(found) != list(range(routed, routed + len(found))):
        raise InputError(f"{path}: {SHARED} has other ids than {routed} and the following, which shared experts have")
    for expert, places in found.items():
        if not places or not 0 <= min(places) <= max(places) < devices:
            raise InputError(f"{path}: {SHARED}[{expert}] does not name devices from 0 to {devices - 1}")
    return found


def content_yaml(placement: ServerPlacement) -> bytes:
    """The settings that hold a placement of one layer, whose routed experts have one replica each."""
    routed = placement.experts if placement.routed is None else placement.routed
    on = held(placement.by_rank(), placement.experts)[0]
    lines = ["experts:", f"  {TABLE}: {np.argmax(on[:, :routed], axis=0).tolist()}"]
    if routed < placement.experts:
        lines.append(f"  {SHARED}:")
        lines += [f"    {each}: {np.flatnonzero(on[:, each]).tolist()}" for each in range(routed, placement.experts)]
    return ("\n".join(lines) + "\n").encode()
