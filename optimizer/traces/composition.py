"""Sampling batches from requests: which tokens run in one forward pass, in decode, in prefill and in both at once."""

from collections import deque
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Bools, Ints
from optimizer.domain.arrays import given_away
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces.batches import Batches, default_rows, with_shared
from optimizer.traces.order import lay, spans, walk, walk_segments
from optimizer.traces.trace import RoutingTrace

PHASES = ("decode", "prefill", "mixed")
CHUNK = 128
"""How many batches are made at a time where they are not needed all at once. More take more memory, fewer more calls; a
compromise that was not tuned."""


@dataclass(frozen=True)
class Composition:
    """What a batch is made of: its phase, and how many tokens each mesh row brings."""

    phase: str
    row_users: tuple[int, ...]

    @classmethod
    def of(cls, phase: str, tokens: int, row_users: tuple[int, ...] | None, mesh: Mesh) -> "Composition":
        """Share `tokens` out evenly over the rows of a mesh, unless row_users says how many each row brings.

        Raises InputError for an unknown phase, and for users of another number of rows or of none.
        """
        if phase not in PHASES:
            raise InputError(f"phase '{phase}' is not known; there are {', '.join(PHASES)}", "phase")
        if row_users is None:
            return cls(phase, tuple(np.bincount(default_rows(tokens, mesh.rows), minlength=mesh.rows).tolist()))
        if len(row_users) != mesh.rows or min(row_users) < 0 or sum(row_users) < 1:
            said = f"users of {len(row_users)} rows are given; give those of each of {mesh.rows} rows, none negative"
            raise InputError(said, "row_users")
        return cls(phase, row_users)

    @property
    def tokens(self) -> int:
        """The number of tokens in a batch."""
        return sum(self.row_users)

    def source_row(self) -> Ints:
        """The mesh row of each token, `[token]`."""
        return np.repeat(np.arange(len(self.row_users)), self.row_users)

    def decodes(self) -> Bools:
        """Whether a token of a batch decodes, `[token]`; in a mixed batch the first half of each row does."""
        place = np.concatenate([np.arange(users) for users in self.row_users])
        half = np.repeat([(users + 1) // 2 for users in self.row_users], self.row_users)
        return {"decode": place >= 0, "prefill": place < 0, "mixed": place < half}[self.phase]


def sample_batches(
    trace: RoutingTrace,
    layer: int,
    requests: Ints,
    model: Model,
    composition: Composition,
    count: int,
    rng: np.random.Generator,
) -> Batches:
    """Make the batches of `stream_batches` in one piece."""
    (batches,) = stream_batches(trace, layer, requests, model, composition, count, rng, chunk=count)
    return batches


def stream_batches(
    trace: RoutingTrace,
    layer: int,
    requests: Ints,
    model: Model,
    composition: Composition,
    count: int,
    rng: np.random.Generator,
    chunk: int = CHUNK,
) -> Iterator[Batches]:
    """Make `count` batches from these requests alone, at most `chunk` at a time; they are the same for any `chunk`.

    Decode: every user slot holds one request and walks through its output tokens (its prompt, if it has no output);
    at its end the next request takes over, in seeded random order. The requests found running at the first step are
    entered at a random offset, as in a server that has run for a while: else all slots would decode first tokens at
    once. Prefill: the prompts (the output, where there is no prompt) one after another in seeded random order, cut
    into batches; the rows are filled in turn with what comes next, so that a row holds a contiguous stretch. Mixed:
    both at once, half the tokens of each row from either. In all, requests that have been used up come again in
    another order, decoding ones from random offsets. Weights and candidates are those of the trace, if it has them.
    """
    place, row = trace.place(layer), composition.source_row()
    for index in _token_indices(trace, requests, composition, count, chunk, rng):
        yield Batches(
            with_shared(trace.experts[:, place][index], model),
            np.broadcast_to(row, index.shape),
            None if trace.weights is None else given_away(trace.weights[:, place][index]),
            None if trace.candidates is None else given_away(trace.candidates[:, place][index]),
        )


def _token_indices(
    trace: RoutingTrace, requests: Ints, composition: Composition, count: int, chunk: int, rng: np.random.Generator
) -> Iterator[Ints]:
    """Yield which token of the trace is at which place of each batch, `[batch, token]`, `chunk` batches at a time."""
    decodes = composition.decodes()
    parts: list[tuple[Bools, Iterator[Ints]]] = []
    if decodes.any():
        outputs, users = spans(trace, requests, output=True), int(decodes.sum())
        alone = decodes.all() or count <= chunk  # else prompts are drawn from `rng` in the middle of the walk
        own = rng if alone else _ahead_of_walk(outputs, users, count, rng)
        parts.append((decodes, walk(outputs, users, count, chunk, own)))
    if not decodes.all():
        prompts = spans(trace, requests, output=False)
        parts.append((~decodes, lay(prompts, int((~decodes).sum()), count, chunk, rng)))
    for start in range(0, count, chunk):
        index = np.empty((min(chunk, count - start), composition.tokens), dtype=np.int64)
        for chosen, tokens in parts:
            index[:, chosen] = next(tokens)
        yield index


def _ahead_of_walk(outputs: Ints, users: int, count: int, rng: np.random.Generator) -> np.random.Generator:
    """Return a copy of `rng` for the walk, and advance `rng` itself to where the whole walk would leave it.

    The prompts of mixed batches are drawn after the whole walk, but are needed from the first batch on. So the walk,
    which is drawn quickly, is drawn once in advance without being kept.
    """
    before = deepcopy(rng)
    deque(walk_segments(outputs, users, count, rng), maxlen=0)
    return before
