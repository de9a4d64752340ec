"""What chance leaves: its variance is below that of every placement, and its peak that of normal device loads."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import cost, random_batches, random_placement

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.problem import make_problem
from optimizer.planning.chance import MOST_BATCHES, chance_of, largest_normal, of_slots
from optimizer.planning.pool import LayerJudge
from optimizer.simulation.conditions import Conditions
from optimizer.traces.batches import Sets


def test_the_largest_of_normal_variables_is_what_tables_say() -> None:
    assert largest_normal(1) == pytest.approx(0.0, abs=1e-9)
    assert largest_normal(2) == pytest.approx(np.pi**-0.5)
    assert largest_normal(10) == pytest.approx(1.53875, abs=1e-5)  # Harter, Biometrika 48, 1961
    assert largest_normal(100) == pytest.approx(2.50759, abs=1e-5)


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 4))
def test_no_partition_of_the_slots_has_less_variance(seed: int, devices: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    batches, slots = int(rng.integers(2, 30)), devices * depth
    load = rng.poisson(rng.uniform(1, 40, slots), (batches, slots)) + 1
    load[:, 0] += np.roll(load[:, -1], 1)
    least = (of_slots(load, devices).least - 1) / largest_normal(devices)
    relative = load * devices / load.sum(axis=1, keepdims=True)
    for _ in range(20):
        of_device = relative[:, rng.permutation(slots)].reshape(batches, devices, depth).sum(axis=2)
        assert least**2 <= of_device.var(axis=0, ddof=1).sum() / (devices - 1) * (1 + 1e-9)


def test_independent_loads_peak_as_estimated() -> None:
    load = np.rint(np.random.default_rng(0).normal(1000, 50, (4000, 64))).astype(np.int64)
    found = of_slots(load, 64)
    assert found.least - 1 == pytest.approx(found.with_even_means - 1, rel=0.03)
    assert found.reached - 1 == pytest.approx(found.with_even_means - 1, rel=0.03)


def test_unequal_means_are_told_from_chance() -> None:
    rng = np.random.default_rng(1)
    even = rng.poisson(400, (500, 16))
    found, skewed = of_slots(even, 16), of_slots(even + 100 * (np.arange(16) == 3), 16)
    assert skewed.reached > found.reached + 0.1
    assert skewed.with_even_means == pytest.approx(found.with_even_means, rel=0.02)


def judge(routing: str) -> tuple[LayerJudge, np.random.Generator]:
    rng, model, mesh = np.random.default_rng(2), Model("m", 16, 1, 2), Mesh(4, 2, 3)
    batches = random_batches(rng, 40, 64, model, mesh.rows)
    problem = make_problem(model, mesh, cost(), batches.load(model.experts))
    return LayerJudge(problem, Sets(batches, batches, batches), Conditions(routing=routing)), rng


def test_a_placement_has_the_imbalance_that_the_simulator_finds() -> None:
    known, rng = judge("vllm")
    placement = random_placement(rng, 17, known.problem.mesh)
    found = chance_of(known, placement)
    assert found is not None
    assert known.sets.test.count <= MOST_BATCHES
    assert found.reached == pytest.approx(known.test(placement).imbalance.mean())
    assert f"{found.least:.3f} under vllm" in found.in_words("vllm")


@pytest.mark.parametrize("routing", ["optimal", "hint-device", "capacity-fill"])
def test_policies_that_look_at_loads_have_no_estimate(routing: str) -> None:
    known, rng = judge(routing)
    assert chance_of(known, random_placement(rng, 17, known.problem.mesh)) is None


def test_a_single_batch_has_no_estimate() -> None:
    known, rng = judge("even-source")
    one = known.sets.test.part(0, 1)
    assert chance_of(replace(known, sets=Sets(one, one, one)), random_placement(rng, 17, known.problem.mesh)) is None
