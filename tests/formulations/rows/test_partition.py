"""The seed by partition is valid and repeatable, and puts experts of one token in few rows and many columns."""

from itertools import combinations
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from random_problems import cost, small_problem

from formulations.kit.arrays import Ints
from formulations.rows import partition as module
from formulations.rows.partition import kept_together
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Constraints, Problem, make_problem
from optimizer.errors import InputError
from optimizer.search.seeds.orders import random_permutation
from optimizer.search.seeds.partition import partition
from optimizer.traces.batches import Batches, default_rows

pytestmark = pytest.mark.skipif(module.library() is None, reason="Mt-KaHyPar is not installed")


def topics(seed: int, replicas: int) -> tuple[Problem, Batches]:
    """A problem of four topics with eight experts each, and its batches; a token chooses four experts of one topic.

    Topics are not in the order of expert ids.
    """
    rng = np.random.default_rng(seed)
    expert = rng.permutation(32).reshape(4, 8)
    topic = rng.integers(4, size=(8, 64))
    chosen = np.array([[rng.permutation(expert[t])[:4] for t in batch] for batch in topic]).astype(np.uint16)
    batches = Batches(chosen, np.broadcast_to(default_rows(64, 4), (8, 64)))
    model, mesh = Model("topics", 32, 0, 4), Mesh(4, 4, 3)
    return make_problem(model, mesh, cost(), batches.load(32), Constraints(None, replicas)), batches


class Spread(NamedTuple):
    """How many mesh rows and columns a token's experts are in, as a mean over tokens."""

    rows: float
    cols: float


def spread_of(placement: Placement, batches: Batches, mesh: Mesh) -> Spread:
    """The spread of a placement over rows and columns, where each expert's first replica serves."""
    start, slot = placement.replicas(int(batches.experts.max()) + 1)
    device = slot[start[:-1]][batches.experts.reshape(-1, batches.experts.shape[2])] // mesh.slots_per_device
    rows, cols = device // mesh.cols, device % mesh.cols
    return Spread(*(float(np.mean([len(set(token)) for token in of.tolist()])) for of in (rows, cols)))


def test_a_topic_is_in_few_rows_and_its_experts_different_columns() -> None:
    problem, train = topics(1, 0)
    placement = partition(problem, train, 0)
    assert placement is not None
    rows, cols = spread_of(placement, train, problem.mesh)
    random_rows, random_cols = spread_of(random_permutation(problem, np.random.default_rng(0)), train, problem.mesh)
    assert rows < 0.7 * random_rows
    assert cols > random_cols


def test_replicas_go_to_other_rows() -> None:
    problem, train = topics(2, 8)
    placement = partition(problem, train, 0)
    assert placement is not None
    by_row = placement.slots.reshape(4, -1)
    assert all((row == expert).sum() <= 1 for row in by_row for expert in range(32))
    assert problem.violations(placement) == []


@given(
    st.integers(0, 10**6),
    st.sampled_from([(2, 2, 3, 6), (3, 2, 3, 9), (2, 5, 4, 9), (5, 1, 4, 11), (1, 6, 2, 5)]),
    st.sampled_from([None, "auto", 1, 2]),
    st.sampled_from([None, 0, 2]),
    st.integers(1, 3),
)
def test_it_is_valid_and_has_as_many_replicas_as_it_may(
    seed: int, shape: tuple[int, int, int, int], replicas: int | str | None, extra: int | None, top_k: int
) -> None:
    rows, cols, slots, experts = shape
    sizes = {"rows": rows, "cols": cols, "slots": slots, "routed": experts, "top_k": top_k, "tokens": 16}
    try:
        problem, sets = small_problem(seed, **sizes, replicas=replicas, extra=extra)
    except InputError:
        reject()  # experts that do not fit are refused before any seed sees them
    placement = partition(problem, sets.train, seed)
    assert placement is not None
    assert problem.violations(placement) == []
    counts, free = placement.counts(experts + 1), ~problem.spread
    assert counts[free].sum() == min(problem.most_free_replicas, problem.mesh.devices * free.sum())


def test_the_same_seed_gives_the_same_placement() -> None:
    problem, train = topics(3, 8)
    one, again = (partition(problem, train, 5) for _ in range(2))
    assert one is not None
    assert again is not None
    assert (one.slots == again.slots).all()


def connectivity(edges: Ints, block: tuple[int, ...]) -> int:
    """The number of blocks that an edge meets, less one, summed over edges."""
    return sum(len({block[item] for item in edge}) - 1 for edge in edges.tolist())


def test_blocks_are_those_that_edges_meet_least() -> None:
    edges = np.array([[0, 1, 2], [3, 4, 5], [0, 1, 2], [2, 3, 4]])
    found = kept_together(edges, np.full(6, 10), 2, 0)
    assert found is not None
    assert np.bincount(found).tolist() == [3, 3]
    halves = [tuple(int(item in half) for item in range(6)) for half in combinations(range(6), 3)]
    assert connectivity(edges, tuple(found.tolist())) == min(connectivity(edges, half) for half in halves)
    assert kept_together(edges, np.full(3, 10), 2, 0) is None  # too few to part


def test_without_the_library_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "library", lambda: None)
    problem, train = topics(1, 0)
    assert partition(problem, train, 0) is None
