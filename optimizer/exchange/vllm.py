"""The files that are proposed for vLLM, whose releases up to 0.33 load none.

JSONL with a record `eplb_initial_mapping` (pull request 41141 of vllm-project/vllm), and a bare JSON list `[[P] per MoE
layer]` (pull request 49572). Both count MoE layers from 0.
"""

import json
from pathlib import Path
from typing import Any

from optimizer.errors import InputError
from optimizer.exchange.arrays import experts_in
from optimizer.exchange.reading import check_layers, json_of, object_of, rows_of, table_of, text_of, whole_number
from optimizer.exchange.server_placement import ServerPlacement

NAME, LISTS_NAME = "vllm", "vllm-json"
RECORD = "eplb_initial_mapping"
KEY = "initial_global_assignments"


def read(path: Path) -> ServerPlacement:
    """The placement in a file of records, of which one is a mapping. Raises InputError for what is no such file."""
    number, record = _record(path)
    where = f"{path}: line {number}"
    for key in ("version", "num_redundant_experts", "num_slots", KEY):
        if key not in record:
            raise InputError(f"{where}: has no key '{key}'")
    if whole_number(record["version"], f"{where}: version") != 1:
        raise InputError(f"{where}: is version {record['version']} of {RECORD}, but version 1 is read")
    slots = whole_number(record["num_slots"], f"{where}: num_slots", least=1)
    redundant = whole_number(record["num_redundant_experts"], f"{where}: num_redundant_experts")
    if redundant >= slots:
        raise InputError(f"{where}: {redundant} redundant experts in {slots} slots leave no room for the others")
    given = object_of(record[KEY], f"{where}: {KEY}")
    check_layers(len(given), path)
    rows = _assignments(given, where)
    table = table_of({f"layer {layer}": row for layer, row in rows.items()}, path)
    if table.shape[1] != slots:
        raise InputError(f"{where}: num_slots is {slots}, but each layer lists {table.shape[1]}")
    return ServerPlacement(NAME, tuple(rows), table, slots - redundant, numbering="moe")


def _record(path: Path) -> tuple[int, dict[str, Any]]:
    """The one record with a mapping, and the number of its line."""
    found: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(text_of(path).splitlines(), 1):
        if RECORD in line:
            value = json_of(Path(f"{path}: line {number}"), line)
            if isinstance(value, dict) and value.get("record_type") == RECORD:
                found.append((number, value))
    if len(found) != 1:
        raise InputError(f"{path}: has {len(found)} records of type {RECORD} instead of one")
    return found[0]


def _assignments(given: dict[Any, Any], where: str) -> dict[int, Any]:
    """What the record gives for each MoE layer, which are all from 0 on."""
    for layer in range(len(given)):
        if str(layer) not in given:
            odd = next(key for key in given if not (key.isdecimal() and key == str(int(key)) and int(key) < len(given)))
            raise InputError(
                f"{where}: {KEY} has no layer '{layer}' but a key '{odd[:20]}'; MoE layers count from 0 without a gap"
            )
    return {layer: given[str(layer)] for layer in range(len(given))}


def content(placement: ServerPlacement) -> bytes:
    """The file that holds a placement of all MoE layers, as one line."""
    rows = placement.physical_to_logical.tolist()
    record = {
        "record_type": RECORD,
        "version": 1,
        "num_redundant_experts": placement.slots - placement.experts,
        "num_slots": placement.slots,
        KEY: {str(layer): row for layer, row in enumerate(rows)},
    }
    return (json.dumps(record) + "\n").encode()


def read_lists(path: Path) -> ServerPlacement:
    """The placement in a file with a bare list. Raises InputError for what is no such file."""
    table = rows_of(json_of(path), path, "the list")
    return ServerPlacement(LISTS_NAME, tuple(range(len(table))), table, experts_in(table), numbering="moe")


def content_lists(placement: ServerPlacement) -> bytes:
    """The bare list that holds a placement of all MoE layers."""
    return json.dumps(placement.physical_to_logical.tolist()).encode()
