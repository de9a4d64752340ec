"""Annealing and regrouping of expected loads: what they keep up to date equals a fresh start at every step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formulations.expected_load.load_annealing import Layout, anneal, deal, layout_of, slots_of
from formulations.expected_load.load_regrouping import regroup, tables_for
from formulations.kit.arrays import Ints
from optimizer.domain.placement import Placement

SHAPES = [(2, 3, 3), (4, 2, 2), (3, 1, 4), (5, 2, 1)]


def drawn(seed: int, shape: tuple[int, int, int]) -> tuple[Layout, int]:
    """A dealt layout with some replicas, some empty slots and one spread expert, and the number of experts."""
    rng, (rows, cols, depth) = np.random.default_rng(seed), shape
    counts = np.ones(int(rng.integers(1, rows * cols * depth - rows + 2)), dtype=np.int64)
    counts[0] = rows
    for expert in rng.integers(0, len(counts), rng.integers(0, rows * cols * depth)):
        counts[expert] += counts.sum() < rows * cols * depth and counts[expert] < rows * cols
    load = rng.random(len(counts))
    spread = np.arange(len(counts)) == 0
    return layout_of(load / load.sum() * rows * cols, deal(load, counts, rows, cols, depth), spread, cols), len(counts)


def assert_consistent(layout: Layout, experts: int) -> None:
    """Check that a layout is valid, has the spread expert in every row, and equals a layout made from its slots."""
    slots = slots_of(layout)
    assert Placement(slots).violations(experts, *slots.shape) == []
    assert (slots.reshape(-1, layout.cols * layout.depth) == 0).any(axis=1).all()
    fresh = layout_of(layout.load[:-1], slots, layout.spread[:-1], layout.cols)
    assert np.array_equal(layout.replicas, fresh.replicas)
    assert np.allclose(layout.weight, fresh.weight)
    assert np.allclose(layout.device, fresh.device)
    for expert in range(experts):
        held = layout.holder[expert, : layout.replicas[expert]]
        assert sorted(held.tolist()) == np.flatnonzero(layout.slots == expert).tolist()
        assert layout.seat[held].tolist() == list(range(len(held)))


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from(SHAPES), st.sampled_from([0.0, 0.5]))
def test_every_step_of_a_walk_is_consistent(seed: int, shape: tuple[int, int, int], replicas: float) -> None:
    layout, experts = drawn(seed, shape)
    counts, rng = layout.replicas.copy(), np.random.default_rng(seed)
    for _ in range(40):
        anneal(layout, 0.0, 5, 1.0, 0.1, replicas, rng)
        assert_consistent(layout, experts)
        assert replicas or np.array_equal(layout.replicas, counts)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from(SHAPES))
def test_regrouping_keeps_counts_and_never_raises_the_peak(seed: int, shape: tuple[int, int, int]) -> None:
    layout, experts = drawn(seed, shape)
    counts, rng, peak = layout.replicas.copy(), np.random.default_rng(seed), layout.device.max()
    for _ in range(10):
        regroup(layout, 1.0, 50, 20, rng)
        assert_consistent(layout, experts)
        assert np.array_equal(layout.replicas, counts)
        assert layout.device.max() <= peak * (1 + 1e-12)
        peak = layout.device.max()


def test_regrouping_finds_what_exchanges_cannot() -> None:
    """Three devices at 13, 15 and 17: no exchange helps, a regrouping balances them."""
    load = np.array([1.0, 5.0, 9.0, 2.0, 6.0, 7.0, 3.0, 4.0, 8.0])
    layout = layout_of(load, np.array([[0, 3, 6], [1, 4, 7], [2, 5, 8]]), np.zeros(9, dtype=np.bool_), 3)
    regroup(layout, 15.0, 5000, 100, np.random.default_rng(0))
    assert layout.device.tolist() == [15, 15, 15]


@pytest.mark.parametrize(("picked", "ways"), [(1, (1, 2)), (2, (5, 6)), (3, (28, 20))])
def test_tables_hold_every_way_once(picked: int, ways: tuple[int, int]) -> None:
    tables = tables_for(picked)
    assert (len(tables.first), len(tables.second)) == ways
    for table, size in zip(tables, (3 * picked, 2 * picked), strict=True):
        assert all(sorted(way) == list(range(size)) for way in table.tolist())
        assert len({frozenset(way[:picked]) for way in table.tolist()}) == len(table)


def test_dealing_spreads_replicas_and_refuses_too_many() -> None:
    slots: Ints = deal(np.array([9, 4, 1]), np.array([5, 2, 1]), 3, 2, 2)
    assert Placement(slots).violations(3, 6, 2) == []
    assert sorted((slots.reshape(3, -1) == 0).sum(axis=1).tolist()) == [1, 2, 2]
    with pytest.raises(ValueError, match="do not fit"):
        deal(np.array([9, 4]), np.array([3, 1]), 1, 2, 2)
