"""Sampling batches from requests: which tokens run in one forward pass, in decode, in prefill and in both at once."""

from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from formulations.arrays import Ints
from optimizer.errors import InputError
from optimizer.mesh import Mesh
from optimizer.model import Model
from optimizer.traces.batches import Batches, default_rows, with_shared
from optimizer.traces.trace import PROMPT, RoutingTrace

PHASES = ("decode", "prefill", "mixed")


@dataclass(frozen=True)
class Composition:
    """How batches are made up: their phase, and how many tokens each mesh row brings."""

    phase: str
    row_users: tuple[int, ...]

    @classmethod
    def of(cls, phase: str, tokens: int, row_users: tuple[int, ...] | None, mesh: Mesh) -> "Composition":
        """`tokens` shared out evenly over the rows of a mesh, unless the users of each row are given."""
        if phase not in PHASES:
            raise InputError(f"--phase '{phase}' is not known; there are {', '.join(PHASES)}")
        if row_users is None:
            return cls(phase, tuple(np.bincount(default_rows(tokens, mesh.rows), minlength=mesh.rows).tolist()))
        if len(row_users) != mesh.rows or min(row_users) < 0 or sum(row_users) < 1:
            raise InputError(f"--row-users names {len(row_users)} rows; give the users of each of {mesh.rows} rows")
        return cls(phase, row_users)

    @property
    def tokens(self) -> int:
        """Tokens in a batch."""
        return sum(self.row_users)

    def source_row(self) -> Ints:
        """The mesh row of each token, `[token]`."""
        return np.repeat(np.arange(len(self.row_users)), self.row_users)

    def decodes(self) -> np.ndarray:
        """Which tokens of a batch are decoding users; of a mixed batch's row the first half, rounded up, `[token]`."""
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
    """`count` batches made from these requests alone.

    Decode: every user slot holds one request and walks through its output tokens (its prompt, if it has no output);
    at its end the next request takes over, in seeded random order. The requests found running at the first step are
    entered at a random offset, as in a server that has run for a while: else all slots would decode first tokens at
    once. Prefill: the prompts (the output, where there is no prompt) one after another in seeded random order, cut
    into batches; the rows are filled in turn with what comes next, so that a row holds a contiguous stretch. Mixed:
    both at once, half the tokens of each row from either. In all, requests that have been used up come again in
    another order, decoding ones from random offsets.
    """
    decodes = composition.decodes()
    index = np.empty((count, composition.tokens), dtype=np.int64)
    if decodes.any():
        index[:, decodes] = walk(spans(trace, requests, output=True), int(decodes.sum()), count, rng)
    if not decodes.all():
        index[:, ~decodes] = stream(spans(trace, requests, output=False), int((~decodes).sum()), count, rng)
    routed = trace.layer(layer)[index]
    return Batches(with_shared(routed, model), np.broadcast_to(composition.source_row(), index.shape))


def spans(trace: RoutingTrace, requests: Ints, output: bool) -> Ints:
    """First and past-the-last token of each request's output or prompt; all of it if that is empty, `[request, 2]`."""
    before = np.concatenate([[0], np.cumsum(trace.phase == PROMPT)])
    start, stop = trace.offsets[requests], trace.offsets[requests + 1]
    middle = start + before[stop] - before[start]
    part = np.stack([middle, stop] if output else [start, middle], axis=1)
    empty = part[:, 0] == part[:, 1]
    return np.where(empty[:, None], np.stack([start, stop], axis=1), part)


def walk(tokens_of: Ints, slots: int, steps: int, rng: np.random.Generator) -> Ints:
    """Token indices `[step, slot]` of slots that work through a queue of requests, one token a step."""
    index = np.empty((slots, steps), dtype=np.int64)
    for _, step, token, length, slot in walk_segments(tokens_of, slots, steps, rng):
        index[slot, step : step + length] = np.arange(token, token + length)
    return index.T


def walk_segments(
    tokens_of: Ints, slots: int, steps: int, rng: np.random.Generator
) -> list[tuple[int, int, int, int, int]]:
    """The same as stretches of consecutive tokens: (request, first step, first token, length, slot) each."""
    found: list[tuple[int, int, int, int, int]] = []
    free = [(0, slot) for slot in range(slots)]  # a heap: when each slot asks for its next request
    first_pass = True
    while True:
        for request in rng.permutation(len(tokens_of)):
            start, stop = map(int, tokens_of[request])
            now, slot = heappop(free)
            if now >= steps:  # the earliest free slot is done, so all are
                return found
            if now == 0 or not first_pass:
                start = int(rng.integers(start, stop))
            end = min(now + stop - start, steps)
            found.append((int(request), now, start, end - now, slot))
            heappush(free, (end, slot))
        first_pass = False


def stream(tokens_of: Ints, slots: int, steps: int, rng: np.random.Generator) -> Ints:
    """Token indices `[step, slot]` of requests laid end to end, all tokens of each."""
    parts: list[Ints] = []
    missing = slots * steps
    while missing > 0:
        for request in rng.permutation(len(tokens_of)):
            parts.append(np.arange(*tokens_of[request])[:missing])
            missing -= len(parts[-1])
            if missing == 0:
                break
    return np.concatenate(parts).reshape(steps, slots)
