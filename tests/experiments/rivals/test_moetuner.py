"""MoETuner: both programs give what every possible answer, tried one by one, shows to be the best."""

from itertools import permutations, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import small_problem

from formulations.kit.solver import Limits
from optimizer.domain.problem import Problem
from optimizer.experiments.rivals.moetuner import assigned, clusters, moetuner
from optimizer.experiments.rivals.one_each import OneEach, pairs_by_source
from optimizer.traces.batches import Batches, Sets


def drawn(seed: int, routed: int) -> tuple[Problem, Sets]:
    """A problem of four devices, one of which has a shared expert on each row."""
    return small_problem(seed, rows=2, cols=2, slots=3, routed=routed, shared=1, tokens=30, replicas=2)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(5, 7))
def test_clusters_are_of_equal_size_and_their_largest_load_is_the_least(seed: int, routed: int) -> None:
    problem, _ = drawn(seed, routed)
    task = OneEach.of(problem)
    tried = np.array(list(product(range(4), repeat=routed)))
    sizes = (tried[:, :, None] == np.arange(4)).sum(axis=1)
    allowed = tried[((task.least <= sizes) & (sizes <= task.most)).all(axis=1)]
    found = clusters(task)
    size, larger = divmod(routed, 4)
    assert sorted(np.bincount(found, minlength=4).tolist()) == [size] * (4 - larger) + [size + 1] * larger
    assert task.device_load(found).max() == min(task.device_load(each).max() for each in allowed)


@given(st.integers(0, 10**6), st.integers(1, 22), st.sampled_from([1, 3, 4]))
def test_the_packing_that_it_begins_with_is_of_equal_size(seed: int, routed: int, replicas: int) -> None:
    problem, _ = small_problem(seed, rows=4, cols=2, slots=4, routed=routed, shared=2, top_k=1, replicas=replicas)
    task = OneEach.of(problem)
    size = np.bincount(task.dealt(), minlength=8)
    assert ((task.least <= size) & (size <= task.most)).all()
    assert ((size == task.room) | (size >= size.max() - 1)).all()


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_clusters_go_where_all_pairs_have_the_fewest_hops(seed: int) -> None:
    problem, sets = small_problem(seed, rows=4, cols=1, slots=2, routed=8, shared=0, tokens=30)
    cluster_of = np.arange(8) % 4
    pairs = pairs_by_source(problem, sets.train)

    def hops(device: tuple[int, ...]) -> int:
        return sum(int(pairs[:, e] @ problem.network.distance[:, device[cluster_of[e]]]) for e in range(8))

    found = assigned(problem, cluster_of, pairs)
    to = tuple(int(found[cluster_of == cluster][0]) for cluster in range(4))
    assert sorted(to) == [0, 1, 2, 3]
    assert hops(to) == min(map(hops, permutations(range(4))))


def test_clusters_keep_the_shared_experts_that_they_were_balanced_with() -> None:
    problem, sets = drawn(3, 6)
    task = OneEach.of(problem)
    device_of = assigned(problem, clusters(task), pairs_by_source(problem, sets.train))
    assert task.device_load(device_of).max() == task.device_load(clusters(task)).max()
    assert (moetuner(problem, sets.train).counts(7) == [1] * 6 + [2]).all()


def test_pairs_are_counted_by_the_source_of_their_token() -> None:
    problem, _ = small_problem(0, rows=2, cols=1, slots=2, routed=3, shared=0, top_k=2)
    batches = Batches(np.array([[[0, 2], [1, 2]], [[0, 1], [2, 0]]]), np.array([[0, 1], [1, 1]]))
    assert pairs_by_source(problem, batches).tolist() == [[1, 0, 1], [2, 2, 2]]


def test_without_time_it_is_the_packing_of_eplb() -> None:
    task = OneEach.of(drawn(5, 7)[0])
    stopped = Limits(1, cancelled=lambda: True)
    assert task.device_load(clusters(task, stopped)).max() <= task.device_load(task.dealt()).max()
