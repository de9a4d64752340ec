"""Co-activation counts, lifts, graphs and expert sets equal those of sparse products, python sets and counters."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from formulations.kit.arrays import Ints
from optimizer.statistics.coactivation import hyperedges, lift, pair_counts
from optimizer.statistics.coactivation_graph import coactivation_graph


def choices(seed: int, tokens: int, experts: int, top_k: int) -> Ints:
    """Random choices, `[token, k]`, no expert twice in a token; the last expert is never chosen if it can be spared."""
    rng = np.random.default_rng(seed)
    usable = max(top_k, experts - 1)
    score = np.log(rng.exponential(size=usable)) + rng.gumbel(size=(tokens, usable))
    return np.argsort(-score, axis=1)[:, :top_k].astype(np.uint16)


def sparse_pair_counts(chosen: Ints, experts: int) -> Ints:
    """The same counts as a product of the sparse `[token, expert]` incidence matrix with itself."""
    tokens, k = chosen.shape
    ones, starts = np.ones(chosen.size, dtype=np.int64), np.arange(0, chosen.size + 1, k)
    incidence = sparse.csr_matrix((ones, chosen.ravel().astype(np.int32), starts), shape=(tokens, experts))
    counts: Ints = (incidence.T @ incidence).toarray()
    np.fill_diagonal(counts, 0)
    return counts


sizes = st.tuples(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 9), st.integers(1, 4)).filter(
    lambda size: size[3] <= size[2]
)


@given(sizes)
def test_pair_counts_are_the_sparse_product(size: tuple[int, int, int, int]) -> None:
    chosen = choices(*size)
    counts = pair_counts(chosen.astype(np.int64), size[2])
    assert counts.dtype == np.int64
    assert (counts == sparse_pair_counts(chosen, size[2])).all()


def test_pair_counts_of_batches_with_a_shared_expert() -> None:
    chosen = np.concatenate([choices(1, 600, 256, 8), np.full((600, 1), 256, dtype=np.uint16)], axis=1)
    counts = pair_counts(chosen.reshape(4, 150, 9), 257)
    assert (counts == sparse_pair_counts(chosen, 257)).all()
    assert counts[256, :256].sum() == 600 * 8


def test_pair_counts_of_a_million_tokens_of_256_experts_are_the_sparse_product() -> None:
    chosen = np.tile(choices(2, 10_000, 256, 8), (100, 1))
    assert (pair_counts(chosen, 256) == 100 * sparse_pair_counts(chosen[:10_000], 256)).all()


@given(sizes)
def test_lift_is_the_ratio_to_independent_choices(size: tuple[int, int, int, int]) -> None:
    _, tokens, experts, _ = size
    chosen = choices(*size)
    sets = [set(row) for row in chosen.tolist()]
    counts = np.bincount(chosen.ravel(), minlength=experts)
    ratio = lift(pair_counts(chosen, experts), counts, tokens)
    for x in range(experts):
        for y in range(experts):
            alone = [sum(expert in found for found in sets) / tokens for expert in (x, y)]
            both = sum(x in found and y in found for found in sets) / tokens
            if x == y or 0 in alone:
                assert np.isnan(ratio[x, y])
            else:
                assert ratio[x, y] == pytest.approx(both / (alone[0] * alone[1]))


@given(sizes, st.integers(1, 6))
def test_the_graph_has_the_pairs_of_enough_tokens(size: tuple[int, int, int, int], least: int) -> None:
    _, tokens, experts, _ = size
    chosen = choices(*size)
    pairs, counts = pair_counts(chosen, experts), np.bincount(chosen.ravel(), minlength=experts)
    graph = coactivation_graph(pairs, counts, tokens, least)
    met = Counter(pair for row in chosen.tolist() for pair in combinations(sorted(row), 2))
    single = Counter(chosen.ravel().tolist())
    assert dict(graph.nodes(data="count")) == {expert: single[expert] for expert in range(experts)}
    assert {(x, y): weight for x, y, weight in graph.edges(data="weight")} == {
        pair: weight for pair, weight in met.items() if weight >= least
    }
    for x, y, ratio in graph.edges(data="lift"):
        assert ratio == pytest.approx(met[x, y] * tokens / (single[x] * single[y]))


@given(sizes)
def test_hyperedges_merge_equal_sets(size: tuple[int, int, int, int]) -> None:
    chosen = choices(*size)
    sets, weights = hyperedges(chosen)
    counted = Counter(tuple(sorted(row)) for row in chosen.tolist())
    expected = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    assert list(zip(map(tuple, sets.tolist()), weights.tolist(), strict=True)) == expected


def test_hyperedges_of_batches_and_of_nothing() -> None:
    sets, weights = hyperedges(np.array([[[3, 1], [2, 0]], [[1, 3], [0, 1]]]))
    assert sets.tolist() == [[1, 3], [0, 1], [0, 2]]
    assert weights.tolist() == [2, 1, 1]
    sets, weights = hyperedges(np.empty((0, 4), dtype=np.uint16))
    assert (sets.shape, weights.shape) == ((0, 4), (0,))
