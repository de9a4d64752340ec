"""How fast the search's surrogates are and how well they rank placements, and what annealing reaches by when.

Usage: python benchmarks/search.py [speed] [ranks] [quality] [seeds] [batches]; without a word all five are run. The
home case is layer 12 of the built-in trace on 16x8 devices of 3 slots. Figures of quality are measured on test batches,
from requests that the search has not seen, under exact routing.
"""

import sys
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
from measure import rate
from scipy.stats import spearmanr
from speed import HARDWARE, LAYER, MESH, home_problem

from formulations.expected_load.joint_placement import COOLINGS
from formulations.expected_load.load_annealing import DISTANCES, layout_of
from formulations.expected_load.load_annealing import anneal as anneal_load
from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.cost import Cost
from optimizer.domain.placement import Placement
from optimizer.domain.presets import load_hardware
from optimizer.domain.problem import Problem, make_problem
from optimizer.search.annealing import anneal
from optimizer.search.even_moves import Scratch, delta, scratch_for
from optimizer.search.moves import MoveRules, is_legal
from optimizer.search.multistart import DescentGoal, multistart
from optimizer.search.seeds.flexibility import flexibility
from optimizer.search.seeds.greedy import greedy
from optimizer.search.seeds.orders import random_permutation, sequential
from optimizer.search.seeds.pairing import pairing
from optimizer.search.seeds.risk import risk
from optimizer.search.seeds.steps import steps
from optimizer.search.side_by_side import Team
from optimizer.search.split_moves import TouchedSplit, forget, touched_for
from optimizer.search.split_moves import delta as split_delta
from optimizer.search.split_state import SplitState, exact_peaks, split_of
from optimizer.search.state import SearchState
from optimizer.search.stop import Deadline, SearchBudget
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import simulate
from optimizer.traces.batches import Sets
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput, open_source

TILE = 32
BATCHES, MOVES = 256, 20_000  # train batches of the surrogates, and moves that are drawn to time them
SECONDS = (1, 3, 10, 30, 60)
SEED_TOKENS = (128, 512, 1024, 2048)
CASES = ((512, 1), (2048, 1), (1024, TILE), (2048, TILE))  # tokens of a batch, and of a unit of load
CHAINS = 2


def problem_of(tokens: int) -> tuple[Problem, Sets]:
    """The home case with batches of `tokens` tokens, and its batches."""
    source = open_source(TraceInput(batch_tokens=tokens), [LAYER], ModelChoice(), MESH, lambda share: None)
    sets = source.sets(LAYER)
    load = sets.train.load(source.model.experts)
    return make_problem(source.model, MESH, Cost(HARDWARE, load_hardware(HARDWARE)), load), sets


@kernel
def _even(moves: Ints, state: SearchState, scratch: Scratch) -> int:
    total = 0
    for move in moves:
        total += delta(move, state, scratch)
    return total


@kernel
def _optimal(moves: Ints, current: SplitState, trial: SplitState, touched: TouchedSplit, limit: float) -> int:
    total = 0
    for move in moves:
        total += split_delta(move, current, trial, touched, 0, 0, limit)[0]
        forget(current, trial, touched)
    return total


def legal_moves(problem: Problem, placement: Placement) -> Ints:
    """The legal ones among MOVES move numbers that are drawn at random."""
    slots, experts = placement.slots, problem.model.experts
    drawn = np.random.default_rng(0).integers(slots.size * (slots.size + experts), size=MOVES)
    counts, rules = placement.counts(experts), MoveRules.of(problem)
    return np.array([move for move in drawn if is_legal(move, slots, counts, rules)])


