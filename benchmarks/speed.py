"""How fast the kernels are, beside the same work in plain numpy, in one run.

Usage: python benchmarks/speed.py. Figures are medians of five runs after a warm-up. Quote the ratio, as absolute rates
depend on the machine.
"""

import tempfile
from itertools import combinations
from pathlib import Path

import numpy as np
import plain
import plain_generator
from measure import Measured, rate

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.presets import load_hardware, load_model
from optimizer.domain.problem import Problem, make_problem
from optimizer.search.even_moves import Scratch, delta, scratch_for
from optimizer.search.moves import swap_of
from optimizer.search.multistart import latency_goal
from optimizer.search.seeds.greedy import greedy
from optimizer.search.state import SearchState
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.report import SimulationReport
from optimizer.simulation.simulator import simulate
from optimizer.statistics.coactivation import pair_counts
from optimizer.statistics.summary import SummaryBuilder
from optimizer.traces.batches import Batches, Sets
from optimizer.traces.corpus import find_files, read_traces
from optimizer.traces.formats.request import Request
from optimizer.traces.formats.write import write_request
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput, open_source
from optimizer.traces.synthetic.generator import calibrated_gates, generate

HARDWARE, LAYER, MESH = "tt-wormhole-quad-galaxy", 12, Mesh(16, 8, 3)


def home_problem() -> tuple[Problem, Sets]:
    """The home case, layer 12 of the built-in trace on 16x8 devices of 3 slots, and its batches."""
    source = open_source(TraceInput(), [LAYER], ModelChoice(), MESH, lambda share: None)
    sets = source.sets(LAYER)
    problem = make_problem(
        source.model, MESH, Cost(HARDWARE, load_hardware(HARDWARE)), sets.train.load(source.model.experts)
    )
    return problem, sets


def simulation(problem: Problem, test: Batches) -> Measured:
    """Simulate even routing with loads, tiles and both directions of the rings; numpy must find the same latencies."""
    placement, experts = greedy(problem), problem.model.experts
    few = test.part(0, 32)

    def simulated(batches: Batches) -> SimulationReport:
        return simulate(placement, batches, problem.model, MESH, problem.cost, Conditions("even-ideal"))

    ours = simulated(few)
    if not np.allclose(ours.latency_us - ours.price_us, plain.latency_us(placement, few, experts, MESH, problem.cost)):
        raise AssertionError("numpy and the simulator disagree")
    return Measured(
        "simulate, even, both rings",
        "M pairs/s",
        rate(test.experts.size / 1e6, lambda: simulated(test)),
        rate(few.experts.size / 1e6, lambda: plain.latency_us(placement, few, experts, MESH, problem.cost)),
    )


