"""The one-pass summary of a corpus, and every figure made from it, against slow and obvious counting."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from itertools import pairwise
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formulations.kit.arrays import Ints
from optimizer.errors import InputError
from optimizer.statistics import loads as statistics
from optimizer.statistics import summary
from optimizer.statistics.drift import dataset_drift, drift_matrix, phase_drift, total_variation
from optimizer.statistics.summary import NO_SEGMENTS, CorpusSummary, SummaryBuilder

LAYERS, EXPERTS, TOP_K, BATCHES = 2, 7, 3, 20


@dataclass
class Request:
    """One request of a random corpus."""

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
    rng = np.random.default_rng(seed)
    return [request(rng, int(rng.integers(1, longest + 1))) for _ in range(requests)]


def summarise(requests: list[Request], change: Callable[[Ints], Any] = lambda experts: experts) -> CorpusSummary:
    builder = SummaryBuilder(LAYERS, EXPERTS, TOP_K, BATCHES)
    for one in requests:
        builder.add(change(one.experts), one.prompt, one.dataset, one.segments)
    return builder.finish()


def runs(requests: list[Request], layer: int) -> list[tuple[int, int, list[list[int]]]]:
    """(data set, phase, tokens' choices) of every request and phase."""
    parts = [
        (one.dataset, phase, part[:, layer].tolist())
        for one in requests
        for phase, part in enumerate((one.experts[: one.prompt], one.experts[one.prompt :]))
    ]
    return [part for part in parts if part[2]]


def uses(tokens: list[list[int]], expert: int) -> int:
    return sum(expert in token for token in tokens)


def same(one: CorpusSummary, other: CorpusSummary) -> bool:
    return all(np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))


corpora = st.builds(corpus, st.integers(0, 2**31), st.integers(1, 6), st.sampled_from([3, 40, 110]))


@given(corpora)
@settings(max_examples=40)
def test_the_counts_of_a_corpus(requests: list[Request]) -> None:
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
@settings(max_examples=40)
def test_the_loads_of_the_batches(requests: list[Request]) -> None:
    load = np.zeros((LAYERS, BATCHES, EXPERTS), dtype=int)
    for one in requests:
        for step, first, length, _ in one.segments.tolist():
            for i in range(length):
                for layer in range(LAYERS):
                    load[layer, step + i, one.experts[first + i, layer]] += 1
    assert (summarise(requests).batch_load == load).all()


@cache
def shuffled_variance(tokens: int, users: int, drawn: int) -> float:
    """Variance of the users among tokens drawn without putting back, by summing over what can be drawn."""
    ways = {found: comb(users, found) * comb(tokens - users, drawn - found) for found in range(min(users, drawn) + 1)}
    mean = drawn * users / tokens
    return sum(count / comb(tokens, drawn) * (found - mean) ** 2 for found, count in ways.items())


def variance_ratio(parts: list[tuple[float, float]]) -> float:
    """Sum of what was seen over sum of what shuffling would leave, nan if that is nothing."""
    seen, chance = (sum(values) for values in zip(*parts, strict=True)) if parts else (0, 0)
    return seen / chance if chance > 1e-12 else np.nan


