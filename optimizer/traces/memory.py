"""Traces that are in memory already: arrays that a program gives instead of paths."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Bools, Ints
from optimizer.errors import InputError
from optimizer.traces.formats.counts import Counts
from optimizer.traces.trace import OUTPUT, RoutingTrace

MOST_IDS = 1 << 16
"""Expert ids are kept in 16 bits."""


class BatchArray(NamedTuple):
    """Explicit batches: experts `[batch, token, top_k]`, and source_row `[batch, token]` mesh rows, or None for tokens
    that are dealt out to the rows in equal stretches."""

    experts: Ints
    source_row: Ints | None


Memory = RoutingTrace | Counts | BatchArray


def batch_array(experts: Ints, source_row: Ints | None = None) -> BatchArray:
    """Explicit batches from arrays of a caller's. Raises InputError for other shapes and types."""
    _check_ids(experts, "[batch, token, top_k]")
    if source_row is not None and np.shape(source_row) != experts.shape[:2]:
        raise InputError(f"source rows are {np.shape(source_row)}, not {experts.shape[:2]}", "traces")
    return BatchArray(np.array(experts), None if source_row is None else np.array(source_row))


def trace_of_requests(requests: Sequence[Ints], first_layer: int = 0) -> RoutingTrace:
    """A trace of requests in memory, each `[token, layer, top_k]`, all of whose tokens count as output.

    A token whose ids are all -1 was not recorded. first_layer: the model's layer id of the first entry of the layer
    axis. Raises InputError for requests of other
    shapes and types, and for requests that differ in layers or top-k.
    """
    if not requests:
        raise InputError("there is no request; give at least one array [token, layer, top_k]", "traces")
    known = [_recorded(request) for request in requests]
    shapes = {request.shape[1:] for request in requests}
    if len(shapes) > 1:
        raise InputError(f"requests differ in layers and top-k: {sorted(shapes)}", "traces")
    lengths = [len(request) for request in requests]
    layers = tuple(range(first_layer, first_layer + requests[0].shape[1]))
    recorded = np.concatenate(known)
    experts = np.where(recorded[:, None, None], np.concatenate(requests), 0).astype(np.uint16)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    phase = np.full(len(experts), OUTPUT, dtype=np.uint8)
    source = f"{len(requests)} requests in memory"
    return RoutingTrace(experts, layers, offsets, phase, source, recorded=recorded)


def with_layers(trace: RoutingTrace, layers: Sequence[int]) -> RoutingTrace:
    """The trace with these layers alone. Raises InputError for a layer that the trace does not hold."""
    if tuple(layers) == trace.layers:
        return trace
    places = [trace.place(layer) for layer in layers]
    return replace(
        trace,
        experts=trace.experts[:, places],
        layers=tuple(layers),
        weights=None if trace.weights is None else trace.weights[:, places],
        candidates=None if trace.candidates is None else trace.candidates[:, places],
    )


def _recorded(request: Ints) -> Bools:
    """Which tokens of `[token, layer, top_k]` are recorded, checked. Raises InputError as `_check_ids` does."""
    found = np.asarray(request)
    if found.ndim != 3 or found.dtype.kind != "i" or not found.size or found.min() >= 0:
        _check_ids(found, "[token, layer, top_k]")
        return np.ones(len(found), dtype=bool)
    known: Bools = ~(found == -1).all(axis=(1, 2))
    if known.any():
        _check_ids(found[known], "[token, layer, top_k]")
    return known


def _check_ids(experts: Ints, axes: str) -> None:
    found = np.asarray(experts)
    if found.ndim != 3 or found.dtype.kind not in "iu" or not found.size:
        raise InputError(f"expert ids are {found.dtype} {found.shape}, not integers {axes}", "traces")
    low, high = int(found.min()), int(found.max())
    if low < 0 or high >= MOST_IDS:
        raise InputError(f"expert ids lie in {low}..{high}, but 0..{MOST_IDS - 1} is what can be kept", "traces")
