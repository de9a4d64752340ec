"""From what the user named (request files, a batch file, or nothing) to batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from formulations.arrays import Ints
from optimizer.mesh import Mesh
from optimizer.model import Model
from optimizer.traces.batches import SETS, Batches, decode_batches, split_batches, split_requests
from optimizer.traces.explicit import explicit_batches, read_batches
from optimizer.traces.infer import ModelChoice, model_of_array, model_of_files, model_without_trace
from optimizer.traces.npz import find_files, read_traces
from optimizer.traces.synthetic import builtin_trace
from optimizer.traces.trace import RoutingTrace, digest

BATCHES_PER_SET = 1024


@dataclass(frozen=True)
class Named:
    """What the user named; without traces and batch file it is the built-in trace."""

    traces: Sequence[str] = ()
    batches: Path | None = None
    first_moe_layer: int | None = None
    batch_tokens: int = 512
    seed: int = 0
    strict: bool = False


class Source(Protocol):
    """Where batches come from. `origin` says what it is, `notes` are sentences the user should read."""

    @property
    def model(self) -> Model: ...
    @property
    def origin(self) -> str: ...
    @property
    def notes(self) -> tuple[str, ...]: ...

    def fingerprint(self, layer: int) -> str:
        """A digest of the content for one layer."""

    def sets(self, layer: int) -> tuple[Batches, Batches, Batches]:
        """Train, selection and test batches."""

    def everything(self, layer: int) -> Batches:
        """Batches over all there is."""


@dataclass(frozen=True)
class TraceSource:
    """Decode steps sampled from the requests of a trace."""

    model: Model
    mesh: Mesh
    trace: RoutingTrace
    named: Named

    @property
    def origin(self) -> str:
        """What the trace says of itself."""
        return self.trace.source

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out of the trace or takes getting used to."""
        silent = int((~self.trace.has_output()).sum())
        said = f"{silent} of {self.trace.requests} requests have no output tokens: decoding walks through their prompts"
        return (*self.trace.warnings, said) if silent else self.trace.warnings

    def fingerprint(self, layer: int) -> str:
        """Depends on the requests of this layer alone, not on where they were read."""
        return digest(self.trace.layer(layer), self.trace.offsets, self.trace.phase)

    def sets(self, layer: int) -> tuple[Batches, Batches, Batches]:
        """Disjoint requests, 60 / 20 / 20 per cent."""
        parts = split_requests(self.trace.requests, self.named.seed)
        train, selection, test = (self._sample(layer, part, turn) for turn, part in enumerate(parts))
        return train, selection, test

    def everything(self, layer: int) -> Batches:
        """All requests."""
        return self._sample(layer, np.arange(self.trace.requests), len(SETS))

    def _sample(self, layer: int, requests: Ints, turn: int) -> Batches:
        rng = np.random.default_rng([self.named.seed, layer, turn])
        tokens = self.named.batch_tokens
        return decode_batches(self.trace, layer, requests, self.model, tokens, BATCHES_PER_SET, self.mesh.rows, rng)


@dataclass(frozen=True)
class BatchSource:
    """The batches of a file, as they are."""

    model: Model
    batches: Batches
    origin: str
    notes: tuple[str, ...] = ("explicit batches are split into consecutive stretches, as requests are unknown",)

    def fingerprint(self, layer: int) -> str:
        """The same for every layer, as the file holds one."""
        return digest(self.batches.experts, self.batches.source_row)

    def sets(self, layer: int) -> tuple[Batches, Batches, Batches]:
        """The first 60, next 20 and last 20 per cent."""
        return split_batches(self.batches)

    def everything(self, layer: int) -> Batches:
        """All batches."""
        return self.batches


def open_source(
    named: Named,
    layers: Sequence[int],
    model: Model | ModelChoice,
    mesh: Mesh,
    progress: Callable[[float], None],
) -> Source:
    """Read what was named, for these layers; a `ModelChoice` is completed from what the files show.

    Raises InputError for whatever cannot be used.
    """
    if named.batches is not None:
        experts, rows = read_batches(named.batches)
        known = model if isinstance(model, Model) else model_of_array(model, experts.shape[2], int(experts.max()))
        batches = explicit_batches(named.batches, experts, rows, known, mesh.rows)
        return BatchSource(known, batches, f"{batches.count} batches of {named.batches.name}")
    if named.traces:
        files = find_files(named.traces)
        known = model if isinstance(model, Model) else model_of_files(model, files)
        trace = read_traces(files, known, layers, named.first_moe_layer, named.strict, progress)
    else:
        known = model if isinstance(model, Model) else model_without_trace(model)
        trace = builtin_trace(known, layers, named.seed)
    return TraceSource(known, mesh, trace, named)
