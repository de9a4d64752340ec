"""Routing lines: JSONL, a line for each layer of each batch, `{layer, batch_id, origin_rows, topk_experts}`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.traces.formats.request import BadRequestError, Request
from optimizer.traces.formats.responses import Response, an_object
from optimizer.traces.formats.untrusted import (
    INTEGERS,
    LARGEST_ID,
    UnusableError,
    array_from_lists,
    count_from,
    json_values,
)


def read_routing_lines(path: Path) -> Iterator[Request | BadRequestError]:
    """Read one request for each `batch_id`, whose tokens are all output; its lines may be anywhere in the file.

    The field `origin_rows`, from where the tokens came, is not read.
    """
    batches: dict[int, dict[int, Ints]] = {}
    faults: dict[int, BadRequestError] = {}
    for where, value in json_values(path):
        try:
            line = an_object(value)
            batch, layer = (_id(line, key) for key in ("batch_id", "layer"))
        except UnusableError as error:
            yield BadRequestError(f"{where}{error}")
            continue
        try:
            _add(batches.setdefault(batch, {}), layer, line)
        except UnusableError as error:
            faults.setdefault(batch, BadRequestError(f"{where}{error}"))
    for batch, choices in batches.items():
        yield faults.get(batch) or _joined(choices)


def _id(line: Response, key: str) -> int:
    """The whole number of a field that a line must have."""
    value = count_from(line, key)
    if value is None:
        raise UnusableError(f"has no {key}")
    return value


def _add(choices: dict[int, Ints], layer: int, line: Response) -> None:
    """Add a line's `[token, k]` choices to those of the other layers of its batch."""
    experts = array_from_lists(line.get("topk_experts"), "topk_experts")
    if experts.dtype.kind not in INTEGERS or experts.ndim != 2 or experts.min() < 0 or experts.max() > LARGEST_ID:
        raise UnusableError(f"topk_experts is no [token, top_k] of expert ids from 0 to {LARGEST_ID}")
    if layer in choices:
        raise UnusableError(f"has layer {layer} of its batch a second time")
    other = next(iter(choices.values()), experts)
    if other.shape != experts.shape:
        raise UnusableError(f"topk_experts is {experts.shape} where another layer of its batch is {other.shape}")
    choices[layer] = experts.astype(np.uint16)


def _joined(choices: dict[int, Ints]) -> Request:
    """One request from the choices of its layers."""
    layers = sorted(choices)
    return Request(np.stack([choices[layer] for layer in layers], axis=1), 0, tuple(layers))
