"""The one-pass summary of a corpus equals slow and obvious counting, in any pieces, types and layouts."""

from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from random_corpora import BATCHES, EXPERTS, LAYERS, TOP_K, Request, corpora, corpus, runs, summarise, uses

from formulations.kit.arrays import Ints
from optimizer.errors import InputError
from optimizer.statistics import summary
from optimizer.statistics.summary import NO_SEGMENTS, CorpusSummary, SummaryBuilder


def same(one: CorpusSummary, other: CorpusSummary) -> bool:
    """Whether two summaries are equal in all fields."""
    return all(np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))


@given(corpora)
def test_counts_runs_repeats_and_pairs_of_a_corpus_are_those_of_plain_counting(requests: list[Request]) -> None:
    found = summarise(requests)
    datasets = 1 + max(one.dataset for one in requests)
    assert found.counts.shape == (datasets, 2, LAYERS, EXPERTS)
    for layer in range(LAYERS):
        parts = runs(requests, layer)
        for phase in (0, 1):
            own = [tokens for _, part, tokens in parts if part == phase]
            assert found.runs[phase] == len(own)
            again = [len(set(a) & set(b)) for tokens in own for a, b in pairwise(tokens)]
            assert found.repeats[phase, layer] == sum(again)
            for dataset in range(datasets):
                pooled = [t for place, part, tokens in parts if (place, part) == (dataset, phase) for t in tokens]
                assert found.tokens[dataset, phase] == len(pooled)
                assert found.counts[dataset, phase, layer].tolist() == [uses(pooled, e) for e in range(EXPERTS)]
        for x in range(EXPERTS):
            for y in range(EXPERTS):
                both = sum(x in token and y in token for _, _, tokens in parts for token in tokens)
                assert found.pairs[layer, x, y] == (both if x != y else 0)


@given(corpora)
def test_loads_of_batches_are_those_of_laying_out_every_segment_token_by_token(requests: list[Request]) -> None:
    load = np.zeros((LAYERS, BATCHES, EXPERTS), dtype=int)
    for one in requests:
        for step, first, length, _ in one.segments.tolist():
            for i in range(length):
                for layer in range(LAYERS):
                    load[layer, step + i, one.experts[first + i, layer]] += 1
    assert (summarise(requests).batch_load == load).all()


@pytest.mark.parametrize("chunk", [32, 50, 64, 97])
def test_any_chunking_gives_the_same_summary(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = corpus(5, 25, 300)
    whole = summarise(requests)
    monkeypatch.setattr(summary, "CHUNK", chunk)
    assert same(summarise(requests), whole)


def test_a_summary_can_be_taken_on_the_way() -> None:
    requests = corpus(6, 12, 90)
    builder = SummaryBuilder(LAYERS, EXPERTS, TOP_K, BATCHES)
    for number, one in enumerate(requests):
        builder.add(one.experts, one.prompt, one.dataset, one.segments)
        assert same(builder.finish(), summarise(requests[: number + 1]))


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "i8", "u8", ">i4"])
def test_any_integer_type_gives_the_same_summary(dtype: str) -> None:
    requests = corpus(7, 6, 90)
    assert same(summarise(requests, lambda experts: experts.astype(dtype)), summarise(requests))


def test_any_memory_layout_gives_the_same_summary() -> None:
    requests = corpus(8, 6, 90)
    assert same(summarise(requests, lambda experts: np.repeat(experts, 2, axis=1)[:, ::2]), summarise(requests))
    assert same(summarise(requests, np.asfortranarray), summarise(requests))


def test_a_summary_is_read_only() -> None:
    found = summarise(corpus(9, 2, 20))
    with pytest.raises(ValueError, match="read-only"):
        found.pairs[0, 0, 0] = 1


GOOD = np.array([[[0, 1, 2]] * LAYERS] * 4)


@pytest.mark.parametrize(
    ("experts", "prompt", "dataset", "segments", "kind", "match"),
    [
        (GOOD[:, :1], 0, 0, NO_SEGMENTS, ValueError, r"\(4, 1, 3\), not integers \[token, 2, 3\]"),
        (GOOD * 1.0, 0, 0, NO_SEGMENTS, ValueError, "float64"),
        (GOOD + 5, 0, 0, NO_SEGMENTS, InputError, r"expert ids 5\.\.7 are not within 0\.\.6"),
        (GOOD - 1, 0, 0, NO_SEGMENTS, InputError, r"expert ids -1\.\.1"),
        (GOOD, 5, 0, NO_SEGMENTS, ValueError, "5 prompt tokens of 4"),
        (GOOD, -1, 0, NO_SEGMENTS, ValueError, "-1 prompt tokens"),
        (GOOD, 0, -1, NO_SEGMENTS, ValueError, "data set -1"),
        (GOOD, 0, 0, np.array([[0, 2, 3, 0]]), ValueError, "a segment leaves"),
        (GOOD, 0, 0, np.array([[18, 0, 3, 0]]), ValueError, "a segment leaves"),
        (GOOD, 0, 0, np.array([[-1, 0, 3, 0]]), ValueError, "a segment leaves"),
    ],
)
def test_what_does_not_fit_is_refused(
    experts: Ints, prompt: int, dataset: int, segments: Ints, kind: type[Exception], match: str
) -> None:
    builder = SummaryBuilder(LAYERS, EXPERTS, TOP_K, BATCHES)
    builder.add(GOOD, 2)
    before = builder.finish()
    with pytest.raises(kind, match=match):
        builder.add(experts, prompt, dataset, segments)
    assert same(builder.finish(), before)


def test_too_many_tokens_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "MOST_TOKENS", 7)
    builder = SummaryBuilder(LAYERS, EXPERTS, TOP_K)
    builder.add(GOOD, 0)
    with pytest.raises(InputError, match="more than 7 tokens would overflow"):
        builder.add(GOOD, 0)


def test_doubles_and_emptiness_are_refused_at_the_end() -> None:
    with pytest.raises(InputError, match="no token to summarise"):
        SummaryBuilder(LAYERS, EXPERTS, TOP_K).finish()
    builder = SummaryBuilder(LAYERS, EXPERTS, TOP_K)
    builder.add(np.concatenate([GOOD, [[[0, 1, 2], [4, 5, 4]]]]), 0)
    with pytest.raises(InputError, match="entry 1 of the layer axis: a token names"):
        builder.finish()