@given(corpora)
@settings(max_examples=40)
def test_burstiness_is_variance_over_that_of_shuffled_tokens(requests: list[Request]) -> None:
    found = summarise(requests)
    for layer in range(LAYERS):
        between = statistics.request_burstiness(found, layer)
        inside = statistics.window_burstiness(found, layer)
        for expert in range(EXPERTS):
            requests_of, windows_of = [], []
            for phase in (0, 1):
                own = [tokens for _, part, tokens in runs(requests, layer) if part == phase]
                every = [token for tokens in own for token in tokens]
                for tokens in own:
                    t, p = len(tokens), uses(every, expert) / len(every)
                    chance = shuffled_variance(len(every), uses(every, expert), t) / t if len(own) > 1 else 0
                    requests_of.append(((uses(tokens, expert) - t * p) ** 2 / t, chance))
                    whole = tokens[: t // 32 * 32]
                    counts = [uses(whole[at : at + 32], expert) for at in range(0, len(whole), 32)]
                    if len(counts) > 1:
                        chance = len(counts) * shuffled_variance(len(whole), sum(counts), 32)
                        windows_of.append((float(np.var(counts)) * len(counts), chance))
            assert between[expert] == pytest.approx(variance_ratio(requests_of), nan_ok=True)
            assert inside[expert] == pytest.approx(variance_ratio(windows_of), nan_ok=True)


def test_burstiness_tells_likings_from_stretches_from_chance(rng: np.random.Generator) -> None:
    def figures(pick: Callable[[int, int], float]) -> tuple[float, float]:
        """Mean burstiness of experts 0..2 where token t of request r takes one of them more likely, as `pick` says."""
        builder = SummaryBuilder(1, 8, 1)
        for number in range(60):
            liked = np.array([pick(number, token) for token in range(320)]).astype(int) % 3
            chosen = np.where(rng.random(320) < 0.5, liked, rng.integers(0, 8, 320))
            builder.add(chosen[:, None, None], 0)
        found = builder.finish()
        between, inside = statistics.request_burstiness(found, 0), statistics.window_burstiness(found, 0)
        return float(between[:3].mean()), float(inside[:3].mean())

    assert figures(lambda number, token: token) == pytest.approx((1, 1), abs=0.3)
    between, inside = figures(lambda number, token: number)
    assert between > 20
    assert inside == pytest.approx(1, abs=0.2)
    between, inside = figures(lambda number, token: token // 32)
    assert between < 1.5
    assert inside > 5


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


counts = st.lists(st.integers(0, 50), min_size=1, max_size=40).filter(any).map(np.array)


@given(counts)
def test_figures_of_counts(values: Ints) -> None:
    plain = values.tolist()
    gaps = sum(abs(x - y) for x in plain for y in plain)
    assert statistics.gini(values) == pytest.approx(gaps / (2 * len(plain) * sum(plain)))
    assert statistics.top_share(values) == pytest.approx(sum(sorted(plain, reverse=True)[:32]) / sum(plain))
    assert statistics.top_share(values, 2) == pytest.approx(sum(sorted(plain, reverse=True)[:2]) / sum(plain))
    assert statistics.hottest_over_mean(values) == pytest.approx(max(plain) * len(plain) / sum(plain))
    rows = np.array([values, values + 1])
    for figure in (statistics.gini, statistics.top_share, statistics.hottest_over_mean):
        assert figure(rows) == pytest.approx([figure(rows[0]), figure(rows[1])])


@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(2, 5))
def test_figures_of_batch_loads(seed: int, batches: int, top_k: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 30, batches)
    choices = [[rng.permutation(8)[:top_k] + (rng.random() < 0.5) for _ in range(count)] for count in tokens]
    load = np.array([np.bincount(np.ravel(chosen), minlength=9) for chosen in choices])
    found = statistics.load_figures(load, top_k)
    assert found.mean == pytest.approx(load.sum(axis=0) / batches)
    assert found.std == pytest.approx(np.sqrt(np.diag(found.covariance)))
    assert found.covariance == pytest.approx(np.cov(load, rowvar=False, bias=True))
    for expert in range(9):
        column = sorted(load[:, expert].tolist())
        assert found.max[expert] == column[-1]
        for level, value in ((0.95, found.p95[expert]), (0.99, found.p99[expert])):
            below, part = divmod(level * (batches - 1), 1)
            above = min(int(below) + 1, batches - 1)
            assert value == pytest.approx(column[int(below)] * (1 - part) + column[above] * part)
        p = load[:, expert].sum() / tokens.sum()
        seen = sum((c - n * p) ** 2 for c, n in zip(load[:, expert].tolist(), tokens.tolist(), strict=True))
        chance = sum(n * p * (1 - p) for n in tokens.tolist())
        assert found.burstiness[expert] == pytest.approx(seen / chance if 0 < p < 1 else np.nan, nan_ok=True)


def test_batch_burstiness_is_one_for_independent_tokens(rng: np.random.Generator) -> None:
    load = np.array([np.bincount(rng.choice(6, 400, p=[0.4, 0.3, 0.1, 0.1, 0.1, 0]), minlength=6) for _ in range(2000)])
    found = statistics.batch_burstiness(load, 1)
    assert found[:5] == pytest.approx(1, abs=0.15)
    assert np.isnan(found[5])


@given(st.integers(0, 2**31))
def test_total_variation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 9, (3, 2, 6)) + np.eye(6, dtype=int)[0]
    matrix = drift_matrix(values)
    for a in range(3):
        for b in range(3):
            for layer in range(2):
                x, y = values[a, layer].tolist(), values[b, layer].tolist()
                expected = sum(abs(i / sum(x) - j / sum(y)) for i, j in zip(x, y, strict=True)) / 2
                assert matrix[a, b, layer] == pytest.approx(expected)
                assert total_variation(values[a, layer], values[b, layer]) == pytest.approx(expected)
    assert total_variation(np.array([3, 0]), np.array([0, 8])) == 1
    assert np.isnan(total_variation(np.array([3, 0]), np.array([0, 0])))


def test_two_samples_of_one_source_differ_as_said(rng: np.random.Generator) -> None:
    one, other = (rng.multinomial(4000, np.full(256, 1 / 256), 50) for _ in range(2))
    assert total_variation(one, other).mean() == pytest.approx((256 / (np.pi * 4000)) ** 0.5, rel=0.03)


