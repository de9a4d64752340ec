"""From what the user named (request files, a batch file, or nothing) to batches."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network, TokensAt
from optimizer.errors import InputError
from optimizer.streams import Purpose, random_stream
from optimizer.traces.batches import Batches, Sets, split_batches, split_requests
from optimizer.traces.cache import cached
from optimizer.traces.composition import CHUNK, Composition, sample_batches, stream_batches
from optimizer.traces.corpus import FileIndex, TraceFile, read_traces
from optimizer.traces.fingerprints import fingerprints
from optimizer.traces.formats.batch_file import BatchArrays, explicit_batches, read_batches
from optimizer.traces.formats.sniff import Format
from optimizer.traces.infer import ModelChoice, model_of_array, model_of_files, model_without_trace
from optimizer.traces.memory import BatchArray, Memory, with_layers
from optimizer.traces.mending import AS_RECORDED, Mending
from optimizer.traces.synthetic.generator import builtin_trace
from optimizer.traces.trace import OUTPUT, PROMPT, RoutingTrace, digest

LOG = logging.getLogger(__name__)

BATCHES_PER_SET = 1024  # a compromise: a set's 99th percentile then rests on its ten slowest batches
TOKENS_PER_SET = 1024 * 2048
"""Tokens of a set's batches, beyond which it has fewer of them. Large batches are alike, and take long to judge: under
all policies 1,024 batches of 16,384 tokens took three times as long as a search of a minute."""
FEWEST_BATCHES = 128  # of a set whose batches are large, so that its 99th percentile still lies below its slowest batch
BATCH_TOKENS = 512  # the default of a decode step
TURNS = (Purpose.TRAIN_BATCHES, Purpose.SELECTION_BATCHES, Purpose.TEST_BATCHES, Purpose.ALL_BATCHES)
TEST, ALL = Sets._fields.index("test"), len(Sets._fields)  # turns, of which each has a random stream of its own


@dataclass(frozen=True)
class TraceInput:
    """What the user named to make batches from; where neither traces nor batches are named, it is the built-in trace.

    memory: what a program has in memory already, instead of files; extras: gate weights and ranked candidates are
    wanted too, where a trace has them; synthesise: of counts, generate tokens that choose experts as often; scale: what
    counts are multiplied by that are no whole numbers; mending: what is left out of files or translated while they are
    read. index: what is known of the files, which `dataclasses.replace` hands on, so that no file is looked into again.
    """

    traces: Sequence[str] = ()
    memory: Memory | None = None
    format: Format | None = None
    cache: Path | None = None
    batches: Path | None = None
    first_moe_layer: int | None = None
    phase: str | None = None
    batch_tokens: int | None = None
    row_users: tuple[int, ...] | None = None
    seed: int = 0
    strict: bool = False
    extras: bool = False
    synthesise: bool = False
    scale: float | None = None
    mending: Mending = AS_RECORDED
    index: FileIndex = field(default_factory=FileIndex, repr=False, compare=False)

    @property
    def files(self) -> list[TraceFile]:
        """The files that the traces name, by way of the index; none without traces."""
        return self.index.files(self.traces, self.format) if self.traces else []

    def composition(self, mesh: Mesh) -> Composition:
        """What batches are made of: what was named, or else decode steps of 512 users."""
        return Composition.of(self.phase or "decode", self.batch_tokens or BATCH_TOKENS, self.row_users, mesh)


class Source(Protocol):
    """Where batches come from; `origin` says in words what that is, `notes` are sentences that users should read."""

    @property
    def model(self) -> Model: ...
    @property
    def origin(self) -> str: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def composition(self) -> Composition | None: ...

    def fingerprint(self, layer: int) -> str:
        """A digest of the content for one layer."""

    def sets(self, layer: int) -> Sets:
        """Train, selection and test batches."""

    def everything(self, layer: int) -> Batches:
        """Batches over all requests, or all batches there are."""

    def stream(self, layer: int, test_only: bool, count: int | None = None) -> Iterator[Batches]:
        """Yield `count` batches, a few at a time: of the test set, or of everything.

        Without a count they are those of `sets(layer).test` or of `everything(layer)`. Raises InputError where there
        are fewer than `count`.
        """


@dataclass(frozen=True)
class TraceSource:
    """Batches sampled from the requests of a trace, all of whose tokens are recorded."""

    model: Model
    composition: Composition
    trace: RoutingTrace
    seed: int

    @property
    def origin(self) -> str:
        """Where the trace says that it came from."""
        return self.trace.source

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings of the trace, and which requests lack the tokens of the phase."""
        said = []
        for phase, needed, instead in ((OUTPUT, "decode", "prompts"), (PROMPT, "prefill", "outputs")):
            silent = int((~self.trace.has(phase)).sum())
            if silent and self.composition.phase in (needed, "mixed"):
                what = {OUTPUT: "output", PROMPT: "prompt"}[phase]
                requests = f"{silent} of {self.trace.requests} requests have no {what} tokens"
                said.append(f"{requests}: their {instead} are used to {needed}")
        return (*self.trace.warnings, *said)

    def fingerprint(self, layer: int) -> str:
        """A digest of this layer's requests, which does not depend on where they were read."""
        return fingerprints(self.trace, [layer])[0]

    def sets(self, layer: int, counts: Sequence[int] | None = None) -> Sets:
        """Batches of 60, 20 and 20 per cent of the requests; counts: how many of each, by default as many as
        `batches_of` says."""
        counts = counts or (batches_of(self.composition),) * ALL
        requests = ", ".join(str(len(self._requests(turn))) for turn in range(ALL))
        said = "layer %d: of %s requests for train, selection and test %s batches of %d tokens are drawn"
        LOG.debug(said, layer, requests, ", ".join(map(str, counts)), self.composition.tokens)
        return Sets(*(self._sample(layer, turn, counts[turn]) for turn in range(ALL)))

    def everything(self, layer: int) -> Batches:
        """As many batches as a set has, drawn from all requests, whichever set these belong to."""
        return self._sample(layer, ALL, batches_of(self.composition))

    def stream(self, layer: int, test_only: bool, count: int | None = None) -> Iterator[Batches]:
        """Yield any number of batches, as requests that have been used up come again; memory does not grow with it."""
        turn = TEST if test_only else ALL
        number = batches_of(self.composition) if count is None else count
        rng = self._rng(layer, turn)
        return stream_batches(self.trace, layer, self._requests(turn), self.model, self.composition, number, rng)

    def _sample(self, layer: int, turn: int, count: int) -> Batches:
        requests, rng = self._requests(turn), self._rng(layer, turn)
        return sample_batches(self.trace, layer, requests, self.model, self.composition, count, rng)

    def _requests(self, turn: int) -> Ints:
        if turn == ALL:
            return np.arange(self.trace.requests)
        return split_requests(self.trace.requests, self.seed)[turn]

    def _rng(self, layer: int, turn: int) -> np.random.Generator:
        return random_stream(TURNS[turn], self.seed, layer)