def swap_evaluation(problem: Problem, train: Batches) -> Measured:
    """Evaluate swaps of experts without replicas on 256 batches; numpy must find the same changes."""
    goal = latency_goal(problem, train)
    state = SearchState.of(greedy(problem), problem.load[:256], goal.value, np.zeros_like(goal.together))
    scratch = scratch_for(state)
    single = [slot for slot, expert in enumerate(state.slots.ravel()) if state.copies[expert] == 1]
    pairs = [(a, b) for a, b in combinations(single, 2) if a // 3 != b // 3]
    moves = [swap_of(a, b, MESH.slots) for a, b in pairs]
    for move, (a, b) in zip(moves[:200], pairs[:200], strict=True):
        theirs = plain.swap_delta(state.cost, state.part, a, b, 3)
        if delta(move, state, scratch) != theirs:
            raise AssertionError("numpy and the search disagree")
    numbers = np.array(moves)
    return Measured(
        "evaluate swaps, 256 batches",
        "k moves/s",
        rate(len(moves) / 1e3, lambda: _evaluate(numbers, state, scratch)),
        rate(
            0.2,
            lambda: [plain.swap_delta(state.cost, state.part, a, b, 3) for a, b in pairs[:200]],
        ),
    )


@kernel
def _evaluate(moves: Ints, state: SearchState, scratch: Scratch) -> int:
    total = 0
    for move in moves:
        total += delta(move, state, scratch)
    return total


def reading() -> Measured:
    """Read requests of 250 tokens and 58 layers from files, check them and keep one layer; numpy only loads them."""
    with tempfile.TemporaryDirectory() as folder:
        experts = np.argsort(np.random.default_rng(0).random((250, 58, 256)), axis=2)[..., :8].astype(np.uint8)
        for number in range(100):
            write_request(Path(folder, f"{number}.npz"), Request(experts, 125), number)
        files = find_files([folder])
        model = load_model("deepseek-v3")
        work = 100 * experts.size / 1e6
        ours = rate(work, lambda: read_traces(files, model, [LAYER]))
        return Measured("read requests, keep a layer", "M selections/s", ours, rate(work, lambda: plain.load(files)))


def summarising(experts: Ints) -> Measured:
    """Summarise counts, pairs, bursts and overlaps of all layers; numpy makes counts and pairs alone."""
    layers = experts.shape[1]

    def ours() -> object:
        builder = SummaryBuilder(layers, 256, 8)
        for first in range(0, len(experts), 500):
            builder.add(experts[first : first + 500], 100)
        return builder.finish()

    few = experts[:2000]
    counts, pairs = plain.counts_and_pairs(few, 256)
    builder = SummaryBuilder(layers, 256, 8)
    builder.add(few, 0)
    found = builder.finish()
    if (found.counts.sum(axis=(0, 1)) != counts).any() or (found.pairs != pairs).any():
        raise AssertionError("numpy and the summary disagree")
    theirs = rate(few.size / 1e6, lambda: plain.counts_and_pairs(few, 256))
    return Measured("summarise all layers", "M selections/s", rate(experts.size / 1e6, ours), theirs)


def coactivation(experts: Ints) -> Measured:
    """Count the pairs of experts of one layer; numpy multiplies one-hot matrices."""
    layer = np.ascontiguousarray(experts[:, 0])
    few = layer[:20_000]
    if (pair_counts(few, 256) != plain.counts_and_pairs(few[:, None], 256)[1][0]).any():
        raise AssertionError("numpy and the pair counts disagree")
    theirs = rate(len(few) / 1e6, lambda: plain.counts_and_pairs(few[:, None], 256))
    return Measured(
        "count pairs of a layer", "M tokens/s", rate(len(layer) / 1e6, lambda: pair_counts(layer, 256)), theirs
    )


def generation() -> Measured:
    """Generate tokens of one DeepSeek-V3 layer; numpy must make the same choices, but for rounding."""
    gates, numbers = calibrated_gates(load_model("deepseek-v3"), [LAYER], 0), np.arange(500)
    lengths = np.full(500, 100)
    same = plain_generator.choices(gates, 20, 100) == generate(gates, "", numbers[:20], lengths[:20]).experts[:, 0]
    if same.mean() < 0.999:
        raise AssertionError("numpy and the generator disagree")
    ours = rate(50.0, lambda: generate(gates, "", numbers, lengths))
    theirs = rate(2.0, lambda: plain_generator.choices(gates, 20, 100))
    return Measured("generate a layer", "k tokens/s", ours, theirs)


if __name__ == "__main__":
    problem, sets = home_problem()
    gates = calibrated_gates(load_model("deepseek-v3"), range(10, 26), 0)
    experts = generate(gates, "", np.arange(50), np.full(50, 1000)).experts
    print(f"{'':32}{'moeplan':>10}{'numpy':>10}{'ratio':>8}")
    for found in (
        simulation(problem, sets.test),
        swap_evaluation(problem, sets.train),
        reading(),
        summarising(experts),
        coactivation(experts),
        generation(),
    ):
        print(f"{found.name:32}{found.ours:10.2f}{found.numpy:10.2f}{found.ours / found.numpy:8.1f}  {found.unit}")
