"""How many replicas shared experts have at least: with fewer, every batch takes too long to compute."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import cost, random_batches

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.planning.compute_bounds import least_shared_replicas


def hardware_of(rng: np.random.Generator) -> Cost:
    """The default hardware with smaller tiles, so that a few tokens fill several."""
    known = cost()
    compute = known.preset.compute.model_copy(update={"tile_tokens": int(rng.integers(1, 4))})
    return replace(known, preset=known.preset.model_copy(update={"compute": compute}))


def parts(tokens: int, slots: int) -> list[list[int]]:
    """All ways to share out tokens among slots."""
    if slots == 1:
        return [[tokens]]
    return [[here, *rest] for here in range(tokens + 1) for rest in parts(tokens - here, slots - 1)]


@pytest.mark.parametrize(
    ("limit_us", "least"), [(100.0, 24), (200.0, 16), (300.0, 8), (400.0, 6), (600.0, 4), (9999.0, 1)]
)
def test_fewer_replicas_of_the_shared_expert_take_more_tiles(limit_us: float, least: int) -> None:
    """512 tokens in tiles of 32, of which a slot takes 117.5 us for the first and 130 for each other: 16 replicas take
    one tile each, 8 two. If even that takes too long, all slots that the 8 routed experts leave are not too many."""
    batches = random_batches(np.random.default_rng(0), 2, 512, Model("m", 8, 1, 2), 16)
    assert least_shared_replicas(np.full(2, limit_us), batches, Model("m", 8, 1, 2), Mesh(16, 2, 1), cost()) == least


@given(st.integers(0, 10**6), st.integers(1, 3))
def test_no_way_to_share_tokens_out_among_fewer_replicas_is_quicker(seed: int, shared: int) -> None:
    rng = np.random.default_rng(seed)
    model, mesh, hardware = Model("m", 4, shared, 2), Mesh(2, 4, 2), hardware_of(rng)
    batches = random_batches(rng, 2, 9, model, 2)
    limit = rng.uniform(100, 1000, 2)
    least = least_shared_replicas(limit, batches, model, mesh, hardware)
    assert 1 <= least <= (mesh.slots - model.routed_experts) // shared
    slot_us = hardware.slot_ns(9) / 1000
    for replicas in range(1, least):
        quickest = min(max(slot_us[part] for part in shares) for shares in parts(9, replicas))
        assert all(quickest >= limit)
