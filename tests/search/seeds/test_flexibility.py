"""The flexible seed lets load flow between devices, which shows in the peaks under optimal split."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import cost, small_problem

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.flexibility import Web, count_steps, flexibility, woven
from optimizer.search.seeds.greedy import greedy, greedy_counts
from optimizer.search.split_state import exact_peaks


def links(placement: Placement, experts: int) -> nx.Graph:
    """The graph of replicated experts and the devices that hold them, an edge for each replica."""
    graph = nx.Graph()
    graph.add_nodes_from(("device", device) for device in range(len(placement.slots)))
    counts = placement.counts(experts)
    for device, held in enumerate(placement.slots.tolist()):
        graph.add_edges_from((("device", device), ("expert", e)) for e in held if e >= 0 and counts[e] > 1)
    return graph


def drawn(seed: int, devices: int, extra: int) -> Problem:
    """A problem with twice as many experts as devices, which have three slots, and this many replicas more."""
    rng = np.random.default_rng(seed)
    load = rng.poisson(40 * rng.lognormal(0, 0.6, 2 * devices), (40, 2 * devices)).astype(np.int32)
    mesh = Mesh(1, devices, 3)
    return Problem(Model("drawn", 2 * devices, 0, 1), mesh, cost(), load, None, extra)


@given(st.integers(0, 10**6), st.integers(8, 30))
def test_every_replica_joins_what_was_apart_while_that_can_be(seed: int, devices: int) -> None:
    problem = drawn(seed, devices, devices - 1)
    placement = flexibility(problem)
    graph = links(placement, 2 * devices)
    assert nx.is_forest(graph)  # without a cycle no two experts share two devices
    assert nx.is_connected(graph.subgraph(max(nx.connected_components(graph), key=len)))
    assert nx.number_connected_components(graph) == devices - (placement.counts(2 * devices) - 1).sum() == 1


def test_more_replicas_close_long_cycles() -> None:
    problem = drawn(3, 40, 44)
    graph = links(flexibility(problem), 80)
    assert nx.is_connected(graph)
    assert nx.girth(graph) > 8  # a cycle leads over five experts at least; two that share two devices would make four


@given(st.integers(0, 10**6))
def test_devices_have_equally_many_replicas_that_can_give_way(seed: int) -> None:
    problem = drawn(seed, 20, 19)
    degree = [number for node, number in links(flexibility(problem), 40).degree if node[0] == "device"]
    assert max(degree) - min(degree) <= 2


@pytest.mark.parametrize("replicas", [None, "auto"])
def test_peaks_under_optimal_split_are_lower_than_those_of_greedy(replicas: str | None) -> None:
    problem, _ = small_problem(5, rows=8, cols=4, routed=64, top_k=6, tokens=256, replicas=replicas)
    means = [exact_peaks(seed(problem), problem.load).mean() for seed in (flexibility, greedy)]
    assert means[0] < 0.95 * means[1]


def test_of_the_orders_the_best_on_train_batches_is_taken() -> None:
    problem = drawn(1, 20, 19)
    counts = greedy_counts(problem)  # EPLB's counts are among those tried
    hottest_first = woven(problem, counts, np.argsort(-problem.total_load))
    lightest_first = woven(problem, counts, np.argsort(problem.total_load / counts))
    assert hottest_first.counts(40).tolist() == lightest_first.counts(40).tolist() == counts.tolist()
    least = exact_peaks(flexibility(problem), problem.load).mean()
    assert least <= min(exact_peaks(one, problem.load).mean() for one in (hottest_first, lightest_first))


@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(0, 14))
def test_steps_are_those_of_shortest_paths(seed: int, devices: int, edges: int) -> None:
    rng = np.random.default_rng(seed)
    held = np.array([rng.choice(devices, 2, replace=False) for _ in range(edges + 1)])
    placed = np.full(edges + 1, 2)
    placed[-1] = rng.integers(0, 3)  # the expert from whose devices steps are counted may have none yet
    slots = np.full((devices, edges + 1), EMPTY, dtype=np.int32)
    for expert, number in enumerate(placed):
        slots[held[expert, :number], expert] = expert
    graph = nx.empty_graph(devices)
    graph.add_edges_from(held[:-1].tolist())
    found, front = np.empty(devices, dtype=np.int64), np.empty(devices, dtype=np.int64)
    web = Web(held, placed, np.zeros(devices, dtype=np.int64))
    count_steps(edges, slots, web, found, front, np.empty(edges + 1, dtype=np.bool_))
    start = held[-1, : placed[-1]].tolist()
    for device in range(devices):
        near = [nx.shortest_path_length(graph, one, device) for one in start if nx.has_path(graph, one, device)]
        assert found[device] == min(near, default=devices)
