"""Whether any heuristic, rival or plan of ours beats a bound, on random layers of random machines.

Usage: python benchmarks/bounds.py [CASES]. Each case draws a model, a mesh, a network, messages per device or expert
and batches. Three published planners' placements and a random one are judged under four policies each, and so is a
short search of ours in every hundredth case. The run ends with an error at the first figure below its bound; bounds of
latency are held against every batch alone, too. What is printed at the end: how many figures were compared, and how
near to the bound the best latency of a case came.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from formulations.kit.arrays import Floats
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.presets import load_hardware
from optimizer.domain.presets.schema import HardwarePreset
from optimizer.domain.problem import Problem, make_problem
from optimizer.experiments.rivals.planners import planners
from optimizer.planning.bounds import LATENCY, Bound, bound_any, bound_given
from optimizer.planning.compute_bounds import least_compute_us
from optimizer.planning.link_bounds import Links
from optimizer.planning.options import SolveOptions
from optimizer.planning.plan_layer import solve
from optimizer.routing.policies import POLICIES
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.report import SimulationReport
from optimizer.simulation.simulator import simulate
from optimizer.traces.batches import Batches, Sets, default_rows, with_shared

CASES = 10_000
SMALL = 1 + 1e-9  # for sums of floating-point numbers
SHAPES = ((1, 2), (2, 1), (2, 2), (3, 2), (4, 2), (5, 1), (4, 4), (8, 2))
LINKS = {"rings": "tt-wormhole-quad-galaxy", "switch": "gb200-nvl72", "nodes": "h800"}
WIRINGS = list(product(("row", "column", "device"), LINKS, ("device", "expert"), ("device", "expert")))
POLICIES_A_CASE, PLANNERS_A_CASE, SEARCHED = 4, 3, 100


@dataclass(frozen=True, eq=False)
class BoundsCase:
    """A random layer: a problem, and batches to judge plans on; rng: for all choices that are left."""

    problem: Problem
    batches: Batches
    rng: np.random.Generator


def drawn(seed: int) -> BoundsCase:
    """The case of this seed. Tokens of a row have favourites in common, so that sources differ."""
    rng = np.random.default_rng(seed)
    mesh = Mesh(*SHAPES[rng.integers(len(SHAPES))], int(rng.integers(1, 5)))
    shared = int(rng.integers(0, min(3, mesh.slots)))
    routed = int(rng.integers(1, min(24, mesh.slots - shared) + 1))
    model = Model("drawn", routed, shared, int(rng.integers(1, min(routed, 6) + 1)))
    tokens, count = int(rng.integers(1, 120)), int(rng.integers(1, 7))
    row = rng.integers(mesh.rows, size=(count, tokens)) if rng.random() < 0.5 else default_rows(tokens, mesh.rows)
    row = np.broadcast_to(row, (count, tokens))
    heat, taste = rng.normal(size=routed) * rng.uniform(0, 2), rng.normal(size=(mesh.rows, routed)) * rng.uniform(0, 2)
    score = heat + taste[row] + rng.gumbel(size=(count, tokens, routed))
    chosen = np.argsort(-score, axis=2)[..., : model.top_k].astype(np.uint16)
    batches = Batches(with_shared(chosen, model), row)
    cost = machine(rng)
    return BoundsCase(make_problem(model, mesh, cost, batches.load(model.experts)), batches, rng)


def machine(rng: np.random.Generator) -> Cost:
    """A random machine: one of the presets with other networks and messages, and sometimes with dispatch by a table."""
    at, links, out, back = WIRINGS[rng.integers(len(WIRINGS))]
    name = LINKS[links]
    text = load_hardware(name).model_dump()
    text["network"]["tokens"], text["combine"]["message_per"] = at, back
    if links != "rings":
        text["dispatch"]["message_per"] = out
        text["compute"]["flops_per_token"] = 1e9  # so that small batches meet both sides of the roofline
    table = links == "rings" and rng.random() < 0.2
    return Cost(name, HardwarePreset.model_validate(text), dispatch_model="table" if table else None)


def placements(case: BoundsCase, seed: int) -> Iterator[Placement]:
    """Placements of some published planners, a random one, and now and then one of ours."""
    problem, rng = case.problem, case.rng
    known = planners(problem, case.batches, seed)
    for number in rng.permutation(len(known))[:PLANNERS_A_CASE]:
        yield known[number].plan(problem)
    yield at_random(problem, rng)
    if seed % SEARCHED == 0:
        sets = Sets(case.batches, case.batches, case.batches)
        yield solve(problem, sets, SolveOptions(60, seed, 200, jobs=1)).chosen.placement


def at_random(problem: Problem, rng: np.random.Generator) -> Placement:
    """Every expert once anywhere, and replicas in most of the slots that are left."""
    mesh, experts = problem.mesh, problem.model.experts
    slots = np.full((mesh.devices, mesh.slots_per_device), EMPTY)
    slots.flat[rng.permutation(mesh.slots)[:experts]] = np.arange(experts)
    for device, slot in np.argwhere(slots == EMPTY):
        missing = np.setdiff1d(np.arange(experts), slots[device])
        if len(missing) and rng.random() < 0.8:
            slots[device, slot] = rng.choice(missing)
    return Placement(slots)


def figures(report: SimulationReport) -> dict[str, Floats]:
    """What is bounded, `[batch]`, without the price of routing."""
    named = {name: getattr(report, name) for name in ("imbalance", "tiles", "dispatch_us", "compute_us", "combine_us")}
    tokens = {"copies_per_token": report.per_token("copies"), "hops_per_token": report.hops}
    return named | tokens | {LATENCY: report.latency_us - report.price_us}


def compared(bounds: list[Bound], report: SimulationReport, about: str) -> int:
    """How many figures are at or above their bounds. Raises SystemExit, which says about which case, for one below."""
    found, number = figures(report), 0
    for bound in (each for each in bounds if each.holds_for(report.routing)):
        values = found[bound.unit]
        reached = {"mean": values.mean(), "p50": np.percentile(values, 50), "p99": np.percentile(values, 99)}
        for name, value in reached.items():
            least = getattr(bound, name)
            if least is not None and least > value * SMALL:
                raise SystemExit(f"{about}: {name} of {bound.unit} is {value}, below the bound {bound.name}, {least}")
            number += least is not None
    return number


def run(seed: int) -> tuple[int, float]:
    """Compare all plans of a case with its bounds: how many figures, and the least latency over its bound."""
    case = drawn(seed)
    problem, batches, rng = case.problem, case.batches, case.rng
    about = batches, problem.model, problem.mesh, problem.cost
    free, links = bound_any(*about), Links(*about)
    alone = links.fixed_us + links.per_batch_us + least_compute_us(*about)
    latency = next(each.mean for each in free if each.unit == LATENCY and not each.only_for)
    number, nearest = 0, np.inf
    for placement in placements(case, seed):
        bounds = free + bound_given(*about, placement)
        for policy in rng.choice([*POLICIES], POLICIES_A_CASE, replace=False).tolist():
            report = simulate(placement, *about, Conditions(policy))
            number += compared(bounds, report, f"seed {seed}, {policy}") + batches.count
            taken = figures(report)[LATENCY]
            if np.any(alone > taken * SMALL):
                raise SystemExit(f"seed {seed}, {policy}: a batch is below its bound")
            nearest = min(nearest, float(taken.mean()) / latency)
    return number, nearest


def main() -> None:
    """Run all cases, and print what they came to."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else CASES
    number, above = 0, list[float]()
    for seed in range(cases):
        found, nearest = run(seed)
        number += found
        above.append(nearest - 1)
        if sys.stderr.isatty() and seed % 100 == 0:
            print(f"\r{seed} cases", end="", file=sys.stderr)
    p5, p50, p95 = np.percentile(above, [5, 50, 95])
    print(f"{cases} cases, {number} figures, none below its bound")
    print(f"least mean latency of a case above its bound: median {p50:.1%}, 5 % to 95 % of cases {p5:.1%} to {p95:.1%}")


if __name__ == "__main__":
    main()
