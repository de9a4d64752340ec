"""TensorRT-LLM's file of the MoE load balancer, as of version 1.2.

YAML with `num_slots`, `layer_updates_per_iter` and `initial_global_assignments`, and no other key. Layers have the
model's own ids; the server looks up every MoE layer that it runs, so that none may be missing.
"""

from pathlib import Path

from optimizer.errors import InputError
from optimizer.exchange.arrays import experts_in
from optimizer.exchange.reading import check_layers, object_of, table_of, whole_number
from optimizer.exchange.safe_yaml import yaml_of
from optimizer.exchange.server_placement import ServerPlacement

NAME = "tensorrt-llm"
KEYS = ("num_slots", "layer_updates_per_iter", "initial_global_assignments")


def read(path: Path) -> ServerPlacement:
    """The placement in a file. Raises InputError for what is no such file."""
    value = object_of(yaml_of(path), str(path))
    for key in value:
        if key not in KEYS:
            raise InputError(
                f"{path}: has a key '{str(key)[:40]}', but the server takes {', '.join(KEYS)} and no other"
            )
    for key in (KEYS[0], KEYS[2]):
        if key not in value:
            raise InputError(f"{path}: has no key '{key}'")
    updates = whole_number(value.get(KEYS[1], 0), f"{path}: {KEYS[1]}")
    slots = whole_number(value[KEYS[0]], f"{path}: num_slots", least=1)
    given = object_of(value[KEYS[2]], f"{path}: {KEYS[2]}")
    check_layers(len(given), path)
    layers = sorted(whole_number(layer, f"{path}: a layer id of {KEYS[2]}") for layer in given)
    table = table_of({f"layer {layer}": given[layer] for layer in layers}, path)
    if table.shape[1] != slots:
        raise InputError(f"{path}: num_slots is {slots}, but layer {layers[0]} lists {table.shape[1]}")
    remarks = (f"layer_updates_per_iter is {updates}: the server moves experts while it runs",) if updates else ()
    return ServerPlacement(NAME, tuple(layers), table, experts_in(table), remarks=remarks)


def content(placement: ServerPlacement) -> bytes:
    """The file that holds a placement."""
    lines = [f"num_slots: {placement.slots}", "layer_updates_per_iter: 0", "initial_global_assignments:"]
    rows = placement.physical_to_logical.tolist()
    lines += [f"  {layer}: {row}" for layer, row in zip(placement.layers, rows, strict=True)]
    return ("\n".join(lines) + "\n").encode()