def swap_rate(problem: Problem) -> float:
    """The swaps that the annealing of expected load evaluates in a second, in thousands.

    Not all swaps that it draws are legal, and only legal ones count: a slot cannot be swapped with a slot of its own
    device or with one of its own expert, and a shared expert cannot leave its row.
    """
    load = problem.total_load / problem.total_load.sum() * MESH.devices
    layout = layout_of(load, greedy(problem).slots, problem.spread, MESH.cols)
    steps, rng = 1_000_000, np.random.default_rng(0)
    found = rate(steps / 1e3, lambda: anneal_load(layout, 0.0, steps, COOLINGS[0].hot, COOLINGS[0].cold, 0.0, rng))
    order = np.argsort(layout.weight[layout.slots])
    far = np.exp(np.linspace(0, np.log(len(order)), DISTANCES)).astype(np.int64)
    first = rng.integers(len(order), size=steps)
    second = first + np.concatenate((far, -far))[rng.integers(2 * DISTANCES, size=steps)]
    inside = (second >= 0) & (second < len(order))
    one, two = order[first[inside]], order[second[inside]]
    (x, y), (a, b) = (layout.slots[one], layout.slots[two]), (one // layout.depth, two // layout.depth)
    kept = (layout.spread[x] | layout.spread[y]) & (a // MESH.cols != b // MESH.cols)
    return found * float(((a != b) & (x != y) & ~kept).sum()) / steps


def speeds(problem: Problem) -> None:
    """Print how many moves each surrogate evaluates in a second, drawn from all moves of the greedy placement."""
    placement = greedy(problem)
    moves = legal_moves(problem, placement)
    nothing = np.zeros((problem.model.experts, problem.model.experts), dtype=np.int64)
    print(f"{'surrogate':44}{'k moves/s':>12}")
    print(f"{'expected load':44}{swap_rate(problem):12.1f}")
    for name, load in (
        ("expected load, by what serves many batches", problem.total_load[None]),
        (f"{BATCHES} batches, even split", problem.load[:BATCHES]),
    ):
        state = SearchState.of(placement, load, np.arange(int(load.max()) + 1), nothing)
        print(f"{name:44}{rate(len(moves) / 1e3, partial(_even, moves, state, scratch_for(state))):12.1f}")
    current = split_of(placement, problem.load[:BATCHES])
    trial, touched = current.copy(), touched_for(current)
    for name, limit in (("every batch", np.inf), ("given up where hopeless", 0.0)):
        found = rate(len(moves) / 1e3, partial(_optimal, moves, current, trial, touched, limit))
        print(f"{f'{BATCHES} batches, optimal split, {name}':44}{found:12.1f}")


def pool(problem: Problem) -> Iterator[Placement]:
    """Placements of all kinds: seeds, the ends of short descents under even split, and those that annealing passes."""
    rng = np.random.default_rng(0)
    yield from (sequential(problem), pairing(problem), greedy(problem))
    yield from (random_permutation(problem, rng) for _ in range(5))
    nothing = np.zeros((problem.model.experts, problem.model.experts), dtype=np.int64)
    goal = DescentGoal(np.arange(int(problem.load.max()) + 1), nothing, tail_weight=0)
    for iterations in (1_000, 10_000, 100_000):
        budget = SearchBudget(Deadline(600), 600, iterations)
        yield from multistart(problem, goal, [greedy(problem), pairing(problem)], budget, rng, lambda share: None)
    for iterations in (1_000, 10_000, 100_000):
        budget = SearchBudget(Deadline(600), 600, iterations)
        yield from anneal(greedy(problem), problem.load[:BATCHES], MoveRules.of(problem), budget, rng)


def surrogates(problem: Problem, placement: Placement) -> list[float]:
    """The values of three surrogates on train batches: the peak of the expected load, and the mean over batches of the
    peak under even and under optimal split."""
    nothing = np.zeros((problem.model.experts, problem.model.experts), dtype=np.int64)
    found = []
    for load in (problem.total_load[None], problem.load[:BATCHES]):
        state = SearchState.of(placement, load, np.arange(int(load.max()) + 1), nothing)
        found.append(float(state.leading[0].mean()))
    return [*found, float(exact_peaks(placement, problem.load[:BATCHES]).mean())]


def ranks(problem: Problem, sets: Sets) -> None:
    """Print Spearman's rank correlation of each surrogate with latency and imbalance, both of selection batches."""
    placements = list(pool(problem))
    guessed = np.array([surrogates(problem, placement) for placement in placements])
    print(f"\nrank correlation over {len(placements)} placements" + f"{'latency':>12}{'imbalance':>12}")
    for routing in ("even-source", "optimal"):
        conditions = Conditions(routing, "tokens")
        reports = [simulate(p, sets.selection, problem.model, MESH, problem.cost, conditions) for p in placements]
        judged = [[r.latency_us.mean() for r in reports], [r.imbalance.mean() for r in reports]]
        for place, name in enumerate(("expected load", "even split", "optimal split")):
            found = [spearmanr(guessed[:, place], values).statistic for values in judged]
            print(f"{f'{name}, routed {routing}':40}{found[0]:12.3f}{found[1]:12.3f}")


def figures(placement: Placement, load: Ints, tile: int) -> str:
    """The median, the mean and the 99th percentile of imbalance over batches, or, for tiles, the mean peak."""
    peak = exact_peaks(placement, -(-load // tile))
    if tile > 1:
        return f"{peak.mean():22.3f}"
    imbalance: Floats = peak * MESH.devices / load.sum(axis=1)
    return f"{np.median(imbalance):7.3f}{imbalance.mean():7.3f}{np.percentile(imbalance, 99):8.3f}"


def annealed(problem: Problem, units: Ints, selection: Ints, seconds: float, chains: int = CHAINS) -> Placement:
    """The placement that annealing finds in a time: of the last ones of all chains the best on selection batches."""
    budget, rng = SearchBudget(Deadline(seconds), seconds), np.random.default_rng(0)
    team = Team(chains, chains)
    found = [greedy(problem), *anneal(greedy(problem), units, MoveRules.of(problem), budget, rng, team=team)]
    return min(found[-2 * chains :], key=lambda placement: float(exact_peaks(placement, selection).mean()))


def quality() -> None:
    """Print test figures, see `figures`, by planning time."""
    print(f"\n{'tokens, unit':16}" + "".join(f"{f'{seconds} s':>22}" for seconds in (0, *SECONDS)))
    for tokens, tile in CASES:
        problem, sets = problem_of(tokens)
        experts = problem.model.experts
        test, selection = sets.test.load(experts), -(-sets.selection.load(experts) // tile)
        row = [figures(greedy(problem), test, tile)]
        units = -(-problem.load // tile)
        for seconds in SECONDS:
            row.append(figures(annealed(problem, units, selection, seconds), test, tile))
        print(f"{f'{tokens}, {tile}':16}" + "".join(row), flush=True)


def seeds() -> None:
    """Print the test figures of the seeds, see `figures`, in tokens and in tiles."""
    print(f"\n{'tokens, seed':22}{'p50, mean, p99':>22}{'tiles':>22}")
    for tokens in SEED_TOKENS:
        problem, sets = problem_of(tokens)
        test = sets.test.load(problem.model.experts)
        made = {construct.__name__: construct(problem) for construct in (greedy, risk, steps, flexibility)}
        for name, placement in made.items():
            print(f"{f'{tokens}, {name}':22}{figures(placement, test, 1)}{figures(placement, test, 32)}", flush=True)


def batches() -> None:
    """Print the imbalance on train, selection and test batches by the number of train batches, see `figures`."""
    problem, sets = home_problem()
    selection, test = (part.load(problem.model.experts) for part in (sets.selection, sets.test))
    print(f"\n{'train batches':16}{'train':>22}{'selection':>22}{'test':>22}")
    for number in (32, 64, 128, 256, 512, 1024):
        train = problem.load[np.linspace(0, len(problem.load) - 1, number).astype(int)]
        found = annealed(problem, train, selection, 20.0)
        print(f"{number:<16}" + "".join(figures(found, load, 1) for load in (train, selection, test)), flush=True)


if __name__ == "__main__":
    asked = sys.argv[1:] or ["speed", "ranks", "quality", "seeds", "batches"]
    started = time.monotonic()
    if {"speed", "ranks"} & set(asked):
        problem, sets = home_problem()
        if "speed" in asked:
            speeds(problem)
        if "ranks" in asked:
            ranks(problem, sets)
    if "quality" in asked:
        quality()
    if "seeds" in asked:
        seeds()
    if "batches" in asked:
        batches()
    print(f"\n{time.monotonic() - started:.0f} s")
