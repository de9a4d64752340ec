"""Longest-first packing in a heap is that of looking at all devices for every replica."""

import numpy as np
from hypothesis import given, reject
from hypothesis import strategies as st
from random_problems import small_problem

from optimizer.domain.placement import EMPTY
from optimizer.errors import InputError
from optimizer.search.seeds.greedy import greedy_counts, heaviest_first
from optimizer.search.seeds.longest_first import longest_first, pack
from optimizer.search.seeds.packing import Packing


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 8))
def test_every_replica_goes_to_the_first_of_the_lightest_devices_that_it_fits(
    seed: int, devices: int, depth: int, experts: int
) -> None:
    rng = np.random.default_rng(seed)
    order, weight = rng.integers(0, experts, 2 * devices * depth), rng.integers(1, 4, experts).astype(np.float64)
    slots, load = np.full((devices, depth), EMPTY, dtype=np.int32), rng.integers(0, 3, devices).astype(np.float64)
    held, reached = [list[int]() for _ in range(devices)], load.tolist()
    for expert in order.tolist():
        fitting = [d for d in range(devices) if len(held[d]) < depth and expert not in held[d]]
        if fitting:
            best = min(fitting, key=lambda device: reached[device])
            held[best].append(expert)
            reached[best] += weight[expert]
    pack(slots, load, order, weight)
    assert [[expert for expert in row if expert != EMPTY] for row in slots.tolist()] == held
    assert load.tolist() == reached


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(0, 2), st.sampled_from([None, "auto", 1, 2]))
def test_placements_are_valid_and_keep_the_counts(
    seed: int, routed: int, shared: int, replicas: int | str | None
) -> None:
    try:
        problem, _ = small_problem(seed, routed=routed, shared=shared, top_k=1, tokens=8, replicas=replicas)
    except InputError:
        reject()  # what does not fit is refused before any seed sees it
    load, counts = problem.total_load.astype(np.float64), greedy_counts(problem)
    begun = Packing(problem, load / counts).slots
    placement = longest_first(problem, load, counts, begun)
    assert problem.violations(placement) == []
    assert placement.counts(problem.model.experts).tolist() == counts.tolist()
    assert sorted(heaviest_first(problem, counts)) == sorted(
        expert for expert in placement.slots[begun == EMPTY].tolist() if expert != EMPTY
    )
