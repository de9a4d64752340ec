"""Statistics of recorded routing in whatever form it is given: requests, explicit batches, counts, or nothing.

If nothing is given, the built-in generated trace is looked at. Requests are read in one pass.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import TokensAt
from optimizer.errors import InputError
from optimizer.statistics.checked import suspicions_of_batches
from optimizer.statistics.count_faults import suspicions_of_counts
from optimizer.statistics.enough import Recorded, recorded
from optimizer.statistics.layer_report import LayerReport, report_of_batches, report_of_corpus, report_of_counts
from optimizer.statistics.summarise import RequestCorpus, corpus_of_files, corpus_of_trace, summarise
from optimizer.statistics.suspicion import Suspicion, refuse, suspicions_of_loads, suspicions_of_rows
from optimizer.traces.counted_source import open_counts
from optimizer.traces.infer import ModelChoice, model_of_files, model_without_trace
from optimizer.traces.source import BATCHES_PER_SET, BatchSource, TraceInput, open_source
from optimizer.traces.synthetic.generator import builtin_trace


class Inspection(NamedTuple):
    """What was found in recorded routing.

    reports: one for each layer; notes: sentences that the user should read; suspicions: what looks wrong, the worst
    first; recorded: for each layer, whether enough of it was recorded; empty for the built-in trace.
    """

    reports: list[LayerReport]
    notes: list[str]
    suspicions: list[Suspicion]
    recorded: list[Recorded]


def inspect_traces(
    named: TraceInput,
    choice: ModelChoice,
    layers: Sequence[int] | None,
    mesh: Mesh,
    progress: Callable[[float], None],
    tokens: TokensAt = "row",
) -> Inspection:
    """What is found in each of the layers (all if None).

    named: which traces; choice: which model; mesh: where experts would lie in order, for the imbalance of that
    placement. progress is told the share of the work that is done. tokens: as of `open_source`. Raises InputError if
    the layers do not fit what is named, as the readers of traces do, and for whatever looks wrong if `named.strict`.
    """
    if named.batches is not None:
        return _batches(named, choice, layers, mesh, tokens)
    if (counted := open_counts(named, choice)) is not None:
        counts, model = counted
        asked = counts.counted_layers if layers is None else layers
        note = f"{counts.source}: counts alone, so p99, bursts and co-activation of tokens are unknown"
        reports = [report_of_counts(counts, model, layer, mesh) for layer in asked]
        return _inspection(named, model, reports, [note, *counts.notes], suspicions_of_counts(counts, model))
    corpus, origin = _corpus(named, choice, layers)
    users = named.composition(mesh).tokens
    found = summarise(corpus, users, BATCHES_PER_SET, named.seed, progress)
    reports = [report_of_corpus(found, layer, mesh, users) for layer in found.layers]
    loads = np.stack([report.figures.counts for report in reports])
    suspicions = [*suspicions_of_rows(found.evidence), *suspicions_of_loads(loads, found.layers)]
    notes = [origin or f"{found.requests} requests", *found.warnings]
    return _inspection(named, corpus.model, reports, notes, suspicions)


def _inspection(
    named: TraceInput, model: Model, reports: list[LayerReport], notes: list[str], suspicions: list[Suspicion]
) -> Inspection:
    """What was found; of the built-in trace, which nobody recorded, nothing looks wrong and nothing lacks."""
    if not (named.traces or named.batches or named.memory):
        return Inspection(reports, notes, [], [])
    refuse(suspicions, named.strict)
    return Inspection(reports, notes, suspicions, [recorded(report, model.top_k) for report in reports])


def _corpus(named: TraceInput, choice: ModelChoice, layers: Sequence[int] | None) -> tuple[RequestCorpus, str]:
    """The requests that were named, or else the built-in ones with a sentence on what they are ("" for named ones)."""
    asked = None if layers is None else tuple(layers)
    if named.traces:
        model = model_of_files(choice, named.files, named.mending)
        model.check_layers(asked or ())
        how = named.first_moe_layer, named.strict, named.mending
        return corpus_of_files(named.files, model, asked, *how), ""
    model = model_without_trace(choice)
    if asked is None:
        raise InputError("the built-in trace has no list of layers; name the layers, or give traces", field="layers")
    trace = builtin_trace(model, asked, named.seed)
    return corpus_of_trace(trace, model), trace.source


def _batches(
    named: TraceInput, choice: ModelChoice, layers: Sequence[int] | None, mesh: Mesh, tokens: TokensAt
) -> Inspection:
    """What is found in a batch file, which holds a single layer."""
    if layers is None or len(layers) != 1:
        raise InputError("a batch file holds one layer; say which layer that is", field="layers")
    source = open_source(named, layers, choice, mesh, lambda share: None, tokens)
    batches = source.everything(layers[0])
    assert isinstance(source, BatchSource)
    reports = [report_of_batches(batches, source.model, layers[0], mesh)]
    return _inspection(named, source.model, reports, [source.origin], suspicions_of_batches(batches, source.model))
