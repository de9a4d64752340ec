"""Seeds are always valid placements, and each is what its name says."""

from fractions import Fraction

import numpy as np
import pytest
import reference
from hypothesis import given, reject
from hypothesis import strategies as st
from random_problems import random_batches, small_problem

from optimizer.domain.placement import EMPTY
from optimizer.errors import InputError
from optimizer.search.seeds.flexibility import flexibility
from optimizer.search.seeds.greedy import greedy, greedy_counts
from optimizer.search.seeds.orders import random_permutation, sequential
from optimizer.search.seeds.packing import Packing
from optimizer.search.seeds.pairing import pairing
from optimizer.search.seeds.risk import risk
from optimizer.search.seeds.steps import steps

SEEDS = {
    "sequential": sequential,
    "random": lambda problem: random_permutation(problem, np.random.default_rng(1)),
    "pairing": pairing,
    "greedy": greedy,
    "risk": risk,
    "steps": steps,
    "flexibility": flexibility,
}


@pytest.mark.parametrize("name", SEEDS)
@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(0, 2),
    st.sampled_from([None, "auto", 1, 2, 5]),
    st.sampled_from([None, 0, 1, 4]),
)
def test_every_seed_is_valid_and_has_as_many_replicas_as_it_may(
    name: str,
    seed: int,
    rows: int,
    cols: int,
    slots: int,
    routed: int,
    shared: int,
    replicas: int | str | None,
    extra: int | None,
) -> None:
    sizes = {"rows": rows, "cols": cols, "slots": slots, "routed": routed, "shared": shared, "top_k": 1, "tokens": 8}
    try:
        problem, _ = small_problem(seed, **sizes, replicas=replicas, extra=extra)
    except InputError:
        reject()  # what does not fit is refused before any seed sees it
    placement = SEEDS[name](problem)
    mesh = problem.mesh
    assert problem.violations(placement) == []
    counts = placement.counts(problem.model.experts)
    if problem.shared_replicas is not None:
        assert (counts[routed:] == problem.shared_replicas).all()
    room, free = mesh.slots - int(counts[problem.spread].sum()), int((~problem.spread).sum())
    assert counts[~problem.spread].sum() == min(
        room, mesh.devices * free, mesh.slots if extra is None else free + extra
    )


def test_shared_replicas_stand_one_per_row_by_default() -> None:
    problem, _ = small_problem(1, rows=4, cols=2, slots=3, routed=9, shared=2)
    rows = sequential(problem).slots.reshape(4, -1)
    assert [(row == 9).sum() for row in rows] == [1] * 4
    assert [(row == 10).sum() for row in rows] == [1] * 4


def test_sequential_is_in_order() -> None:
    problem, _ = small_problem(1, rows=2, cols=2, slots=3, routed=8, shared=0)
    assert sequential(problem).slots.ravel().tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]


def test_random_permutation_depends_on_its_generator_alone() -> None:
    problem, _ = small_problem(1)
    once, again, other = (random_permutation(problem, np.random.default_rng(seed)).slots for seed in (5, 5, 6))
    assert (once == again).all()
    assert (once != other).any()


def test_pairing_puts_the_hottest_with_the_coldest() -> None:
    problem, _ = small_problem(4, rows=4, cols=2, slots=2, routed=16, shared=0, top_k=4)
    load = np.sort(problem.total_load)
    expected = sorted(zip(load[:8].tolist(), load[:7:-1].tolist(), strict=True))
    assert sorted(tuple(sorted(row)) for row in problem.total_load[pairing(problem).slots].tolist()) == expected


def test_pairing_doubles_the_hottest_when_there_is_room() -> None:
    problem, _ = small_problem(4, rows=4, cols=2, slots=3, routed=16, shared=0, top_k=4)
    hottest = np.argsort(-problem.total_load, kind="stable")[:8]
    counts = pairing(problem).counts(16)
    assert (counts[hottest] == 2).all()
    assert counts.sum() == 24


@given(st.integers(0, 10**6), st.integers(0, 6))
def test_greedy_counts_minimise_the_largest_load_per_replica(seed: int, extra: int) -> None:
    problem, _ = small_problem(seed, rows=1, cols=5 + extra, slots=1, routed=5, shared=0, top_k=2, tokens=20)
    load = problem.total_load.tolist()
    best = min(
        max(Fraction(t, n) for t, n in zip(load, counts, strict=True))
        for counts in reference.count_vectors(5, 5 + extra, 5 + extra)
    )
    counts = greedy_counts(problem).tolist()
    assert max(Fraction(t, n) for t, n in zip(load, counts, strict=True)) == best


def test_greedy_puts_the_heaviest_first_on_the_lightest() -> None:
    problem, _ = small_problem(8, rows=2, cols=2, slots=2, routed=8, shared=0, top_k=3)
    load = [0.0] * 4
    held: list[list[int]] = [[] for _ in range(4)]
    for expert in np.argsort(-problem.total_load, kind="stable").tolist():
        device = min((d for d in range(4) if len(held[d]) < 2), key=lambda d: (load[d], d))
        held[device].append(expert)
        load[device] += problem.total_load[expert]
    assert greedy(problem).slots.tolist() == held


def test_an_expert_that_fits_nowhere_makes_way() -> None:
    problem, _ = small_problem(1, rows=1, cols=2, slots=2, routed=3, shared=0, top_k=1)
    packing = Packing(problem, np.ones(3))
    for expert, device in ((0, 0), (1, 1), (2, 1)):
        packing.place(expert, device)
    packing.place_lightest(0)  # only device 0 has room, and it holds expert 0
    placement = packing.placement()
    assert placement.violations(3, 2, 2) == []
    assert placement.counts(3).tolist() == [2, 1, 1]
    assert (placement.slots != EMPTY).all()
    assert packing.load.tolist() == [2, 2]


def test_auto_gives_the_shared_expert_as_many_replicas_as_its_load_asks_for() -> None:
    problem, _ = small_problem(2, rows=4, cols=4, slots=2, routed=16, shared=1, replicas="auto")
    counts = greedy(problem).counts(17)
    assert counts[16] == counts.max() > 1


def test_what_cannot_fit_is_refused_with_the_options_to_change() -> None:
    with pytest.raises(InputError, match=r"10 experts do not fit in 6 slots"):
        small_problem(1, rows=3, cols=2, slots=1)
    with pytest.raises(InputError, match="7 replicas of each shared expert: between 1 and 6"):
        small_problem(1, replicas=7)
    with pytest.raises(InputError, match=r"but .* has none"):
        small_problem(1, shared=0, replicas=1)


def test_loads_count_shared_experts_once_per_token() -> None:
    problem, _ = small_problem(1, tokens=33)
    assert (problem.load[:, 9] == 33).all()
    assert problem.total_load.sum() == 6 * 33 * 4
    assert random_batches(np.random.default_rng(0), 2, 5, problem.model, 3).load(10).sum() == 2 * 5 * 4
