"""The order in which tokens of requests come, some steps at a time: slots that decode, and prompts laid end to end."""

from collections.abc import Iterator
from heapq import heappop, heappush

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.traces.trace import PROMPT, RoutingTrace

Segment = tuple[int, int, int, int, int]  # request, first step, first token, length, slot


def spans(trace: RoutingTrace, requests: Ints, output: bool) -> Ints:
    """The first and the past-the-last token of each request's output or prompt, `[request, 2]`.

    A request whose output or prompt is empty gives all of its tokens.
    """
    before = np.concatenate([[0], np.cumsum(trace.phase == PROMPT)])
    start, stop = trace.offsets[requests], trace.offsets[requests + 1]
    middle = start + before[stop] - before[start]
    part = np.stack([middle, stop] if output else [start, middle], axis=1)
    empty = part[:, 0] == part[:, 1]
    return np.where(empty[:, None], np.stack([start, stop], axis=1), part)


def walk(tokens_of: Ints, slots: int, steps: int, chunk: int, rng: np.random.Generator) -> Iterator[Ints]:
    """Yield token indices `[step, slot]` of slots that work through a queue of requests, one token a step.

    They come `chunk` steps at a time; only the segments that reach into the chunk are held in memory.
    """
    segments = walk_segments(tokens_of, slots, steps, rng)
    running: list[Segment] = []
    coming = next(segments, None)
    for start in range(0, steps, chunk):
        stop = min(start + chunk, steps)
        while coming is not None and coming[1] < stop:
            running.append(coming)
            coming = next(segments, None)
        yield _tokens_of_steps(running, slots, start, stop)
        running = [segment for segment in running if segment[1] + segment[3] > stop]


def _tokens_of_steps(running: list[Segment], slots: int, start: int, stop: int) -> Ints:
    """Token indices `[step, slot]` of steps start..stop-1, in each of which every slot has a segment."""
    index = np.empty((slots, stop - start), dtype=np.int64)
    for _, step, token, length, slot in running:
        first, last = max(step, start), min(step + length, stop)
        index[slot, first - start : last - start] = np.arange(token + first - step, token + last - step)
    return index.T


def walk_segments(tokens_of: Ints, slots: int, steps: int, rng: np.random.Generator) -> Iterator[Segment]:
    """Yield the walk of all slots as segments, which are stretches of consecutive tokens, ordered by first step."""
    free = [(0, slot) for slot in range(slots)]  # a heap: when each slot asks for its next request
    first_pass = True
    while True:
        for request in rng.permutation(len(tokens_of)):
            start, stop = map(int, tokens_of[request])
            now, slot = heappop(free)
            if now >= steps:  # the earliest free slot is done, so all are
                return
            if now == 0 or not first_pass:
                start = int(rng.integers(start, stop))
            end = min(now + stop - start, steps)
            yield int(request), now, start, end - now, slot
            heappush(free, (end, slot))
        first_pass = False


def lay(tokens_of: Ints, slots: int, steps: int, chunk: int, rng: np.random.Generator) -> Iterator[Ints]:
    """Yield token indices `[step, slot]` of whole requests laid end to end, `chunk` steps at a time."""
    laid = _shuffled(tokens_of, rng)
    rest: Ints = np.empty(0, dtype=np.int64)
    for start in range(0, steps, chunk):
        wanted = (min(start + chunk, steps) - start) * slots
        parts, missing = [rest], wanted - len(rest)
        while missing > 0:
            parts.append(next(laid))
            missing -= len(parts[-1])
        together = np.concatenate(parts)
        rest = together[wanted:].copy()
        yield together[:wanted].reshape(-1, slots)


def _shuffled(tokens_of: Ints, rng: np.random.Generator) -> Iterator[Ints]:
    """Yield the tokens of one request after another without end; each round has another random order."""
    while True:
        for request in rng.permutation(len(tokens_of)):
            yield np.arange(*tokens_of[request])
