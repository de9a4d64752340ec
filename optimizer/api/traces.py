"""Opening traces: files and folders, or arrays in memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces.formats.counts import Counts
from optimizer.traces.infer import ModelChoice
from optimizer.traces.memory import Memory, batch_array, trace_of_requests
from optimizer.traces.source import TraceInput
from optimizer.traces.trace import RoutingTrace

Traces = TraceInput | RoutingTrace | Counts | Ints | str | Path | Sequence[str | Path] | Sequence[Ints]
"""Recorded routing: what `open_traces` gives, or what it takes."""


def open_traces(
    traces: Traces = (),
    phase: str | None = None,
    batch_tokens: int | None = None,
    row_users: tuple[int, ...] | None = None,
    first_moe_layer: int | None = None,
    cache: Path | None = None,
    strict: bool = False,
) -> TraceInput:
    """Name recorded routing and how batches are made of it; files are read when something is planned on them.

    Parameters
    ----------
    traces
        Paths of files, of folders (searched recursively) or globs, told by content; or arrays in memory: one array
        `[batch, token, top_k]` of expert ids is explicit batches, a sequence of arrays `[token, layer, top_k]` is one
        request each, `Counts` hold pairs of each expert without tokens. Nothing is the built-in trace.
    phase
        What batches are made of: `"decode"` (the default), `"prefill"` or `"mixed"`.
    batch_tokens
        Tokens in a batch; None for 512.
    row_users
        Tokens of a batch from each mesh row; None for equal shares.
    first_moe_layer
        Model layer of the first entry of the layer axis, where the traces do not tell.
    cache
        A folder that keeps layers which were read.
    strict
        Refuse bad requests instead of skipping them with a note.

    Returns
    -------
    TraceInput
        To be given to the other functions.

    Raises
    ------
    InputError
        For arrays of other shapes or types, and ids below 0.

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
    )


def opened(traces: Traces) -> TraceInput:
    """What `open_traces` makes of traces that are not opened yet."""
    return traces if isinstance(traces, TraceInput) else open_traces(traces)


def choice_of(model: Model | ModelChoice | None) -> Model | ModelChoice:
    """What is known of the model: nothing where nothing is given."""
    return ModelChoice() if model is None else model


def _told_apart(traces: Traces, first_layer: int | None) -> tuple[tuple[str, ...], Memory | None]:
    """Paths, or what is in memory."""
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
