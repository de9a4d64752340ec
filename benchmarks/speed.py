"""How fast the kernels are, beside the same work in plain numpy, in one run.

Usage: python benchmarks/speed.py. Figures are medians of five after warm-up; the ratio is what to quote.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import plain

from formulations.arrays import Ints
from optimizer.cost import Cost
from optimizer.inputs import Named, open_source
from optimizer.kernels import kernel
from optimizer.mesh import Mesh
from optimizer.presets import load_hardware
from optimizer.problem import Problem, make_problem
from optimizer.search.moves import delta, scratch_for
from optimizer.search.multistart import latency_goal
from optimizer.search.state import SearchState
from optimizer.seeds.greedy import greedy
from optimizer.simulator import simulate
from optimizer.traces.batches import Batches, Sets
from optimizer.traces.infer import ModelChoice

HARDWARE, LAYER, MESH = "tt-wormhole-quad-galaxy", 12, Mesh(16, 8, 3)


@dataclass(frozen=True)
class Measured:
    """Work per second of our kernel, and of numpy."""

    name: str
    unit: str
    ours: float
    numpy: float


def rate(work: float, run: Callable[[], object]) -> float:
    """Work units per second: the median of five runs after one that compiles and warms up."""
    run()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return work / statistics.median(times)


def home_problem() -> tuple[Problem, Sets]:
    """The home case on the built-in trace."""
    source = open_source(Named(), [LAYER], ModelChoice(), MESH, lambda share: None)
    sets = source.sets(LAYER)
    problem = make_problem(
        source.model, MESH, Cost(HARDWARE, load_hardware(HARDWARE)), sets.train.load(source.model.experts), None
    )
    return problem, sets


def simulation(problem: Problem, test: Batches) -> Measured:
    """Even routing with loads, tiles and both rings, checked to give the same latencies."""
    placement, experts = greedy(problem), problem.model.experts
    few = test.part(0, 32)
    ours = simulate(placement, few, experts, MESH, problem.cost, "even").latency_us
    if not np.allclose(ours, plain.latency_us(placement, few, experts, MESH, problem.cost)):
        raise AssertionError("numpy and the simulator disagree")
    return Measured(
        "simulate, even, both rings",
        "M pairs/s",
        rate(test.experts.size / 1e6, lambda: simulate(placement, test, experts, MESH, problem.cost, "even")),
        rate(few.experts.size / 1e6, lambda: plain.latency_us(placement, few, experts, MESH, problem.cost)),
    )


def swap_evaluation(problem: Problem, train: Batches) -> Measured:
    """Swaps of unreplicated experts on 256 batches, checked to give the same changes."""
    value, together = latency_goal(problem, train)
    state = SearchState.of(greedy(problem), problem.load[:256], value, np.zeros_like(together))
    scratch = scratch_for(state)
    single = [slot for slot, expert in enumerate(state.slots.ravel()) if state.count[expert] == 1]
    moves = [a * MESH.slots + b for a, b in combinations(single, 2) if a // 3 != b // 3]
    for move in moves[:200]:
        theirs = plain.swap_delta(state.cost, state.part, move // MESH.slots, move % MESH.slots, 3)
        if delta(move, state.arrays(), scratch) != theirs:
            raise AssertionError("numpy and the search disagree")
    numbers = np.array(moves)
    return Measured(
        "evaluate swaps, 256 batches",
        "k moves/s",
        rate(len(moves) / 1e3, lambda: _evaluate(numbers, state.arrays(), scratch)),
        rate(
            0.2,
            lambda: [plain.swap_delta(state.cost, state.part, m // MESH.slots, m % MESH.slots, 3) for m in moves[:200]],
        ),
    )


@kernel
def _evaluate(moves: Ints, state: tuple[Ints, ...], scratch: tuple[Ints, ...]) -> int:
    total = 0
    for move in moves:
        total += delta(move, state, scratch)
    return total


if __name__ == "__main__":
    problem, sets = home_problem()
    print(f"{'':32}{'moeplan':>10}{'numpy':>10}{'ratio':>8}")
    for found in (simulation(problem, sets.test), swap_evaluation(problem, sets.train)):
        print(f"{found.name:32}{found.ours:10.2f}{found.numpy:10.2f}{found.ours / found.numpy:8.1f}  {found.unit}")
