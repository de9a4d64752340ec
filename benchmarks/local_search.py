"""Tabu search beside descent (even split), and large neighbourhoods after annealing (optimal split), at equal CPU time.

Usage: python benchmarks/local_search.py SECONDS SEEDS [TRACES]. SECONDS is the time of each search, SEEDS the number of
seeds. The cases are layer 12 of the built-in trace at 512 and 2048 tokens on 16x8 devices, and of TRACES on 4x8. The
objective is measured on train batches, all other figures are simulated on test batches.
"""

import sys
import time
from dataclasses import dataclass, field

import numpy as np
from speed import HARDWARE, LAYER, MESH

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.placement import Placement
from optimizer.domain.presets import load_hardware
from optimizer.domain.problem import Problem, make_problem
from optimizer.search.annealing import anneal
from optimizer.search.moves import MoveRules
from optimizer.search.multistart import latency_goal, multistart
from optimizer.search.neighbourhood import objective, search_neighbourhoods
from optimizer.search.seeds.greedy import greedy
from optimizer.search.seeds.pairing import pairing
from optimizer.search.split_state import exact_peaks
from optimizer.search.state import SearchState
from optimizer.search.stop import Deadline, SearchBudget
from optimizer.search.tabu import tabu
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import simulate
from optimizer.traces.batches import Sets
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput, open_source

BATCHES = 512  # train batches for searches under optimal split; not tuned
SHARES = (0.0, 0.15, 0.3, 0.6)  # shares of the time that large neighbourhoods get


@dataclass
class CpuDeadline(Deadline):
    """A deadline in CPU time of this process, which does not depend on what else runs on the machine."""

    computed: float = field(default_factory=time.process_time)

    def elapsed(self) -> float:
        """The CPU seconds since the start."""
        return time.process_time() - self.computed


def spell(seconds: float) -> SearchBudget:
    """A search budget of some CPU seconds, which begin now."""
    return SearchBudget(CpuDeadline(seconds), seconds)


def case(named: TraceInput, mesh: Mesh) -> tuple[Problem, Sets]:
    """The problem and the batches of the benchmark's layer."""
    source = open_source(named, [LAYER], ModelChoice(), mesh, lambda share: None)
    sets = source.sets(LAYER)
    load = sets.train.load(source.model.experts)
    return make_problem(source.model, mesh, Cost(HARDWARE, load_hardware(HARDWARE)), load), sets


def show(name: str, worth: float, problem: Problem, sets: Sets, placement: Placement, conditions: Conditions) -> None:
    """Print a line of figures; worth: the objective on train batches."""
    report = simulate(placement, sets.test, problem.model, problem.mesh, problem.cost, conditions)
    imbalance, latency = report.imbalance, report.latency_us
    print(
        f"{name:28}{worth:12.3f}{np.median(imbalance):9.3f}{imbalance.mean():9.4f}{np.percentile(imbalance, 99):9.3f}"
        f"{latency.mean():10.1f}{np.percentile(latency, 99):10.1f}",
        flush=True,
    )


def even(problem: Problem, sets: Sets, seconds: float, seeds: int) -> None:
    """Show what descent and tabu search find from the greedy placement and from pairing, under even split."""
    goal, starts = latency_goal(problem, sets.train), [greedy(problem), pairing(problem)]
    first = SearchState.of(starts[0], problem.load, goal.value, goal.together)
    usual = int(np.median(first.leading[0]))

    def worth(placement: Placement) -> float:
        state = SearchState.of(placement, problem.load, goal.value, goal.together, usual)
        return state.objective / len(problem.load) / 1000

    for seed in range(seeds):
        for name, search in (("descent", multistart), ("tabu", tabu)):
            found = search(problem, goal, starts, spell(seconds), np.random.default_rng(seed), lambda share: None)
            best = min([starts[0], *found], key=worth)
            show(f"even, {name}, seed {seed}", worth(best), problem, sets, best, Conditions("even-source"))


def after_annealing(problem: Problem, seconds: float, share: float, seed: int) -> Placement:
    """The placement after annealing for all but a share of the time, and large neighbourhoods for the rest."""
    units, rules, rng = problem.load[:BATCHES], MoveRules.of(problem), np.random.default_rng(seed)
    found = [greedy(problem)]
    found += anneal(found[0], units, rules, spell(seconds * (1 - share)), rng)
    if share > 0:
        found += search_neighbourhoods(found[-1], units, rules, spell(seconds * share), rng)
    return found[-1]


def optimal(problem: Problem, sets: Sets, seconds: float, seeds: int) -> None:
    """Show what annealing finds alone, and with large neighbourhoods at the end, under optimal split."""
    for seed in range(seeds):
        for share in SHARES:
            last = after_annealing(problem, seconds, share, seed)
            worth = objective(exact_peaks(last, problem.load[:BATCHES]).astype(np.float64))
            name = f"optimal, {share:.0%} lns, seed {seed}"
            show(name, worth, problem, sets, last, Conditions("optimal", "tokens"))


def main() -> None:
    """Run all cases, each once for a moment first so that everything is compiled."""
    seconds, seeds, traces = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    cases = {f"built-in, {tokens} tokens": (TraceInput(batch_tokens=tokens), MESH) for tokens in (512, 2048)}
    if traces:
        cases[f"{traces[0]}, 4x8"] = (TraceInput(traces=traces), Mesh(4, 8, 3))
    for name, (named, mesh) in cases.items():
        problem, sets = case(named, mesh)
        even(problem, sets, 0.01, 1)  # compiles
        optimal(problem, sets, 0.5, 1)
        print(f"\n{name:28}{'objective':>12}{'p50':>9}{'mean':>9}{'p99':>9}{'latency':>10}{'p99, us':>10}")
        even(problem, sets, seconds, seeds)
        optimal(problem, sets, seconds, seeds)


if __name__ == "__main__":
    main()
