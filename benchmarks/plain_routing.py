"""Exact routing with general solvers, for `routing.py` to compare with; they must give the same answers."""

from collections.abc import Callable

import numpy as np
from ortools.graph.python import max_flow, min_cost_flow
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow

from formulations.kit.arrays import Ints
from optimizer.routing.least_peak import Graph

Feasible = Callable[[Ints, Graph, int, int], bool]


def least_peaks(units: Ints, replicas: Graph, devices: int, feasible: Feasible) -> list[int]:
    """The least peak of each batch of units `[batch, expert]`, by bisection.

    The mean load is the lower end, and a device that serves the largest expert with all its slots the upper end.
    """
    found = []
    for batch in units:
        low = -(-int(batch.sum()) // devices)
        high = max(low, int(batch.max()) * (len(replicas.device_of) // devices))
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if feasible(batch, replicas, devices, middle) else (middle + 1, high)
        found.append(low)
    return found


def _arcs(units: Ints, replicas: Graph, devices: int, peak: int) -> tuple[Ints, Ints, Ints, int]:
    """The tails, heads and capacities of the flow's arcs, and its sink.

    Nodes are numbered from the source, which is 0, over experts and devices to the sink.
    """
    experts = np.arange(len(units))
    count = np.diff(replicas.start)
    to = replicas.device_of[replicas.slot]
    sink = 1 + len(units) + devices
    tails = np.concatenate([0 * experts, 1 + experts.repeat(count), 1 + len(units) + np.arange(devices)])
    heads = np.concatenate([1 + experts, 1 + len(units) + to, np.full(devices, sink)])
    return tails, heads, np.concatenate([units, units.repeat(count), np.full(devices, peak)]), sink


def ortools_feasible(units: Ints, replicas: Graph, devices: int, peak: int) -> bool:
    """Whether all units can be served with no device above the peak, by ortools' push-relabel max-flow."""
    tails, heads, capacities, sink = _arcs(units, replicas, devices, peak)
    flow = max_flow.SimpleMaxFlow()
    flow.add_arcs_with_capacity(tails, heads, capacities)
    flow.solve(0, sink)
    return bool(flow.optimal_flow() == units.sum())


def scipy_feasible(units: Ints, replicas: Graph, devices: int, peak: int) -> bool:
    """Whether all units can be served with no device above the peak, by scipy's Dinic max-flow."""
    tails, heads, capacities, sink = _arcs(units, replicas, devices, peak)
    graph = csr_matrix((capacities.astype(np.int32), (tails, heads)), shape=(sink + 1, sink + 1))
    return bool(maximum_flow(graph, 0, sink).flow_value == units.sum())


def fewest_hops(count: Ints, replicas: Graph, distance: Ints, peak: int) -> int:
    """The fewest hops of one batch with no device above `peak` pairs, by ortools' min-cost flow.

    count: pairs, `[expert, source]`; distance: hops, `[source, device]`.
    """
    experts, sources = np.nonzero(count)
    supply, devices = count[experts, sources], distance.shape[1]
    number = np.diff(replicas.start)[experts]
    owner = np.arange(len(experts)).repeat(number)
    rank = np.arange(len(owner)) - (np.cumsum(number) - number).repeat(number)
    to = replicas.device_of[replicas.slot[replicas.start[experts[owner]] + rank]]
    sink = len(experts) + devices
    flow = min_cost_flow.SimpleMinCostFlow()
    flow.add_arcs_with_capacity_and_unit_cost(owner, len(experts) + to, supply[owner], distance[sources[owner], to])
    ends = len(experts) + np.arange(devices)
    flow.add_arcs_with_capacity_and_unit_cost(
        ends, np.full(devices, sink), np.full(devices, peak), np.zeros(devices, dtype=np.int64)
    )
    flow.set_nodes_supplies(np.arange(len(experts)), supply)
    flow.set_node_supply(sink, -int(supply.sum()))
    if flow.solve() != flow.OPTIMAL:
        raise AssertionError("the peak cannot be kept")
    return int(flow.optimal_cost())