def batches_of(composition: Composition) -> int:
    """How many batches a set has: `BATCHES_PER_SET`, or fewer where they are large."""
    return min(BATCHES_PER_SET, max(FEWEST_BATCHES, TOKENS_PER_SET // composition.tokens))


@dataclass(frozen=True)
class BatchSource:
    """The batches of a file, which are used as they are."""

    model: Model
    batches: Batches
    origin: str
    composition: Composition | None = None
    notes: tuple[str, ...] = ("explicit batches are split into consecutive stretches, as requests are unknown",)

    def fingerprint(self, layer: int) -> str:
        """A digest of the batches, the same for every layer, as the file holds one layer."""
        named = () if self.batches.source is None else (self.batches.source,)
        return digest(self.batches.experts, self.batches.source_row, *named)

    def sets(self, layer: int) -> Sets:
        """The first 60, the next 20 and the last 20 per cent of the batches."""
        return split_batches(self.batches)

    def everything(self, layer: int) -> Batches:
        """The batches of all three sets, as they were given."""
        return self.batches

    def stream(self, layer: int, test_only: bool, count: int | None = None) -> Iterator[Batches]:
        """Yield the first `count` of the test batches or of all. Raises InputError where there are fewer."""
        batches = self.sets(layer).test if test_only else self.batches
        number = batches.count if count is None else count
        if number > batches.count:
            what = "test batches" if test_only else "batches"
            said = f"{self.origin} hold {batches.count} {what}, fewer than the {number} that are asked for"
            raise InputError(said, "batch_count")
        return (batches.part(start, min(start + CHUNK, number)) for start in range(0, number, CHUNK))


def open_source(
    named: TraceInput,
    layers: Sequence[int],
    model: Model | ModelChoice,
    mesh: Mesh,
    progress: Callable[[float], None],
    tokens: TokensAt = "row",
) -> Source:
    """Read what was named, for these layers; a `ModelChoice` is completed from what the files show.

    tokens: where the hardware's tokens live, which says what the source of a token is in a batch file. Raises
    InputError for whatever cannot be used.
    """
    if named.batches is not None:
        path, arrays, origin = named.batches, read_batches(named.batches), f"of {named.batches.name}"
    elif isinstance(named.memory, BatchArray):
        path, arrays, origin = Path("the array"), BatchArrays(*named.memory), "in memory"
    else:
        return open_traces(named, layers, model, mesh, progress)
    top_k, highest = arrays.experts.shape[2], int(arrays.experts.max())
    known = model if isinstance(model, Model) else model_of_array(model, top_k, highest)
    _check_layers(model, known, layers)
    batches = explicit_batches(path, arrays, known, Network(mesh, tokens))
    return BatchSource(known, batches, f"{batches.count} batches {origin}")


def open_traces(
    named: TraceInput, layers: Sequence[int], model: Model | ModelChoice, mesh: Mesh, progress: Callable[[float], None]
) -> TraceSource:
    """Read what was named as `open_source` does, where that is traces or nothing at all."""
    if named.mending.no_op_from is not None:
        said = "tokens that chose no-op experts send fewer pairs than the top-k, which batches cannot hold"
        raise InputError(f"{said}; plan and bound them as counts, on their expected load", "no_op_experts")
    composition = named.composition(mesh)
    known = model_of(named, model)
    _check_layers(known if named.memory is None else model, known, layers)
    if isinstance(named.memory, RoutingTrace):
        trace = with_layers(named.memory, layers)
    elif named.traces:
        trace = _read(named, known, layers, progress)
    else:
        trace = builtin_trace(known, layers, named.seed, extras=named.extras)
    used = trace.of_recorded()
    if composition.phase == "prefill":
        _refuse_outputs_alone(trace, used)
    return TraceSource(known, composition, used, named.seed)


def _refuse_outputs_alone(trace: RoutingTrace, used: RoutingTrace) -> None:
    """Raise InputError for a trace to prefill from in which no prompt token is recorded; used: its recorded tokens."""
    if not used.has(PROMPT).any():
        lost = int((trace.phase == PROMPT).sum())
        why = (
            f"the {lost:,} prompt tokens were not captured, as where a server only decodes" if lost else "all is output"
        )
        raise InputError(
            f"{trace.requests} requests have no recorded prompt token to prefill from ({why}); record "
            "where prompts are run, or plan for decode",
            "phase",
        )


def model_of(named: TraceInput, model: Model | ModelChoice) -> Model:
    """The model of requests that were named: a model as it is, or a choice completed from what the requests show."""
    if isinstance(model, Model):
        return model
    if isinstance(named.memory, RoutingTrace):
        experts = named.memory.experts
        return model_of_array(model, experts.shape[2], int(experts.max()))
    return model_of_files(model, named.files, named.mending) if named.traces else model_without_trace(model)


def _check_layers(given: Model | ModelChoice, known: Model, layers: Sequence[int]) -> None:
    """Raise InputError where a layer has no experts in the model that was given. A model that was guessed from arrays
    alone says nothing of the layers."""
    if isinstance(given, Model) or given.name:
        known.check_layers(layers)


def _read(named: TraceInput, model: Model, layers: Sequence[int], progress: Callable[[float], None]) -> RoutingTrace:
    """The trace, by way of the cache where there is one; a strict reading is never taken from it."""

    def read() -> RoutingTrace:
        how = named.first_moe_layer, named.strict, progress, named.extras, named.mending
        return read_traces(named.files, model, layers, *how)

    if named.cache is None or named.strict:
        return read()
    return cached(named.cache, named.files, model, layers, named.first_moe_layer, read, named.extras, named.mending)
