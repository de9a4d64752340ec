"""Every figure of experts' loads, made from counts, batches or a summary, equals slow and obvious counting."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_corpora import EXPERTS, LAYERS, TOP_K, Request, corpora, runs, summarise, uses

from formulations.kit.arrays import Ints
from optimizer.statistics import loads as statistics
from optimizer.statistics.drift import (
    dataset_drift,
    drift_matrix,
    drift_of_steps,
    parts_of_day,
    phase_drift,
    total_variation,
)
from optimizer.statistics.summary import SummaryBuilder


@cache
def shuffled_variance(tokens: int, users: int, drawn: int) -> float:
    """Variance of how many of `users` special ones are among `drawn` of `tokens` tokens drawn without replacement.

    This is the variance of a hypergeometric distribution, by summing over all numbers that can be drawn.
    """
    ways = {found: comb(users, found) * comb(tokens - users, drawn - found) for found in range(min(users, drawn) + 1)}
    mean = drawn * users / tokens
    return sum(count / comb(tokens, drawn) * (found - mean) ** 2 for found, count in ways.items())


def variance_ratio(parts: list[tuple[float, float]]) -> float:
    """The sum of seen variances over the sum of those by chance, for parts (seen, chance); nan if chance has none."""
    seen, chance = (sum(values) for values in zip(*parts, strict=True)) if parts else (0, 0)
    return seen / chance if chance > 1e-12 else np.nan


@given(corpora)
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


counts = st.lists(st.integers(0, 50), min_size=1, max_size=40).filter(any).map(np.array)


@given(counts)
def test_gini_top_share_and_hottest_are_those_of_plain_counting(values: Ints) -> None:
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
def test_figures_of_batch_loads_are_those_of_plain_counting(seed: int, batches: int, top_k: int) -> None:
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
def test_total_variation_is_half_the_sum_of_differences_of_shares(seed: int) -> None:
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


@given(st.integers(0, 2**31), st.integers(1, 70))
def test_drift_over_time_is_between_first_and_last_tenth(seed: int, steps: int) -> None:
    """Written out with slices: the ends of the day, and what differs between their even and odd steps by chance."""
    load = np.random.default_rng(seed).integers(1, 9, (steps, 6))
    size = max(2, steps // 10)
    if steps < 2 * size:
        assert np.isnan(drift_of_steps(load)).all()
        return
    first, last = load[:size], load[-size:]
    between = total_variation(first.sum(axis=0), last.sum(axis=0))
    even, odd = (first[start::2].sum(axis=0) + last[start::2].sum(axis=0) for start in (0, 1))
    assert drift_of_steps(load) == pytest.approx([between, total_variation(even, odd)])


def test_a_change_in_the_middle_of_the_day_is_drift_and_not_chance() -> None:
    load = np.repeat([[90, 10], [40, 60]], 50, axis=0)
    assert drift_of_steps(load) == pytest.approx([0.5, 0.0])
    assert parts_of_day(40).tolist() == [1, 2, 1, 2, *[0] * 32, 3, 4, 3, 4]


def test_two_samples_of_one_source_differ_as_said(rng: np.random.Generator) -> None:
    one, other = (rng.multinomial(4000, np.full(256, 1 / 256), 50) for _ in range(2))
    assert total_variation(one, other).mean() == pytest.approx((256 / (np.pi * 4000)) ** 0.5, rel=0.03)


@given(corpora)
@settings(max_examples=25)
def test_all_figures_of_a_layer_are_those_of_plain_counting(requests: list[Request]) -> None:
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
def test_figures_of_real_traces_equal_plain_numpy(real_traces: Path, model: str, entry: int, experts: int) -> None:
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
