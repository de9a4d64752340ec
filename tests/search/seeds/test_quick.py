"""The quick placement of the expected load: valid, within its bound, and level where EPLB's counts cannot be."""

from itertools import combinations_with_replacement, product

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from random_problems import cost, small_problem

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Constraints, Problem, make_problem
from optimizer.errors import InputError
from optimizer.search.seeds.greedy import greedy
from optimizer.search.seeds.quick import quick


def peak(problem: Problem, placement: Placement) -> float:
    """The largest expected device load, added up slot by slot."""
    counts = placement.counts(problem.model.experts)
    share = [int(load) / int(count) for load, count in zip(problem.total_load, counts, strict=True)]
    rows: list[list[int]] = placement.slots.tolist()
    return max(sum(share[expert] for expert in row if expert >= 0) for row in rows)


def loaded(load: list[int], mesh: Mesh, shared: int = 0, extra: int | None = None) -> Problem:
    """A problem with these loads, those of shared experts last."""
    model = Model("drawn", len(load) - shared, shared, 1)
    return make_problem(model, mesh, cost(), np.array([load], dtype=np.int32), Constraints(None, extra))


@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4)),
    st.integers(1, 12),
    st.integers(0, 2),
    st.sampled_from([None, "auto", 1, 2, 5]),
    st.sampled_from([None, 0, 1, 4]),
)
def test_it_is_valid_and_has_as_many_replicas_as_it_may(
    seed: int, mesh: tuple[int, int, int], routed: int, shared: int, replicas: int | str | None, extra: int | None
) -> None:
    sizes = dict(zip(("rows", "cols", "slots"), mesh, strict=True)) | {"routed": routed, "shared": shared}
    try:
        problem, _ = small_problem(seed, **sizes, top_k=1, tokens=8, replicas=replicas, extra=extra)
    except InputError:
        reject()  # what does not fit is refused before any seed sees it
    placement = quick(problem, np.random.default_rng(seed))
    assert problem.violations(placement) == []
    counts = placement.counts(problem.model.experts)
    if problem.free_shared and (counts[problem.spread] != problem.shared_replicas).any():
        problem = problem.loose  # where a replica in each row would leave high peaks
    free = ~problem.spread
    assert counts[free].sum() == min(problem.most_free_replicas, problem.mesh.devices * int(free.sum()))


def least_of_all(problem: Problem, fixed: list[int]) -> float:
    """The least peak of all counts and placements, by trying all sets of experts on every device.

    fixed: the devices of the one shared expert, the last.
    """
    mesh, routed = problem.mesh, problem.model.routed_experts
    choices = []
    for device in range(mesh.devices):
        sets = combinations_with_replacement(range(-1, routed), mesh.slots_per_device - (device in fixed))
        own = [routed] if device in fixed else []
        choices.append([[*own, *s] for s in sets if len({e for e in s if e >= 0}) == sum(e >= 0 for e in s)])
    best = np.inf
    for rows in product(*choices):
        slots = np.full((mesh.devices, mesh.slots_per_device), -1)
        for device, row in enumerate(rows):
            slots[device, : len(row)] = row
        placement = Placement(slots)
        if not problem.violations(placement):
            best = min(best, peak(problem, placement))
    return best


@pytest.mark.parametrize("load", [[9, 5, 3, 2, 12], [6, 6, 6, 1, 12], [2, 2, 2, 2, 20], [30, 3, 2, 1, 10]])
def test_it_is_near_the_best_of_all_placements_of_a_tiny_layer(load: list[int]) -> None:
    problem = loaded(load, Mesh(2, 2, 2), shared=1)
    placement = quick(problem, np.random.default_rng(0))
    fixed = np.flatnonzero((placement.slots == 4).any(axis=1)).tolist()
    best = least_of_all(problem, fixed)
    assert best <= peak(problem, placement) <= 1.25 * best + 1e-9


def test_cold_experts_get_replicas_beside_a_hot_shared_one() -> None:
    rng = np.random.default_rng(5)
    load = np.rint(1000 * np.exp(0.6 * rng.standard_normal(64))).astype(int)
    problem = loaded([*load.tolist(), int(load.sum() // 4)], Mesh(8, 4, 3), shared=1)
    mean = problem.total_load.sum() / 32
    found = peak(problem, quick(problem, rng)) / mean
    assert found < 1.02
    assert peak(problem, greedy(problem)) / mean > found + 0.05


@pytest.mark.parametrize("extra", [None, 0, 3, 20])
def test_with_free_counts_it_is_no_worse_than_greedy(extra: int | None) -> None:
    rng = np.random.default_rng(6)
    load: Ints = np.rint(1000 * np.exp(0.6 * rng.standard_normal(60))).astype(int)
    problem = loaded(load.tolist(), Mesh(8, 4, 3), extra=extra)
    assert peak(problem, quick(problem, rng)) <= peak(problem, greedy(problem)) + 1e-9


def test_the_generator_alone_decides() -> None:
    problem, _ = small_problem(3, rows=4, cols=2, slots=3, routed=14, top_k=4)
    one, same, other = (quick(problem, np.random.default_rng(seed)).slots.tolist() for seed in (1, 1, 2))
    assert one == same != other


def test_no_load_at_all_is_placed() -> None:
    problem = loaded([0, 0, 0, 0, 0], Mesh(2, 2, 2), shared=1)
    assert problem.violations(quick(problem, np.random.default_rng(0))) == []
