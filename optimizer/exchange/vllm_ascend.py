"""vllm-ascend's expert map, for `expert_map_path` of its `eplb_config`, as of version 0.23.

`{"moe_layer_count", "layer_list": [...]}` with `{"layer_id", "device_count", "device_list": [...]}` for each layer and
`{"device_id", "device_expert": [S]}` for each device.
The server reads layers and devices by their place in the lists and takes no note of the ids beside them.
"""

import json
from pathlib import Path
from typing import Any

from optimizer.errors import InputError
from optimizer.exchange.arrays import experts_in
from optimizer.exchange.reading import check_layers, json_of, kind, object_of, table_of, whole_number
from optimizer.exchange.server_placement import ServerPlacement

NAME = "vllm-ascend"


def read(path: Path) -> ServerPlacement:
    """The placement in a file. Raises InputError for what is no such file."""
    value = object_of(json_of(path), str(path))
    layers = _listed(value, "layer_list", str(path))
    count = whole_number(value.get("moe_layer_count"), f"{path}: moe_layer_count")
    if count != len(layers):
        raise InputError(f"{path}: moe_layer_count is {count}, but layer_list has {len(layers)} layers")
    check_layers(count, path)
    rows: dict[str, Any] = {}
    odd, ranks = 0, None
    for place, layer in enumerate(layers):
        where = f"{path}: layer_list[{place}]"
        devices = _devices(object_of(layer, where), where)
        ranks = len(devices) if ranks is None else ranks
        if len(devices) != ranks:
            raise InputError(f"{where} has {len(devices)} devices, but layer_list[0] has {ranks}")
        odd += layer.get("layer_id", place) != place or any(
            device.get("device_id", at) != at for at, device in enumerate(devices)
        )
        rows |= {f"device {at} of layer {place}": device.get("device_expert") for at, device in enumerate(devices)}
    table = table_of(rows, path)
    said = f"{odd} layers have ids that are not their place in the list, by which alone the server reads them"
    table = table.reshape(len(layers), -1)
    remarks = (said,) if odd else ()
    return ServerPlacement(NAME, tuple(range(count)), table, experts_in(table), ranks, "moe", remarks=remarks)


def _listed(holder: dict[str, Any], key: str, where: str) -> list[Any]:
    value = holder.get(key)
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: {key} is {kind(value) if value != [] else 'empty'} instead of a list")
    return value


def _devices(layer: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """The devices of one layer, as many as it says it has."""
    devices = [object_of(device, f"{where}.device_list") for device in _listed(layer, "device_list", where)]
    count = whole_number(layer.get("device_count"), f"{where}: device_count")
    if count != len(devices):
        raise InputError(f"{where}: device_count is {count}, but device_list has {len(devices)} devices")
    return devices


def content(placement: ServerPlacement) -> bytes:
    """The file that holds a placement of all MoE layers."""
    layers = [
        {
            "layer_id": layer,
            "device_count": len(devices),
            "device_list": [{"device_id": at, "device_expert": ids} for at, ids in enumerate(devices)],
        }
        for layer, devices in enumerate(placement.by_rank().tolist())
    ]
    return json.dumps({"moe_layer_count": len(layers), "layer_list": layers}).encode()
