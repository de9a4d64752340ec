"""Summarise a corpus of any size in one pass: the sums of all layers that are asked for, decode batches included."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.statistics.drift import DAY_PARTS, parts_of_day
from optimizer.statistics.row_evidence import RowEvidence
from optimizer.statistics.summary import NO_SEGMENTS, CorpusSummary, SummaryBuilder
from optimizer.streams import Purpose, random_stream
from optimizer.traces.corpus import Faults, TraceFile, stream
from optimizer.traces.formats.npz import layer_ids, read_lengths
from optimizer.traces.formats.request import BadRequestError, Request
from optimizer.traces.formats.sniff import Format
from optimizer.traces.kept import kept_layers
from optimizer.traces.mending import AS_RECORDED, Mender, Mending
from optimizer.traces.order import walk_segments
from optimizer.traces.trace import PROMPT, RoutingTrace, not_recorded


@dataclass(frozen=True, eq=False)
class SummarisedCorpus:
    """The sums over a corpus, and what their axes mean.

    layers: the model's layer id for each place on the layer axis. datasets: the name of each data set, which is that of
    its folder. requests: how many good requests there were. warnings: sentences on those that were left out. day
    `[dataset, part, layer, expert]`: the counts of the parts of the day (see `parts_of_day`) that a data set's requests
    are of, whose order is taken for their order in time. evidence: by which faults of recording are told.
    """

    summary: CorpusSummary
    layers: tuple[int, ...]
    datasets: tuple[str, ...]
    requests: int
    warnings: tuple[str, ...]
    day: Ints
    evidence: RowEvidence


@dataclass(frozen=True)
class RequestCorpus:
    """Requests that can be gone through more than once, and how to read them.

    requests: yields for each request where it is from, and the request or why it cannot be used. lengths: yields for
    each request, in the same order, where it is from, and its tokens and prompt tokens or why it cannot be used.
    places: how many different places (files) requests are from. layers: the layers to keep, None for all layers with
    experts. strict: whether a bad request is an error instead of being left out. mending: as of `read_traces`.
    """

    requests: Callable[[], Iterator[tuple[Path, Request | BadRequestError]]]
    lengths: Callable[[], Iterator[tuple[Path, tuple[int, int] | BadRequestError]]]
    places: int
    model: Model
    layers: tuple[int, ...] | None = None
    first_moe_layer: int | None = None
    strict: bool = False
    mending: Mending = AS_RECORDED


def corpus_of_files(
    files: Sequence[TraceFile],
    model: Model,
    layers: tuple[int, ...] | None,
    first_moe_layer: int | None,
    strict: bool,
    mending: Mending = AS_RECORDED,
) -> RequestCorpus:
    """The requests of trace files; lengths in the native format are read from the headers of the files alone."""

    def lengths() -> Iterator[tuple[Path, tuple[int, int] | BadRequestError]]:
        for file in files:
            for length in _lengths_of(file, model, mending):
                yield file.path, length

    if mending.placement is not None:
        for layer in layers or ():
            mending.placement.of(layer)  # raises for a layer that the placement lacks
    return RequestCorpus(
        lambda: stream(files, model), lengths, len(files), model, layers, first_moe_layer, strict, mending
    )


def corpus_of_trace(trace: RoutingTrace, model: Model) -> RequestCorpus:
    """The requests of a trace in memory, of recorded tokens alone."""
    trace = trace.of_recorded()

    def requests() -> Iterator[tuple[Path, Request | BadRequestError]]:
        for start, stop in pairwise(trace.offsets.tolist()):
            prompt = int((trace.phase[start:stop] == PROMPT).sum())
            yield Path(trace.source, "all"), Request(trace.experts[start:stop], prompt, trace.layers)

    def lengths() -> Iterator[tuple[Path, tuple[int, int] | BadRequestError]]:
        return ((at, (len(r.experts), r.prompt_tokens) if isinstance(r, Request) else r) for at, r in requests())

    return RequestCorpus(requests, lengths, 1, model, trace.layers)


def _lengths_of(file: TraceFile, model: Model, mending: Mending) -> Iterator[tuple[int, int] | BadRequestError]:
    """Tokens and prompt tokens of each request in a file, or why the request cannot be used."""
    if file.format is Format.NPZ and not mending.drop_repeats:
        try:
            yield read_lengths(file.path)
        except BadRequestError as fault:
            yield fault
    else:
        mender = Mender(replace(mending, placement=None), model)  # ids do not matter to lengths
        for _, request in stream([file], model):
            if isinstance(request, Request):
                request = mender.mend(request)
                yield len(request.experts), request.prompt_tokens
            else:
                yield request


def summarise(
    corpus: RequestCorpus, users: int, batches: int, seed: int, progress: Callable[[float], None]
) -> SummarisedCorpus:
    """The sums over all good requests, and the loads of `batches` decode steps of `users` users, drawn by the seed.

    Lengths are read first, so that it is known which tokens meet in which batch. Then each request is read once and
    forgotten. If a request that takes part in batches turns out to be bad, or to have tokens that are not recorded, it
    is known how much of it there is, and the pass is made again.
    Raises InputError if no request is good, or, for a strict corpus, if any is bad.
    """
    known: dict[int, tuple[int, int] | None] = {}
    while True:
        declared = list(enumerate(corpus.lengths()))
        found_or_said = {number: known.get(number, length) for number, (_, length) in declared}
        lengths = {number: length for number, length in found_or_said.items() if isinstance(length, tuple)}
        segments = _segments(lengths, users, batches, random_stream(Purpose.SUMMARY_SEGMENTS, seed))
        parts = _parts({number: _dataset(path) for number, (path, _) in declared if number in lengths})
        found = _one_pass(corpus, lengths, segments, parts, batches, known, progress)
        if found is not None:
            return found


def _segments(
    lengths: dict[int, tuple[int, int]], users: int, batches: int, rng: np.random.Generator
) -> dict[int, Ints]:
    """The segments `[segment, 4]` (see `SummaryBuilder.add`) that each request, by its number, gives to the batches.

    lengths: tokens and prompt tokens of each request by its number. The output of a request is decoded, and its prompt
    if it has no output.
    """
    numbers = [number for number, (tokens, _) in lengths.items() if tokens]
    spans = [(0 if prompt == tokens else prompt, tokens) for tokens, prompt in map(lengths.__getitem__, numbers)]
    pieces: dict[int, list[list[int]]] = {}
    if numbers:
        for request, *piece in walk_segments(np.array(spans), users, batches, rng):
            pieces.setdefault(numbers[request], []).append(piece)
    return {number: np.array(piece, dtype=np.int64) for number, piece in pieces.items()}


def _dataset(path: Path) -> str:
    """The name of the data set that a request from this place is of."""
    return path.parent.name


def _parts(datasets: dict[int, str]) -> dict[int, int]:
    """The part of the day that each request, by its number, is of among those of its data set, whose name is given."""
    members: dict[str, list[int]] = {}
    for number, name in datasets.items():
        members.setdefault(name, []).append(number)
    parts = (zip(numbers, parts_of_day(len(numbers)).tolist(), strict=True) for numbers in members.values())
    return {number: part for pairs in parts for number, part in pairs}


def _one_pass(
    corpus: RequestCorpus,
    lengths: dict[int, tuple[int, int]],
    segments: dict[int, Ints],
    parts: dict[int, int],
    batches: int,
    known: dict[int, tuple[int, int] | None],
    progress: Callable[[float], None],
) -> SummarisedCorpus | None:
    """The sums over the recorded tokens of all requests; None if the pass must be made again.

    That is where a request with segments is not as long as `lengths` says. How long a request really is is added to
    `known`, None for one that is bad. Each part of a data set's day is summed up as if it were a data set of its own.
    """
    faults, mender = Faults(corpus.strict), Mender(corpus.mending, corpus.model, corpus.first_moe_layer)
    datasets: dict[str, int] = {}
    evidence = RowEvidence()
    places: set[Path] = set()
    layers, builder, again, good = corpus.layers, None, False, 0
    lost, tokens = np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64)
    for number, (path, request) in enumerate(corpus.requests()):
        try:
            if isinstance(request, BadRequestError):
                raise request
            request = mender.mend(request)
            layers = layers or _moe_layers(request, corpus.model, corpus.first_moe_layer)
            kept = kept_layers(request, corpus.model, layers, corpus.first_moe_layer)
        except BadRequestError as fault:
            faults.add(path, fault)
            known[number] = None
            again |= number in segments
            continue
        faults.accept(request)
        experts, prompt = kept.of_recorded()
        if lengths.get(number) != (len(experts), prompt):
            known[number] = len(experts), prompt
            again |= number in segments
            segments.pop(number, None)
        recorded, whole = np.array([prompt, len(experts)]), np.array([kept.prompt_tokens, len(kept.experts)])
        tokens += np.diff(whole, prepend=0)
        lost += np.diff(whole - recorded, prepend=0)
        if builder is None:
            builder = SummaryBuilder(len(layers), corpus.model.routed_experts, corpus.model.top_k, batches)
        dataset = datasets.setdefault(_dataset(path), len(datasets)) * DAY_PARTS + parts.get(number, 0)
        builder.add(experts, prompt, dataset, segments.get(number, NO_SEGMENTS))
        evidence.add(experts, prompt)
        good += 1
        places.add(path)
        progress(len(places) / corpus.places)
    warnings = (*faults.warnings(good), *mender.notes(), *not_recorded(lost, tokens))
    if again or builder is None or layers is None:
        return None
    summary, day = _whole_days(builder.finish(), len(datasets))
    return SummarisedCorpus(summary, layers, tuple(datasets), good, warnings, day, evidence)


def _whole_days(summary: CorpusSummary, datasets: int) -> tuple[CorpusSummary, Ints]:
    """The sums by data set, from those of all parts of their days, and the counts of the parts, as of
    `SummarisedCorpus.day`."""
    lacking = datasets * DAY_PARTS - len(summary.counts)
    tokens, counts = (
        np.concatenate([sums, np.zeros((lacking, *sums.shape[1:]), dtype=np.int64)]).reshape(
            datasets, DAY_PARTS, *sums.shape[1:]
        )
        for sums in (summary.tokens, summary.counts)
    )
    return replace(summary, tokens=tokens.sum(axis=1), counts=counts.sum(axis=1)), counts.sum(axis=2)


def layers_of_files(
    files: Sequence[TraceFile], model: Model, first_moe_layer: int | None, mending: Mending = AS_RECORDED
) -> tuple[int, ...]:
    """The ids of the layers with experts in the first good request. Raises InputError if no request is good."""
    faults, mender = Faults(strict=False), Mender(mending, model, first_moe_layer)
    for path, request in stream(files, model):
        try:
            if isinstance(request, BadRequestError):
                raise request
            return _moe_layers(mender.mend(request), model, first_moe_layer)
        except BadRequestError as fault:
            faults.add(path, fault)
    faults.warnings(0)
    raise InputError("there is no request in these traces; name others")


def _moe_layers(request: Request, model: Model, first_moe_layer: int | None) -> tuple[int, ...]:
    """The ids of a request's layers that have experts; a layer is taken as dense if it names expert 0 alone.

    Raises InputError if no layer has experts, and for routing in a layer that has none in the model.
    """
    held = request.layers or layer_ids(request.experts, model, first_moe_layer)
    routed = [layer for place, layer in enumerate(held) if (request.experts[:, place] > 0).any()]
    if not routed:
        raise InputError("the first request names expert 0 alone in all layers; name traces with routing in them")
    model.check_layers(routed)
    return tuple(routed)
