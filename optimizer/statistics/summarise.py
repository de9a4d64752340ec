"""One pass over a corpus of any size: the sums of all asked layers, decode batches included."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.statistics.summary import NO_SEGMENTS, CorpusSummary, SummaryBuilder
from optimizer.traces.corpus import Faults, TraceFile, stream
from optimizer.traces.formats.npz import layer_ids, read_lengths
from optimizer.traces.formats.request import BadRequestError, Request
from optimizer.traces.formats.sniff import Format
from optimizer.traces.kept import kept_layers
from optimizer.traces.order import walk_segments
from optimizer.traces.trace import PROMPT, RoutingTrace


@dataclass(frozen=True, eq=False)
class SummarisedCorpus:
    """The sums, the model layer id of each entry of their layer axis, and the name of each data set (its folder)."""

    summary: CorpusSummary
    layers: tuple[int, ...]
    datasets: tuple[str, ...]
    requests: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class RequestCorpus:
    """Requests that can be gone through more than once, and how to read them; layers None for all with experts.

    `requests` yields where each request is from and the request, `lengths` its tokens and prompt tokens, in the same
    order, or why there are none; `places` is how many different places requests are from.
    """

    requests: Callable[[], Iterator[tuple[Path, Request | BadRequestError]]]
    lengths: Callable[[], Iterator[tuple[int, int] | BadRequestError]]
    places: int
    model: Model
    layers: tuple[int, ...] | None = None
    first_moe_layer: int | None = None
    strict: bool = False


def corpus_of_files(
    files: Sequence[TraceFile], model: Model, layers: tuple[int, ...] | None, first_moe_layer: int | None, strict: bool
) -> RequestCorpus:
    """The requests of files; the lengths of native ones are read from headers alone."""

    def lengths() -> Iterator[tuple[int, int] | BadRequestError]:
        for file in files:
            yield from _lengths_of(file, model)

    return RequestCorpus(lambda: stream(files, model), lengths, len(files), model, layers, first_moe_layer, strict)


def corpus_of_trace(trace: RoutingTrace, model: Model) -> RequestCorpus:
    """The requests of a trace in memory."""

    def requests() -> Iterator[tuple[Path, Request | BadRequestError]]:
        for start, stop in pairwise(trace.offsets.tolist()):
            prompt = int((trace.phase[start:stop] == PROMPT).sum())
            yield Path(trace.source, "all"), Request(trace.experts[start:stop], prompt, trace.layers)

    def lengths() -> Iterator[tuple[int, int] | BadRequestError]:
        return ((len(r.experts), r.prompt_tokens) if isinstance(r, Request) else r for _, r in requests())

    return RequestCorpus(requests, lengths, 1, model, trace.layers)


def _lengths_of(file: TraceFile, model: Model) -> Iterator[tuple[int, int] | BadRequestError]:
    if file.format is Format.NPZ:
        try:
            yield read_lengths(file.path)
        except BadRequestError as fault:
            yield fault
    else:
        for _, request in stream([file], model):
            yield (len(request.experts), request.prompt_tokens) if isinstance(request, Request) else request


def summarise(
    corpus: RequestCorpus, users: int, batches: int, seed: int, progress: Callable[[float], None]
) -> SummarisedCorpus:
    """The sums over all good requests, and the loads of `batches` decode steps of `users` users (seeded).

    Lengths are read first, so that it is known which tokens meet in which batch; then every request is read once and
    forgotten. Where one then turns out to be bad it is left out and the pass is made again.
    """
    bad: set[int] = set()
    while True:
        lengths = {
            number: length
            for number, length in enumerate(corpus.lengths())
            if number not in bad and not isinstance(length, BadRequestError)
        }
        segments = _segments(lengths, users, batches, np.random.default_rng(seed))
        found = _one_pass(corpus, segments, batches, bad, progress)
        if found is not None:
            return found


def _segments(
    lengths: dict[int, tuple[int, int]], users: int, batches: int, rng: np.random.Generator
) -> dict[int, Ints]:
    """What each request gives to the batches, `[segment, 4]`: its output is decoded, or without one its prompt."""
    numbers = [number for number, (tokens, _) in lengths.items() if tokens]
    spans = [(0 if prompt == tokens else prompt, tokens) for tokens, prompt in map(lengths.__getitem__, numbers)]
    pieces: dict[int, list[list[int]]] = {}
    if numbers:
        for request, *piece in walk_segments(np.array(spans), users, batches, rng):
            pieces.setdefault(numbers[request], []).append(piece)
    return {number: np.array(piece, dtype=np.int64) for number, piece in pieces.items()}


def _one_pass(
    corpus: RequestCorpus, segments: dict[int, Ints], batches: int, bad: set[int], progress: Callable[[float], None]
) -> SummarisedCorpus | None:
    """The sums, or None where a request that has segments was found bad (and is in `bad` now)."""
    faults = Faults(corpus.strict)
    datasets: dict[str, int] = {}
    places: set[Path] = set()
    layers, builder, again, good = corpus.layers, None, False, 0
    for number, (path, request) in enumerate(corpus.requests()):
        try:
            if isinstance(request, BadRequestError):
                raise request
            layers = layers or _moe_layers(request, corpus.model, corpus.first_moe_layer)
            experts = kept_layers(request, corpus.model, layers, corpus.first_moe_layer).experts
        except BadRequestError as fault:
            faults.add(path, fault)
            bad.add(number)
            again |= number in segments
            continue
        if builder is None:
            builder = SummaryBuilder(len(layers), corpus.model.routed_experts, corpus.model.top_k, batches)
        dataset = datasets.setdefault(path.parent.name, len(datasets))
        builder.add(experts, request.prompt_tokens, dataset, segments.get(number, NO_SEGMENTS))
        good += 1
        places.add(path)
        progress(len(places) / corpus.places)
    warnings = faults.warnings(good)
    if again or builder is None or layers is None:
        return None
    return SummarisedCorpus(builder.finish(), layers, tuple(datasets), good, warnings)


def layers_of_files(files: Sequence[TraceFile], model: Model, first_moe_layer: int | None) -> tuple[int, ...]:
    """The model layers with experts that the first good request holds. Raises InputError where there is none."""
    faults = Faults(strict=False)
    for path, request in stream(files, model):
        if isinstance(request, Request):
            return _moe_layers(request, model, first_moe_layer)
        faults.add(path, request)
    faults.warnings(0)
    raise InputError("no requests; name others")


def _moe_layers(request: Request, model: Model, first_moe_layer: int | None) -> tuple[int, ...]:
    """The layers of a request that have experts, by the first request: dense ones are all zero."""
    held = request.layers or tuple(layer_ids(request.experts, model, first_moe_layer))
    routed = [layer for place, layer in enumerate(held) if request.experts[:, place].any()]
    if not routed:
        raise InputError("the first request names expert 0 alone in all layers; name traces with routing in them")
    return tuple(routed)
