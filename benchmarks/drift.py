"""Plans under loads that they have not seen: each data set's plan on its own traffic and on that of every other.

Usage: python benchmarks/drift.py TRACES [--layer 12] [--mesh 4x8] [--tokens 512] [--seconds 10] [--seeds 0]
       [--routing hint-device]

TRACES is a folder with a folder for each data set. Each is planned for a single routing policy. On its own data set a
plan is judged on the test batches, on the others on batches of all requests, none of which it has seen. Printed are
mean imbalances: under the policy; if loads are split ideally; and split ideally where the others' routed experts are
dealt anew, so that it is not chance which of them are hot, the mean of some deals. Then the same of two placements that
are annealed for an ideal split, and show what is possible: "any" is made for the loads of all other data sets with
experts dealt anew, as if everything were known of other traffic but which experts are hot; "all" for the loads of all
data sets.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.placement import Placement
from optimizer.domain.presets import load_hardware
from optimizer.domain.problem import Problem, make_problem
from optimizer.experiments.compare_rivals import judged
from optimizer.planning.options import SolveOptions
from optimizer.planning.plan_layer import solve
from optimizer.search.annealing import AnnealingSchedule, anneal
from optimizer.search.moves import MoveRules
from optimizer.search.seeds.flexibility import flexibility
from optimizer.search.split_state import exact_peaks
from optimizer.search.stop import Deadline, SearchBudget
from optimizer.simulation.conditions import Conditions
from optimizer.traces.batches import Batches, Sets
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput, open_source

HARDWARE = "tt-wormhole-galaxy"
SOME = 8  # every so many-th batch is looked at; neighbours are alike
DEALS, BATCHES = (
    96,
    2,
)  # deals of experts, and batches for each; all placements meet the same deals, as means over other
# deals differ by some .03


@dataclass(frozen=True)
class Case:
    """A data set: the problem, the batches to plan on and to judge on, and those of all requests for others' plans."""

    problem: Problem
    sets: Sets
    everything: Batches

    def unseen_by(self, planned: "Case") -> Batches:
        """The batches of this data set on which a plan made for another one, or for this, is judged."""
        return self.sets.test if planned is self else self.everything

    def dealt(self, load: Ints, deals: int, batches: int, rng: np.random.Generator) -> Ints:
        """Loads `[deal * batch, expert]` of this data set in which routed experts are dealt anew."""
        found = []
        for _ in range(deals):
            order = np.arange(load.shape[1])
            order[: self.problem.model.routed_experts] = rng.permutation(self.problem.model.routed_experts)
            found.append(load[rng.integers(len(load), size=batches)][:, order])
        return np.concatenate(found)


def case(folder: Path, layer: int, mesh: Mesh, tokens: int, seed: int) -> Case:
    """Read a data set."""
    named = TraceInput(traces=[str(folder)], batch_tokens=tokens, seed=seed)
    source = open_source(named, [layer], ModelChoice(), mesh, lambda share: None)
    sets, cost = source.sets(layer), Cost(HARDWARE, load_hardware(HARDWARE))
    problem = make_problem(source.model, mesh, cost, sets.train.load(source.model.experts))
    return Case(problem, sets, source.everything(layer))


def ideal(placement: Placement, load: Ints) -> float:
    """The mean imbalance that the best split of these loads `[batch, expert]` reaches."""
    even = load.sum(axis=1) / len(placement.slots)
    return float((exact_peaks(placement, load) / even).mean())


def figures(planned: Case, other: Case, placement: Placement, routing: str) -> tuple[float, float, float]:
    """The mean imbalance of a placement on a data set: under the policy, split ideally, and with experts dealt anew."""
    batches = other.unseen_by(planned)
    report = judged(planned.problem, planned.sets._replace(test=batches), placement, Conditions(routing))
    load, rng = batches.load(planned.problem.model.experts)[::SOME], np.random.default_rng(0)
    dealt = other.dealt(load, DEALS, BATCHES, rng)
    return float(report.imbalance.mean()), ideal(placement, load), ideal(placement, dealt)


def annealed(problem: Problem, load: Ints, seconds: float, seed: int) -> Placement:
    """A placement for the least mean peak of these loads under an ideal split."""
    problem = replace(problem, load=load).loose
    start, schedule = flexibility(problem), AnnealingSchedule(tail_weight=0)
    budget, rng = SearchBudget(Deadline(seconds), seconds), np.random.default_rng(seed)
    return [start, *anneal(start, load, MoveRules.of(problem), budget, rng, schedule)][-1]


def placements(cases: list[Case], kind: str, routing: str, seconds: float, seed: int) -> list[Placement]:
    """The placement for each data set, as planned for it, for any other traffic, or for all data sets."""
    if kind == "plan":
        options = SolveOptions(seconds, seed, jobs=1, routings=(routing,))
        return [solve(each.problem, each.sets, options).chosen.placement for each in cases]
    if kind == "all":
        load = np.concatenate([each.problem.load[::SOME] for each in cases])
        return [annealed(cases[0].problem, load, seconds, seed)] * len(cases)
    found = []
    for each in cases:
        others, rng = [other for other in cases if other is not each], np.random.default_rng(seed)
        load = np.concatenate([other.dealt(other.problem.load, 192, 1, rng) for other in others])
        found.append(annealed(each.problem, load, seconds, seed))
    return found


def show(kind: str, seed: int, found: Floats) -> None:
    """Print one line of the means of found `[planned, judged, figure]`: on others, and on a plan's own data set."""
    across = ~np.eye(len(found), dtype=bool)
    other, own = found[across].mean(axis=0), found[~across].mean(axis=0)
    towards = [column[rest].mean() for column, rest in zip(found[..., 0].T, across, strict=True)]
    print(
        f"{kind:>4} seed {seed}: others {other[0]:.3f}, ideal {other[1]:.3f}, dealt anew {other[2]:.3f}; "
        f"own {own[0]:.3f}, ideal {own[1]:.3f}; on each by the others' {', '.join(map('{:.2f}'.format, towards))}",
        flush=True,
    )


def main() -> None:
    """Read the data sets, then plan and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path)
    parser.add_argument("--layer", type=int, default=12)
    parser.add_argument("--mesh", default="4x8")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--routing", default="hint-device")
    given = parser.parse_args()
    rows, cols = map(int, given.mesh.split("x"))
    folders = sorted(folder for folder in given.traces.iterdir() if folder.is_dir())
    for seed in map(int, given.seeds.split(",")):
        cases = [case(folder, given.layer, Mesh(rows, cols, 3), given.tokens, seed) for folder in folders]
        for kind in ("plan", "any", "all"):
            found = placements(cases, kind, given.routing, given.seconds, seed)
            values = [
                [figures(planned, other, placement, given.routing) for other in cases]
                for planned, placement in zip(cases, found, strict=True)
            ]
            show(kind, seed, np.array(values))


if __name__ == "__main__":
    main()
