"""The least peak that a split of a batch among replicas can have, by flows and by trying every set of experts."""

from collections.abc import Callable

import numpy as np
from ortools.graph.python import max_flow, min_cost_flow
from reference import best_split_peak
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

Holders = list[set[int]]  # the devices that have a replica of each expert
Carries = Callable[[list[int], Holders, int, int], bool]

__all__ = ["best_split_peak", "fewest_hops", "least_feasible", "ortools_carries", "scipy_carries"]


def arcs(units: list[int], holders: Holders, devices: int, peak: int) -> list[tuple[int, int, int]]:
    """The arcs (from, to, capacity) of a flow network that carries all units if no device takes more than the peak.

    Nodes are numbered: 0 the source, then the experts, then the devices, then the sink.
    """
    first = 1 + len(units)
    found = [(0, 1 + expert, number) for expert, number in enumerate(units)]
    found += [
        (1 + expert, first + device, units[expert]) for expert, held in enumerate(holders) for device in sorted(held)
    ]
    return found + [(first + device, first + devices, peak) for device in range(devices)]


def ortools_carries(units: list[int], holders: Holders, devices: int, peak: int) -> bool:
    """Whether devices that take at most `peak` units each can take all units; by push-relabel of OR-tools."""
    solver = max_flow.SimpleMaxFlow()
    for start, end, capacity in arcs(units, holders, devices, peak):
        solver.add_arc_with_capacity(start, end, capacity)
    status = solver.solve(0, 1 + len(units) + devices)
    assert status == solver.OPTIMAL
    return bool(solver.optimal_flow() == sum(units))


def scipy_carries(units: list[int], holders: Holders, devices: int, peak: int) -> bool:
    """Whether devices that take at most `peak` units each can take all units; by augmenting paths of scipy."""
    nodes = 2 + len(units) + devices
    capacity = np.zeros((nodes, nodes), dtype=np.int32)
    for start, end, number in arcs(units, holders, devices, peak):
        capacity[start, end] = number
    return bool(maximum_flow(csr_array(capacity), 0, nodes - 1, method="edmonds_karp").flow_value == sum(units))


def least_feasible(carries: Carries, units: list[int], holders: Holders, devices: int) -> int:
    """The least peak for which `carries` holds, by longer and longer steps up from the mean, and then by bisection."""
    low = high = -(-sum(units) // devices)
    step = 1
    while not carries(units, holders, devices, high):
        low, high, step = high + 1, high + step, 2 * step
    while low < high:
        middle = (low + high) // 2
        if carries(units, holders, devices, middle):
            high = middle
        else:
            low = middle + 1
    return low


def fewest_hops(
    pairs: dict[tuple[int, int], int], holders: Holders, hops: list[list[int]], devices: int, peak: int
) -> int:
    """The fewest hops of a split whose devices take at most `peak` pairs; pairs: their number by (source, expert)."""
    solver = min_cost_flow.SimpleMinCostFlow()
    sink = len(pairs) + devices
    for group, ((source, expert), number) in enumerate(pairs.items()):
        solver.set_node_supply(group, number)
        for device in sorted(holders[expert]):
            solver.add_arc_with_capacity_and_unit_cost(group, len(pairs) + device, number, hops[source][device])
    for device in range(devices):
        solver.add_arc_with_capacity_and_unit_cost(len(pairs) + device, sink, peak, 0)
    solver.set_node_supply(sink, -sum(pairs.values()))
    assert solver.solve() == solver.OPTIMAL
    return int(solver.optimal_cost())