@given(corpora)
@settings(max_examples=25)
def test_the_figures_of_a_layer(requests: list[Request]) -> None:
    found = summarise(requests)
    for layer in range(LAYERS):
        figures = statistics.layer_figures(found, layer)
        tokens = [token for _, _, part in runs(requests, layer) for token in part]
        expected = np.array([uses(tokens, expert) for expert in range(EXPERTS)])
        assert figures.tokens == len(tokens)
        assert (figures.counts == expected).all()
        assert figures.gini == statistics.gini(expected)
        assert figures.top_share == 1
        assert figures.hottest == statistics.hottest_over_mean(expected)
        neighbours = [(a, b) for _, _, part in runs(requests, layer) for a, b in pairwise(part)]
        overlap = np.mean([len(set(a) & set(b)) / TOP_K for a, b in neighbours]) if neighbours else np.nan
        assert figures.overlap == pytest.approx(overlap, nan_ok=True)
        anyone = [len(set(a) & set(b)) / TOP_K for a in tokens for b in tokens]
        assert figures.chance_overlap == pytest.approx(np.mean(anyone))
        lifts = [
            sum({x, y} <= set(token) for token in tokens) * len(tokens) / (expected[x] * expected[y])
            for x in range(EXPERTS)
            for y in range(x)
            if expected[x] * expected[y]
        ]
        assert figures.lift_quantiles == pytest.approx(np.quantile(lifts, [0.05, 0.25, 0.5, 0.75, 0.95, 0.99]))
        assert figures.load is not None
        assert (figures.load.max == found.batch_load[layer].max(axis=0)).all()
        assert np.array_equal(figures.dataset_drift, dataset_drift(found)[:, :, layer], equal_nan=True)
        by_phase = [[t for _, part, own in runs(requests, layer) if part == phase for t in own] for phase in (0, 1)]
        prompt, output = ([uses(own, expert) for expert in range(EXPERTS)] for own in by_phase)
        assert figures.phase_drift == pytest.approx(total_variation(np.array(prompt), np.array(output)), nan_ok=True)
        assert figures.phase_drift == pytest.approx(phase_drift(found)[layer], nan_ok=True)


def test_without_batches_there_are_no_loads_and_without_pairs_no_lifts() -> None:
    builder = SummaryBuilder(1, 1, 1)
    builder.add(np.zeros((2, 1, 1), dtype=np.uint8), 0)
    figures = statistics.layer_figures(builder.finish(), 0)
    assert figures.load is None
    assert np.isnan(figures.lift_quantiles).all()
    assert (figures.overlap, figures.chance_overlap, figures.gini) == (1, 1, 0)


@pytest.mark.parametrize(("model", "entry", "experts"), [("deepseek-v2-lite", 11, 64), ("gpt-oss-20b", 12, 32)])
def test_real_traces(real_traces: Path, model: str, entry: int, experts: int) -> None:
    folders = sorted(path for path in (real_traces / model).iterdir() if path.is_dir())
    parts, builder = [], None
    for dataset, folder in enumerate(folders):
        for file in sorted(folder.glob("*.npz")):
            with np.load(file, allow_pickle=False) as archive:
                chosen, prompt = archive["routed_experts"][:, [entry]], len(archive["prompt_token_ids"])
            builder = builder or SummaryBuilder(1, experts, chosen.shape[2])
            builder.add(chosen, min(prompt, len(chosen)), dataset)
            parts.append((dataset, chosen[:, 0].astype(int)))
    assert builder is not None
    found = builder.finish()
    figures = statistics.layer_figures(found, 0)

    shares = []
    for dataset in range(len(folders)):
        counted = np.bincount(np.concatenate([c.ravel() for d, c in parts if d == dataset]), minlength=experts)
        shares.append(counted / counted.sum())
    expected = np.bincount(np.concatenate([c.ravel() for _, c in parts]), minlength=experts)
    assert figures.counts.tolist() == expected.tolist()
    mean_gap = np.abs(expected[:, None] - expected[None]).mean()
    assert figures.gini == pytest.approx(mean_gap / 2 / expected.mean())
    assert figures.top_share == pytest.approx(np.sort(expected)[::-1][:32].sum() / expected.sum())
    assert figures.hottest == pytest.approx(expected.max() / expected.mean())
    for a, one in enumerate(shares):
        for b, other in enumerate(shares):
            assert figures.dataset_drift[a, b] == pytest.approx(np.abs(one - other).sum() / 2)
    again = sum((c[1:, :, None] == c[:-1, None, :]).sum() for _, c in parts)
    assert figures.overlap == pytest.approx(again / sum(c[1:].size for _, c in parts))
    chose = np.concatenate([(c[:, :, None] == np.arange(experts)).any(axis=1) for _, c in parts]).astype(float)
    both = chose.T @ chose * (1 - np.eye(experts))
    assert (found.pairs[0] == both).all()
    lifts = (both * len(chose) / np.outer(expected, expected))[np.triu_indices(experts, 1)]
    assert figures.lift_quantiles == pytest.approx(np.quantile(lifts, statistics.LIFT_QUANTILES))
    hot = np.array([[(c == e).any(axis=1).sum(), len(c)] for _, c in parts for e in [expected.argmax()]])
    p = hot[:, 0].sum() / hot[:, 1].sum()
    pearson = ((hot[:, 0] - hot[:, 1] * p) ** 2 / hot[:, 1]).sum() / (p * (1 - p) * (len(hot) - 1))
    assert figures.request_burstiness[expected.argmax()] == pytest.approx(pearson, rel=1e-3)
