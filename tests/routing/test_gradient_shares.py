"""Shares by gradients are shares, begin level, and level what one batch lets them level."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_layers import Case, cases

from optimizer.routing.gradient_shares import gradient_shares


@given(cases(), st.integers(0, 10**6))
def test_shares_of_each_expert_sum_to_one(drawn: Case, seed: int) -> None:
    load = np.random.default_rng(seed).integers(-3, 9, (4, drawn.model.experts)).clip(0)
    start, slot = drawn.placement.replicas(drawn.model.experts)
    share = gradient_shares(load, start, slot // drawn.mesh.slots_per_device, drawn.mesh.devices)
    assert (share >= 0).all()
    assert np.add.reduceat(share, start[:-1]) == pytest.approx(np.ones(drawn.model.experts))


def test_an_expert_on_every_device_of_a_large_mesh_keeps_its_shares() -> None:
    """An even share of 128 replicas is far below what would be little for two."""
    load, start = np.full((3, 1), 512), np.array([0, 128], dtype=np.int32)
    share = gradient_shares(load, start, np.arange(128, dtype=np.int32), 128)
    assert share == pytest.approx(np.full(128, 1 / 128), rel=0.01)


def test_one_batch_is_levelled() -> None:
    """Twelve pairs beside none and four: eight and four make both devices equal."""
    load, start = np.array([[12, 4]]), np.array([0, 2, 3], dtype=np.int32)
    share = gradient_shares(load, start, np.array([0, 1, 1], dtype=np.int32), 2)
    assert share == pytest.approx([2 / 3, 1 / 3, 1], abs=0.01)
