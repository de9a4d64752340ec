"""Functions that open traces: files and folders, or arrays in memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.model import Model
from optimizer.domain.presets import load_model
from optimizer.errors import InputError
from optimizer.traces.formats.counts import Counts
from optimizer.traces.infer import ModelChoice
from optimizer.traces.memory import Memory, batch_array, trace_of_requests
from optimizer.traces.source import TraceInput
from optimizer.traces.trace import RoutingTrace

Traces = TraceInput | RoutingTrace | Counts | Ints | str | Path | Sequence[str | Path] | Sequence[Ints]
"""Recorded routing as functions of the API take it: what `open_traces` gives, or what it takes."""


def open_traces(
    traces: Traces = (),
    phase: str | None = None,
    batch_tokens: int | None = None,
    row_users: tuple[int, ...] | None = None,
    first_moe_layer: int | None = None,
    cache: Path | None = None,
    strict: bool = False,
    scale: float | None = None,
) -> TraceInput:
    """Name recorded routing, and say how batches are made of it; files are read only when they are planned on.

    Parameters
    ----------
    traces
        Arrays in memory, or paths. One array `[batch, token, top_k]` of expert ids holds explicit batches; in a
        sequence of arrays `[token, layer, top_k]` each is one request; `Counts` hold the pairs of each expert without
        tokens. Paths are of files, of folders (searched recursively) or globs, and a file's format is told by its
        content. Where nothing is given, the built-in trace is used.
    phase
        What batches are made of: `"decode"` (the default), `"prefill"` or `"mixed"`.
    batch_tokens
        How many tokens a batch has; None for 512.
    row_users
        How many tokens of a batch come from each mesh row, one number per row; None for equal shares.
    first_moe_layer
        The model layer of the first entry of the layer axis; needed where the traces do not tell it.
    cache
        A folder in which layers that were read are kept, so that the next run need not read the traces again.
    strict
        Whether bad requests are refused; otherwise they are skipped, and a note says so.
    scale
        What counts are multiplied by that are no whole numbers, such as shares; None for whole counts.

    Returns
    -------
    TraceInput
        The opened traces, which the other functions of the API take.

    Raises
    ------
    InputError
        For arrays of other shapes or types, for expert ids below 0, and for a mixture of paths and arrays.

    Examples
    --------
    >>> import numpy as np
    >>> open_traces(np.zeros((3, 16, 1), dtype=int)).memory.experts.shape
    (3, 16, 1)
    """
    paths, memory = _told_apart(traces, first_moe_layer)
    return TraceInput(
        traces=paths,
        memory=memory,
        cache=cache,
        first_moe_layer=first_moe_layer,
        phase=phase,
        batch_tokens=batch_tokens,
        row_users=row_users,
        strict=strict,
        scale=scale,
    )


def opened(traces: Traces) -> TraceInput:
    """The traces as `open_traces` gives them; traces that are open already stay as they are. Raises InputError for
    arrays of a wrong shape or type."""
    return traces if isinstance(traces, TraceInput) else open_traces(traces)


def choice_of(model: Model | ModelChoice | str | None) -> Model | ModelChoice:
    """What is known of the model: the one itself, or a text that names a preset or the path of a config.json; where
    nothing is given, a choice that leaves everything to be inferred from the traces."""
    if isinstance(model, str):
        return load_model(model)
    return ModelChoice() if model is None else model


def _told_apart(traces: Traces, first_layer: int | None) -> tuple[tuple[str, ...], Memory | None]:
    """The paths that the traces name, or else what is in memory, with None for the other. first_layer: the model layer
    of the first entry on the layer axis of arrays. Raises InputError for a mixture of paths and arrays."""
    if isinstance(traces, str | Path):
        return (str(traces),), None
    if isinstance(traces, RoutingTrace | Counts):
        return (), traces
    if isinstance(traces, np.ndarray):
        return (), batch_array(traces)
    assert not isinstance(traces, TraceInput)
    given = list(traces)
    if given and all(isinstance(each, np.ndarray) for each in given):
        return (), trace_of_requests([np.asarray(each) for each in given], first_layer or 0)
    if any(isinstance(each, np.ndarray) for each in given):
        raise InputError("paths and arrays are mixed; give either", "traces")
    return tuple(str(each) for each in given), None
