"""Shared experts outside the slots: every device computes them for its own tokens, before or after its slots."""

from dataclasses import replace

import numpy as np
import pytest
from random_problems import random_batches, random_placement

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.presets import load_hardware
from optimizer.planning.bounds import TIME, bound_any, bound_given
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.report import SimulationReport
from optimizer.simulation.simulator import simulate

MODEL, MESH = Model("small", 12, 0, 3, hidden_size=7168, expert_width=2048), Mesh(2, 2, 4)
BATCHES = random_batches(np.random.default_rng(1), 5, 330, MODEL, MESH.rows)
PLACEMENT = random_placement(np.random.default_rng(2), MODEL.experts, MESH)


def run(name: str, beside: int, **conditions: object) -> SimulationReport:
    cost = Cost(name, load_hardware(name)).for_model(replace(MODEL, shared_beside=beside))
    return simulate(PLACEMENT, BATCHES, MODEL, MESH, cost, Conditions(**conditions))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["h800", "gb200-nvl72"])
def test_each_device_works_longer_by_the_shared_experts_of_its_own_tokens(name: str) -> None:
    """165 tokens of a row are dealt out to two devices, as 83 and 82; dispatch and combine stay as they are."""
    without, with_two = run(name, 0), run(name, 2)
    slot = Cost(name, load_hardware(name)).slot_ns(200)
    assert slot[83] == slot[82]  # both are bound by reading the weights once, so the peak moves by just as much
    assert (with_two.compute_us - without.compute_us).tolist() == pytest.approx([2 * slot[83] / 1000] * 5)
    assert (with_two.dispatch_us == without.dispatch_us).all()
    assert (with_two.combine_us == without.combine_us).all()


def test_they_take_time_where_tokens_overlap_too_and_longer_on_slow_devices() -> None:
    slot = Cost("h800", load_hardware("h800")).slot_ns(200)
    without, with_one = run("h800", 0, timing="overlap"), run("h800", 1, timing="overlap")
    assert (with_one.latency_us - without.latency_us).tolist() == pytest.approx([slot[83] / 1000] * 5)
    slow, slower = run("h800", 0, slow={0: 1e3}), run("h800", 1, slow={0: 1e3})
    assert (slower.compute_us - slow.compute_us).tolist() == pytest.approx([slot[83]] * 5)


def test_on_a_row_that_shares_its_tokens_they_are_dealt_out_to_its_devices() -> None:
    """On Wormhole a row's tokens are on all its devices: 165 of them are 83 for each of two, which is three tiles."""
    name = "tt-wormhole-galaxy"
    longer = run(name, 1).compute_us - run(name, 0).compute_us
    assert longer.tolist() == pytest.approx([117.5 + 2 * 130.0] * 5)


def test_bounds_on_compute_hold_with_them_and_are_higher_by_them() -> None:
    for beside in (0, 1, 3):
        cost = Cost("h800", load_hardware("h800")).for_model(replace(MODEL, shared_beside=beside))
        found = [*bound_any(BATCHES, MODEL, MESH, cost), *bound_given(BATCHES, MODEL, MESH, cost, PLACEMENT)]
        means = [bound.mean for bound in found if bound.unit == TIME]
        assert len(means) == 2
        assert all(mean <= run("h800", beside, routing="optimal").compute_us.mean() + 1e-9 for mean in means)
        assert min(means) > beside * cost.slot_ns(1)[1] / 1000
