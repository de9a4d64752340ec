"""Traces opened with a look at what may have gone wrong while they were recorded, which their notes then say."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import TokensAt
from optimizer.statistics.count_faults import suspicions_of_counts
from optimizer.statistics.row_evidence import evidence_of
from optimizer.statistics.suspicion import (
    Suspicion,
    refuse,
    suspicions_of_loads,
    suspicions_of_rows,
    worst,
)
from optimizer.traces.batches import Batches
from optimizer.traces.counted_source import open_counts
from optimizer.traces.formats.counts import Counts
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import BatchSource, Source, TraceInput, TraceSource, open_source, open_traces
from optimizer.traces.trace import PROMPT, RoutingTrace

COUNTED = 1 << 13
"""Tokens of which the choices are counted, evenly spaced: 250 pairs an expert of DeepSeek-V3. Not tuned: more would
take longer than the rest of the look, and only never-chosen experts are looked for."""


def suspicions_of_trace(trace: RoutingTrace, model: Model) -> list[Suspicion]:
    """What looks wrong in the requests of a trace, the worst first."""
    prompt_tokens = np.concatenate([[0], np.cumsum(trace.phase == PROMPT)])[trace.offsets]
    evidence = evidence_of(trace.experts, trace.offsets.tolist(), np.diff(prompt_tokens).tolist())
    load = _load(trace.experts, model.routed_experts)
    return [*suspicions_of_rows(evidence), *suspicions_of_loads(load, trace.layers)]


def suspicions_of_batches(batches: Batches, model: Model) -> list[Suspicion]:
    """What looks wrong in explicit batches, whose tokens are taken as one long request of one layer."""
    experts = batches.experts[..., : model.top_k].reshape(-1, 1, model.top_k)
    evidence = evidence_of(experts, [0, len(experts)], [0])
    return [*suspicions_of_rows(evidence), *suspicions_of_loads(_load(experts, model.routed_experts), (0,))]


def _load(experts: Ints, routed: int) -> Ints:
    """Pairs of each expert, `[layer, expert]`, in about `COUNTED` tokens of experts `[token, layer, k]`."""
    load = np.zeros((experts.shape[1], routed), dtype=np.int64)
    _count(experts, max(1, len(experts) // COUNTED), load)
    return load


@kernel
def _count(experts: Ints, stride: int, load: Ints) -> None:
    """Add every `stride`-th token of experts `[token, layer, k]` to load `[layer, expert]`."""
    for token in range(0, len(experts), stride):
        for layer in range(experts.shape[1]):
            for rank in range(experts.shape[2]):
                load[layer, np.int64(experts[token, layer, rank])] += 1


def checked_source(
    named: TraceInput,
    layers: Sequence[int],
    model: Model | ModelChoice,
    mesh: Mesh,
    progress: Callable[[float], None],
    tokens: TokensAt = "row",
) -> Source:
    """Open traces as `open_source` does; the source's notes say what looks wrong.

    Raises InputError as `open_source` does, and for whatever looks wrong if `named.strict`. The built-in trace was not
    recorded, and is not looked at.
    """
    source = open_source(named, layers, model, mesh, progress, tokens)
    if isinstance(source, BatchSource):
        found = suspicions_of_batches(source.batches, source.model)
        refuse(found, named.strict)
        return replace(source, notes=(*source.notes, *worst(found)))
    assert isinstance(source, TraceSource)
    return with_warnings(source, named)


def checked_traces(
    named: TraceInput, layers: Sequence[int], model: Model, mesh: Mesh, progress: Callable[[float], None]
) -> TraceSource:
    """Open traces as `open_traces` does; what looks wrong is told as by `checked_source`."""
    return with_warnings(open_traces(named, layers, model, mesh, progress), named)


def suspicions_of(source: Source, named: TraceInput) -> list[Suspicion]:
    """What looks wrong in what a source was opened from, the worst first; nothing in the built-in trace."""
    if isinstance(source, BatchSource):
        return suspicions_of_batches(source.batches, source.model)
    assert isinstance(source, TraceSource)
    recorded = named.traces or named.memory is not None
    return suspicions_of_trace(source.trace, source.model) if recorded else []


def with_warnings(source: TraceSource, named: TraceInput) -> TraceSource:
    """The source with a warning of what looks wrong in its trace. Raises InputError for that if `named.strict`."""
    if not named.traces and named.memory is None:
        return source
    found = suspicions_of_trace(source.trace, source.model)
    refuse(found, named.strict)
    warnings = (*source.trace.warnings, *worst(found))
    return replace(source, trace=replace(source.trace, warnings=warnings)) if found else source


def checked_counts(named: TraceInput, model: Model | ModelChoice) -> tuple[Counts, Model] | None:
    """Open counts as `open_counts` does; their notes say what looks wrong.

    Raises InputError as `open_counts` does, and for whatever looks wrong if `named.strict`.
    """
    counted = open_counts(named, model)
    if counted is None:
        return None
    counts, known = counted
    found = suspicions_of_counts(counts, known)
    refuse(found, named.strict)
    return replace(counts, notes=(*counts.notes, *worst(found))), known
