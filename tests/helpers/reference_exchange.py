"""A small reader of each server's placement file, written from the description of the format alone.

Each gives the experts of the slots of each layer, by the file's own layer id, as plain lists; what breaks the format's
description fails an assertion.
"""

import io
import json
from typing import Any

import numpy as np
import yaml

Layers = dict[int, list[int]]


def sglang(content: bytes) -> Layers:
    """`{"physical_to_logical_map": [L][P]}` and no other key."""
    value = json.loads(content)
    assert list(value) == ["physical_to_logical_map"]
    return dict(enumerate(value["physical_to_logical_map"]))


def lists(content: bytes) -> Layers:
    """A bare `[layers][P]`."""
    value = json.loads(content)
    assert isinstance(value, list)
    return dict(enumerate(value))


def vllm(content: bytes) -> Layers:
    """JSONL with one record; MoE index from 0 as text."""
    (line,) = content.decode().splitlines()
    record = json.loads(line)
    assert set(record) == {
        "record_type", "version", "num_redundant_experts", "num_slots", "initial_global_assignments",
    }  # fmt: skip
    assert (record["record_type"], record["version"]) == ("eplb_initial_mapping", 1)
    rows: dict[str, list[int]] = record["initial_global_assignments"]
    experts = {expert for row in rows.values() for expert in row}
    for number, (layer, row) in enumerate(rows.items()):
        assert layer == str(number)
        assert len(row) == record["num_slots"] == len(experts) + record["num_redundant_experts"]
    return {int(layer): row for layer, row in rows.items()}


def tensorrt_llm(content: bytes) -> Layers:
    """YAML with real layer ids as integers."""
    value = yaml.safe_load(content)
    assert set(value) == {"num_slots", "layer_updates_per_iter", "initial_global_assignments"}
    assert value["layer_updates_per_iter"] == 0
    rows: Layers = value["initial_global_assignments"]
    for layer, row in rows.items():
        assert type(layer) is int
        assert len(row) == value["num_slots"]
    return rows


def vllm_ascend(content: bytes) -> Layers:
    """Layers and devices by place in their lists, rectangular."""
    value = json.loads(content)
    assert set(value) == {"moe_layer_count", "layer_list"}
    assert value["moe_layer_count"] == len(value["layer_list"])
    found = {}
    for place, layer in enumerate(value["layer_list"]):
        assert set(layer) == {"layer_id", "device_count", "device_list"}
        assert layer["layer_id"] == place
        assert layer["device_count"] == len(layer["device_list"])
        assert [device["device_id"] for device in layer["device_list"]] == list(range(layer["device_count"]))
        assert len({len(device["device_expert"]) for device in layer["device_list"]}) == 1
        found[place] = [expert for device in layer["device_list"] for expert in device["device_expert"]]
    return found


def omniinfer(content: bytes) -> dict[int, list[set[int]]]:
    """int32 0/1 `[devices, MoE layers, E]`: the experts of each device, in no order."""
    pattern = np.load(io.BytesIO(content), allow_pickle=False)
    assert pattern.dtype == np.int32
    assert set(np.unique(pattern).tolist()) <= {0, 1}
    devices, layers, experts = pattern.shape
    return {
        layer: [{expert for expert in range(experts) if pattern[device, layer, expert]} for device in range(devices)]
        for layer in range(layers)
    }


def eplb(content: bytes) -> tuple[Layers, dict[tuple[int, int], list[int]]]:
    """phy2log by layer, and the entries of log2phy that logcnt counts, by layer and expert."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        assert set(arrays) == {"phy2log", "log2phy", "logcnt"}
        phy2log, log2phy, logcnt = arrays["phy2log"], arrays["log2phy"], arrays["logcnt"]
    assert {phy2log.dtype, log2phy.dtype, logcnt.dtype} == {np.dtype(np.int64)}
    entries = {}
    for layer in range(len(log2phy)):
        for expert in range(log2phy.shape[1]):
            row = log2phy[layer, expert].tolist()
            count = int(logcnt[layer, expert])
            assert row[count:] == [-1] * (len(row) - count)
            entries[layer, expert] = row[:count]
    return dict(enumerate(phy2log.tolist())), entries


def tt_metal(content: bytes) -> dict[int, list[list[int]]]:
    """The device to which each source device sends each expert, uint16, by layer."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        table, layers = arrays["expert_mapping"], arrays["layers"]
    assert table.dtype == np.uint16
    found: dict[int, list[list[int]]] = dict(zip(layers.tolist(), table.tolist(), strict=True))
    return found


def tt_metal_yaml(content: bytes) -> tuple[list[int], dict[int, list[int]]]:
    """The device of each routed expert, and the devices of each shared one."""
    value: dict[str, Any] = yaml.safe_load(content)["experts"]
    return value["expert_mapping"], value.get("shared_expert_ids_to_devices", {})
