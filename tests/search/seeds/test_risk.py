"""The seed by risk takes a device's risk from its loads over batches, and keeps experts apart that are hot together."""

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from random_problems import cost, small_problem
from reference_risk import device_risks

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.problem import Problem
from optimizer.errors import InputError
from optimizer.search.seeds.greedy import greedy, greedy_counts
from optimizer.search.seeds.risk import Z, loads_of, packed, risk, risk_counts


@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(0, 2),
    st.sampled_from([None, "auto", 1, 2]),
)
def test_it_is_valid_and_full(
    seed: int, rows: int, cols: int, slots: int, routed: int, shared: int, replicas: int | str | None
) -> None:
    try:
        problem, _ = small_problem(
            seed, rows=rows, cols=cols, slots=slots, routed=routed, shared=shared, top_k=1, tokens=8, replicas=replicas
        )
    except InputError:
        reject()  # what does not fit is refused before any seed sees it
    placement, mesh, free = risk(problem), problem.mesh, ~problem.spread
    assert placement.violations(problem.model.experts, mesh.devices, mesh.slots_per_device) == []
    counts = placement.counts(problem.model.experts)
    assert counts.tolist() == risk_counts(problem, loads_of(problem, Z).risk).tolist()
    assert counts[free].sum() == min(mesh.slots - counts[~free].sum(), mesh.devices * free.sum())


def slowly(load: Ints, counts: list[int], devices: int, depth: int, z: float) -> list[list[int]]:
    """The slots when the riskiest replica comes first, on the device whose mean + z deviations over batches is then
    least."""
    part = load / np.array(counts)
    each = part.mean(axis=0) + z * part.std(axis=0)
    held: list[list[int]] = [[] for _ in range(devices)]

    def found(device: list[int], expert: int) -> float:
        """The risk of a device with one expert more."""
        whole = part[:, [*device, expert]].sum(axis=1)
        return round(float(whole.mean() + z * whole.std()), 9)

    for expert in sorted(range(len(counts)), key=lambda expert: -each[expert]):
        for _ in range(counts[expert]):
            fitting = [device for device in held if len(device) < depth and expert not in device]
            min(fitting, key=lambda device: found(device, expert)).append(expert)
    return held


@given(st.integers(0, 10**6), st.sampled_from([0.0, Z, 2.0]))
def test_it_packs_by_what_devices_would_carry_in_the_batches(seed: int, z: float) -> None:
    load = np.random.default_rng(seed).integers(0, 50, size=(5, 7)).astype(np.int32)
    problem = Problem(Model("drawn", 7, 0, 1), Mesh(1, 7, 2), cost(), load, None)
    counts = [2] * 7
    assert packed(problem, loads_of(problem, z), np.array(counts)).slots.tolist() == slowly(load, counts, 7, 2, z)


@given(st.integers(0, 10**6), st.integers(1, 3))
def test_of_a_single_batch_it_is_greedy(seed: int, slots: int) -> None:
    given_, _ = small_problem(seed, rows=4, cols=2, slots=slots, routed=7, shared=1, replicas=1)
    one = Problem(given_.model, given_.mesh, given_.cost, given_.load[:1], given_.shared_replicas)
    assert risk_counts(one, loads_of(one, Z).risk).tolist() == greedy_counts(one).tolist()
    peaks = [device_risks(placement, one.load, Z).max() for placement in (risk(one), greedy(one))]
    assert peaks[0] == pytest.approx(peaks[1])


def test_experts_that_are_hot_in_the_same_batches_come_to_different_devices() -> None:
    load = np.array([[90, 10, 90, 10], [10, 90, 10, 90], [90, 10, 90, 10], [10, 90, 10, 90]], dtype=np.int32)
    problem = Problem(Model("drawn", 4, 0, 1), Mesh(1, 2, 2), cost(), load, None)
    held = {frozenset(device) for device in risk(problem, 1.0).slots.tolist()}
    assert held in ({frozenset({0, 1}), frozenset({2, 3})}, {frozenset({0, 3}), frozenset({1, 2})})


def test_a_bursty_expert_gets_the_replica_that_a_steady_one_of_the_same_load_does_not() -> None:
    load = np.array([[50, 95, 10], [50, 5, 10]], dtype=np.int32)
    problem = Problem(Model("drawn", 3, 0, 1), Mesh(1, 4, 1), cost(), load, None)
    assert risk(problem).counts(3).tolist() == [1, 2, 1]
    assert greedy(problem).counts(3).tolist() == [2, 1, 1]
