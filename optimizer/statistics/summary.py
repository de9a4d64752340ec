"""Sums over any number of requests, made in one pass, from which every figure of every layer follows."""

from dataclasses import dataclass, fields

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.arrays import frozen
from optimizer.errors import InputError
from optimizer.traces.trace import OUTPUT, PROMPT

# Tokens of a window. Windows are what `window_burstiness` compares, and a long request is cut only between windows. A
# compromise, not tuned: shorter windows see shorter stretches, longer ones hold more counts each.
WINDOW = 32
# Tokens that are staged before they are counted layer by layer, so that the tables of a layer are fetched into the
# cache once per chunk. A multiple of `WINDOW`; a compromise between that and memory.
CHUNK = 16384
MOST_TOKENS = 2**31 - 1  # the largest count that the 32-bit counts of pairs can hold
NO_SEGMENTS = np.empty((0, 4), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class CorpusSummary:
    """Sums over requests, of routed experts only; all arrays are read-only.

    A *run* is the tokens of one request in one phase (0 prompt, 1 output). Its *windows* are its consecutive whole
    stretches of 32 tokens. For one expert, c of the t tokens of a run choose it, and c_w of the 32 tokens of window w.

    - tokens `[dataset, phase]` and runs `[phase]`: how many there are.
    - counts `[dataset, phase, layer, expert]`: tokens that chose an expert.
    - pairs `[layer, expert, expert]`: tokens that chose both experts; symmetric, zero on the diagonal.
    - repeats `[phase, layer]`: choices that the token before in the same run made too.
    - between `[phase, layer, expert]`: the sum over runs of c^2 / t.
    - inside `[phase, layer, expert]`: the sum over runs of the squared deviations of c_w from their mean in the run.
    - inside_chance `[phase, layer, expert]`: what `inside` would be on average if the tokens in the windows of each run
      were shuffled.
    - batch_load `[layer, batch, expert]` int32: tokens of each decode batch that chose an expert.
    """

    top_k: int
    tokens: Ints
    runs: Ints
    counts: Ints
    pairs: Ints
    repeats: Ints
    between: Floats
    inside: Floats
    inside_chance: Floats
    batch_load: Ints

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "top_k":
                object.__setattr__(self, field.name, frozen(getattr(self, field.name)))


class SummaryBuilder:
    """Adds up requests one at a time; takes less than 300 MB for 58 layers, 256 experts and 1,024 batches."""

    def __init__(self, layers: int, experts: int, top_k: int, batches: int = 0) -> None:
        """Start from nothing.

        layers: the length of the layer axis of every request. experts: routed experts. batches: how many decode batches
        the segments of requests may take part in.
        """
        self._staged = np.empty((layers, CHUNK, top_k), dtype=np.uint16)
        self._filled = 0
        self._pieces: list[tuple[int, int, int, int, int]] = []
        self._segments: list[Ints] = []
        self._tokens = np.zeros((0, 2), dtype=np.int64)
        self._runs = np.zeros(2, dtype=np.int64)
        self._counts = np.zeros((0, layers, experts), dtype=np.int64)
        self._pairs = np.zeros((layers, experts, experts), dtype=np.int32)
        self._repeats = np.zeros((2, layers), dtype=np.int64)
        self._sums = np.zeros((2, layers, 3, experts), dtype=np.float64)  # between, inside and inside_chance
        self._open = np.zeros((layers, 2, experts), dtype=np.int64)  # the sums of c_w and of c_w^2 of an unfinished run
        self._seen = np.full((layers, experts), -2, dtype=np.int64)  # the clock when an expert was last chosen
        self._clock = 0  # advances by 1 a token
        self._batch_load = np.zeros((layers, batches, experts), dtype=np.int32)

    def add(self, experts: Ints, prompt_tokens: int, dataset: int = 0, segments: Ints = NO_SEGMENTS) -> None:
        """Add one request: experts `[token, layer, k]`, any integer type, no id twice in a token's k.

        The first `prompt_tokens` tokens are the prompt; `dataset` counts from 0. segments `[segment, 4]`: first step,
        first token, length and user slot of each stretch of this request's tokens that takes part in consecutive
        decode batches. Raises InputError for ids and ValueError for shapes and segments that do not fit.
        """
        self._check(experts, prompt_tokens, dataset, segments)
        while dataset >= len(self._tokens):
            self._tokens = np.append(self._tokens, [[0, 0]], axis=0)
            self._counts = np.append(self._counts, np.zeros((2, *self._counts.shape[1:]), dtype=np.int64), axis=0)
        for phase, start, stop in ((PROMPT, 0, prompt_tokens), (OUTPUT, prompt_tokens, len(experts))):
            if start < stop:
                self._tokens[dataset, phase] += stop - start
                self._runs[phase] += 1
                self._clock += 1  # a gap, so that the last token of the run before does not count as a neighbour
                self._stage_run(experts, start, stop, dataset * 2 + phase, segments)

    def finish(self) -> CorpusSummary:
        """The sums over all that was added. Raises InputError if that is nothing, or a token names an expert twice."""
        self._flush()
        if not self._tokens.any():
            raise InputError("there is no token to summarise; name requests that have some")
        doubled = np.flatnonzero(np.einsum("lee->l", self._pairs))
        if len(doubled):
            raise InputError(
                f"entry {doubled[0]} of the layer axis: a token names one expert twice; leave its request out"
            )
        layers, _, experts = self._pairs.shape
        pairs = self._pairs.astype(np.int64)
        pairs += self._pairs.transpose(0, 2, 1)
        between, inside, chance = (np.ascontiguousarray(self._sums[:, :, figure]) for figure in range(3))
        return CorpusSummary(
            top_k=self._staged.shape[2],
            tokens=self._tokens.copy(),
            runs=self._runs.copy(),
            counts=self._counts.reshape(-1, 2, layers, experts).copy(),
            pairs=pairs,
            repeats=self._repeats.copy(),
            between=between,
            inside=inside,
            inside_chance=chance,
            batch_load=self._batch_load.copy(),
        )

    def _check(self, experts: Ints, prompt_tokens: int, dataset: int, segments: Ints) -> None:
        """Raise as `add` does if a request does not fit, before anything of it is added."""
        layers, _, top_k = self._staged.shape
        if experts.ndim != 3 or experts.shape[1:] != (layers, top_k) or experts.dtype.kind not in "iu":
            raise ValueError(f"experts is {experts.dtype} {experts.shape}, not integers [token, {layers}, {top_k}]")
        if not 0 <= prompt_tokens <= len(experts) or dataset < 0:
            raise ValueError(f"{prompt_tokens} prompt tokens of {len(experts)} tokens in data set {dataset}")
        if experts.size and not 0 <= int(experts.min()) <= int(experts.max()) < self._seen.shape[1]:
            raise InputError(f"expert ids {experts.min()}..{experts.max()} are not within 0..{self._seen.shape[1] - 1}")
        if int(self._tokens.sum()) + len(experts) > MOST_TOKENS:
            raise InputError(f"more than {MOST_TOKENS:,} tokens would overflow the counts; summarise fewer requests")
        ends = segments[:, :2] + segments[:, 2:3]
        if (segments < 0).any() or (ends > [self._batch_load.shape[1], len(experts)]).any():
            raise ValueError("a segment leaves its request or the batches")

    def _stage_run(self, experts: Ints, start: int, stop: int, row: int, segments: Ints) -> None:
        """Stage the run start..stop-1 of a request, in pieces of whole windows if there is no room for all of it.

        row: the place of their data set and phase in the counts.
        """
        at = start
        while at < stop:
            room = CHUNK - self._filled
            size = stop - at if stop - at <= room else room // WINDOW * WINDOW
            if size == 0:
                self._flush()
                continue
            self._staged[:, self._filled : self._filled + size] = experts[at : at + size].transpose(1, 0, 2)
            finished = stop - start if at + size == stop else 0
            self._pieces.append((self._filled, size, row, self._clock, finished))
            self._segments.append(_cut(segments, at, at + size, self._filled))
            self._filled, self._clock, at = self._filled + size, self._clock + size, at + size

    def _flush(self) -> None:
        """Count all tokens that are staged, and start staging anew."""
        pieces = np.array(self._pieces, dtype=np.int64).reshape(-1, 5)
        _count(self._staged, pieces, self._counts, self._pairs, self._repeats, self._sums, self._open, self._seen)
        _count_batches(self._staged, np.concatenate([NO_SEGMENTS[:, :3], *self._segments]), self._batch_load)
        self._filled = 0
        self._pieces.clear()
        self._segments.clear()


def _cut(segments: Ints, start: int, stop: int, position: int) -> Ints:
    """The parts of segments that are within tokens start..stop-1 of a request, staged from `position` on.

    segments `[segment, 4]` as of `SummaryBuilder.add`. Returns `[segment, 3]` int64: the first step, the place where
    the first token is staged, and the length.
    """
    first = np.maximum(segments[:, 1], start)
    length = np.minimum(segments[:, 1] + segments[:, 2], stop) - first
    cut = np.stack([segments[:, 0] + first - segments[:, 1], first - start + position, length], axis=1)
    kept: Ints = cut[length > 0].astype(np.int64)
    return kept


@kernel
def _count(
    staged: Ints, pieces: Ints, counts: Ints, pairs: Ints, repeats: Ints, sums: Floats, carried: Ints, seen: Ints
) -> None:
    """Count pieces of runs that are staged in `[layer, token, k]`.

    pieces `[piece, 5]`: the place of the first token, how many tokens, the row of counts `[row, layer, expert]`, the
    clock at the first token, and the length of the whole run if it ends with this piece, else 0.
    """
    window = np.zeros(seen.shape[1], dtype=np.int64)
    for layer in range(len(staged)):
        for piece in range(len(pieces)):
            start, length, row, clock, finished = pieces[piece]
            phase = row % 2
            for first in range(0, length, WINDOW):
                last = min(first + WINDOW, length)
                for token in range(first, last):
                    repeats[phase, layer] += _count_token(
                        staged[layer, start + token], clock + token, pairs[layer], seen[layer], window
                    )
                if last - first == WINDOW:
                    _close_window(window, carried[layer])
            if finished:
                _close_run(finished, window, carried[layer], counts[row, layer], sums[phase, layer])


@kernel
def _count_token(chosen: Ints, now: int, pairs: Ints, seen: Ints, window: Ints) -> int:
    """Count one token, chosen `[k]`, at clock `now`; returns how many of its choices the token before made too."""
    again = 0
    for choice in range(len(chosen)):
        expert = np.int64(chosen[choice])
        window[expert] += 1
        again += seen[expert] == now - 1
        seen[expert] = now
        for other in range(choice):
            pairs[expert, np.int64(chosen[other])] += 1
    return again


@kernel
def _close_window(window: Ints, carried: Ints) -> None:
    """Add the counts of a whole window `[expert]`, and their squares, to those of its run, and clear the window."""
    for expert in range(len(window)):
        count = window[expert]
        carried[0, expert] += count
        carried[1, expert] += count * count
        window[expert] = 0


@kernel
def _close_run(tokens: int, tail: Ints, carried: Ints, counts: Ints, sums: Floats) -> None:
    """Add a finished run of `tokens` tokens to counts `[expert]` and sums `[3, expert]`, and clear what was carried.

    carried `[2, expert]`: the sums of the counts of its whole windows and of their squares. tail `[expert]`: the counts
    of the tokens after the last whole window.
    """
    windows = tokens // WINDOW
    inside = windows * WINDOW
    for expert in range(len(tail)):
        count = carried[0, expert]
        total = count + tail[expert]
        counts[expert] += total
        sums[0, expert] += total * total / tokens
        if windows > 1:
            sums[1, expert] += carried[1, expert] - count * count / windows
            sums[2, expert] += WINDOW * (windows - 1) * (count / inside) * ((inside - count) / (inside - 1))
        carried[0, expert] = 0
        carried[1, expert] = 0
        tail[expert] = 0


@kernel
def _count_batches(staged: Ints, segments: Ints, batch_load: Ints) -> None:
    """Add staged stretches `[segment, 3]` (step, from, length) to the loads of consecutive batches."""
    for layer in range(len(staged)):
        for segment in range(len(segments)):
            step, start, length = segments[segment]
            for token in range(length):
                for choice in range(staged.shape[2]):
                    batch_load[layer, step + token, np.int64(staged[layer, start + token, choice])] += 1
