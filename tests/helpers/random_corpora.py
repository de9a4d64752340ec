"""Small random corpora of requests, and plain ways to count what is in them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from formulations.kit.arrays import Ints
from optimizer.statistics.summary import NO_SEGMENTS, CorpusSummary, SummaryBuilder

LAYERS, EXPERTS, TOP_K, BATCHES = 2, 7, 3, 20


@dataclass
class Request:
    """One request of a random corpus: experts `[token, layer, k]`, and what else `SummaryBuilder.add` takes."""

    experts: Ints
    prompt: int
    dataset: int
    segments: Ints


def request(rng: np.random.Generator, tokens: int, experts: int = EXPERTS) -> Request:
    """A request with a liking for some experts, cut into phases and batches at random; expert 0 is never chosen."""
    liking = np.log(rng.exponential(size=(1, LAYERS, experts)))
    liking[..., 0] = -1e9
    chosen = np.argsort(-liking - rng.gumbel(size=(tokens, LAYERS, experts)), axis=2)[..., :TOP_K]
    segments = []
    for slot in range(rng.integers(0, 4)):
        first, step = int(rng.integers(tokens)), int(rng.integers(BATCHES))
        segments.append([step, first, int(rng.integers(0, min(tokens - first, BATCHES - step) + 1)), slot])
    prompt = int(rng.choice([0, tokens, int(rng.integers(tokens + 1))]))
    return Request(chosen.astype(np.uint8), prompt, int(rng.integers(3)), np.array(segments or NO_SEGMENTS))


def corpus(seed: int, requests: int, longest: int) -> list[Request]:
    """Random requests of up to `longest` tokens."""
    rng = np.random.default_rng(seed)
    return [request(rng, int(rng.integers(1, longest + 1))) for _ in range(requests)]


def summarise(requests: list[Request], change: Callable[[Ints], Any] = lambda experts: experts) -> CorpusSummary:
    """The summary of requests whose experts are given to the builder as `change` makes them."""
    builder = SummaryBuilder(LAYERS, EXPERTS, TOP_K, BATCHES)
    for one in requests:
        builder.add(change(one.experts), one.prompt, one.dataset, one.segments)
    return builder.finish()


def runs(requests: list[Request], layer: int) -> list[tuple[int, int, list[list[int]]]]:
    """(data set, phase, the experts of each token) of every run: the tokens of one request and phase, if any."""
    parts = [
        (one.dataset, phase, part[:, layer].tolist())
        for one in requests
        for phase, part in enumerate((one.experts[: one.prompt], one.experts[one.prompt :]))
    ]
    return [part for part in parts if part[2]]


def uses(tokens: list[list[int]], expert: int) -> int:
    """How many of the tokens chose the expert."""
    return sum(expert in token for token in tokens)


corpora = st.builds(corpus, st.integers(0, 2**31), st.integers(1, 6), st.sampled_from([3, 40, 110]))
