"""What a whole-batch split can reach at best, by flows and by looking at every set of experts."""

from collections.abc import Callable

import numpy as np
from ortools.graph.python import max_flow, min_cost_flow
from reference import best_split_peak
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

Holders = list[set[int]]  # devices of each expert
Carries = Callable[[list[int], Holders, int, int], bool]

__all__ = ["best_split_peak", "fewest_hops", "least_feasible", "ortools_carries", "scipy_carries"]


def arcs(units: list[int], holders: Holders, devices: int, peak: int) -> list[tuple[int, int, int]]:
    """(from, to, capacity): 0 is the source, then the experts, then the devices, then the sink."""
    first = 1 + len(units)
    found = [(0, 1 + expert, number) for expert, number in enumerate(units)]
    found += [
        (1 + expert, first + device, units[expert]) for expert, held in enumerate(holders) for device in sorted(held)
    ]
    return found + [(first + device, first + devices, peak) for device in range(devices)]


def ortools_carries(units: list[int], holders: Holders, devices: int, peak: int) -> bool:
    """Whether devices that take so much each can take all units, by push-relabel."""
    solver = max_flow.SimpleMaxFlow()
    for start, end, capacity in arcs(units, holders, devices, peak):
        solver.add_arc_with_capacity(start, end, capacity)
    status = solver.solve(0, 1 + len(units) + devices)
    assert status == solver.OPTIMAL
    return bool(solver.optimal_flow() == sum(units))


def scipy_carries(units: list[int], holders: Holders, devices: int, peak: int) -> bool:
    """The same by augmenting paths."""
    nodes = 2 + len(units) + devices
    capacity = np.zeros((nodes, nodes), dtype=np.int32)
    for start, end, number in arcs(units, holders, devices, peak):
        capacity[start, end] = number
    return bool(maximum_flow(csr_array(capacity), 0, nodes - 1, method="edmonds_karp").flow_value == sum(units))


def least_feasible(carries: Carries, units: list[int], holders: Holders, devices: int) -> int:
    """The least peak for which one of the above holds, by halving."""
    low, high = 0, sum(units)
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
    """Least hops, summed over pairs, of a split whose devices take at most `peak`; pairs by (source, expert)."""
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
