"""Our plans beside those of published planners, on the same test batches.

Usage: python benchmarks/quality.py [--sizes 128,512,1024,2048] [--seeds 0,1,2] [--seconds 60] [--kinds hint,fixed]
    [--json FILE] [TRACES]

Without TRACES the case is layer 12 of the built-in trace on 16x8 devices of 3 slots. TRACES are folders that have the
names in MESHES below. For each size and seed all rivals and our plans for several kinds of servers (OURS below) are
judged on the same test batches, which are consecutive, and every latency holds the price of its routing. The best rival
is the one with the least p99 latency or, for imbalance, the least p99 imbalance, each under its own routing, and once
more given our optimal routing. Where servers can split evenly and nothing else, the rivals' placements are judged under
an even split, too. For policies that wait for nothing the last lines say which part they win of what optimal routing
would win over the best rival if it had no price.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from speed import HARDWARE, LAYER, MESH

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.presets import load_hardware
from optimizer.domain.problem import Problem, make_problem
from optimizer.experiments.compare_rivals import judged, timed
from optimizer.experiments.rivals.planners import planners
from optimizer.planning.options import AUTO, SolveOptions
from optimizer.planning.plan_layer import solve
from optimizer.routing.context import Unit
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.report import SimulationReport
from optimizer.traces.batches import Sets
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import Source, TraceInput, open_source

MESHES = {"deepseek-v2-lite": (Mesh(4, 8, 3), 2, 1), "gpt-oss-20b": (Mesh(4, 4, 3), 0, 0)}
"""The mesh, the number of shared experts and the first MoE layer of each real trace, by the name of its folder."""
OURS: dict[str, tuple[Unit | None, tuple[str, ...]]] = {
    "any policy": (None, AUTO),
    "even only": (None, ("even-source",)),
    "near-source": (None, ("near-source",)),
    "fixed": (None, ("weights", "table")),
    "hint": (None, ("hint",)),
    "hint-device": (None, ("hint-device",)),
    "optimal": (None, ("optimal",)),
    "optimal, tokens": ("tokens", ("optimal",)),
}
FREE = ("near-source", "fixed", "hint", "hint-device")
"""The kinds of servers whose policies make no batch wait."""
Figures = dict[str, float]


def opened(trace: str | None, tokens: int, seed: int) -> tuple[Source, Mesh]:
    """The built-in trace, or the traces of a folder, in batches of `tokens` tokens, and the mesh for it."""
    if trace is None:
        named = TraceInput(batch_tokens=tokens, seed=seed)
        return open_source(named, [LAYER], ModelChoice(), MESH, lambda share: None), MESH
    mesh, shared, first = MESHES[Path(trace).name]
    named = TraceInput(traces=[trace], batch_tokens=tokens, seed=seed, first_moe_layer=first)
    return open_source(named, [LAYER], ModelChoice(shared_experts=shared), mesh, lambda share: None), mesh


def figures(report: SimulationReport) -> Figures:
    """The figures of a report that are compared."""
    imbalance, latency = (np.percentile(of, [50, 99]).tolist() for of in (report.imbalance, report.latency_us))
    return {
        "imbalance p50": imbalance[0],
        "imbalance mean": float(report.imbalance.mean()),
        "imbalance p99": imbalance[1],
        "tiles": float(report.tiles.mean()),
        "latency p50": latency[0],
        "latency mean": float(report.latency_us.mean()),
        "price": report.price_us,
        "latency p99": latency[1],
    }


def rivals(problem: Problem, sets: Sets, seed: int) -> dict[str, dict[str, Figures]]:
    """The figures of all rivals, by how pairs are routed, and by planner."""
    found: dict[str, dict[str, Figures]] = {"own": {}, "even-source": {}, "optimal tiles": {}, "optimal tokens": {}}
    for planner in planners(problem, sets.train, seed):
        planned = timed(planner, problem)
        for routing in dict.fromkeys((*planned.routings, "even-source")):
            of = figures(judged(problem, sets, planned.placement, Conditions(routing)))
            if routing in planned.routings:
                found["own"][f"{planner.name}, {routing}"] = of
            if routing == "even-source":
                found["even-source"][planner.name] = of
        for unit in ("tiles", "tokens"):
            report = judged(problem, sets, planned.placement, Conditions("optimal", unit))
            found[f"optimal {unit}"][planner.name] = figures(report)
    return found


def ours(problem: Problem, sets: Sets, seed: int, seconds: float, kinds: list[str]) -> dict[str, Figures]:
    """The figures of our plans, by the kind of server that they are made for."""
    found = {}
    for kind in kinds:
        unit, routings = OURS[kind]
        started = time.monotonic()
        plan = solve(problem, sets, SolveOptions(seconds, seed, routings=routings, unit=unit)).chosen
        found[kind] = figures(plan.report) | {"seconds": time.monotonic() - started}
    return found


def best(of: dict[str, Figures], figure: str) -> tuple[str, Figures]:
    """The planner that has the least value of a figure, with all its figures."""
    return min(of.items(), key=lambda item: item[1][figure])


def show(case: str, beside: dict[str, dict[str, Figures]], plans: dict[str, Figures]) -> None:
    """Print one case: for each question our figure, the best rival's, and their ratio."""
    questions = [
        ("latency p99", "own", "any policy"),
        ("latency p99", "optimal tiles", "any policy"),
        ("latency p99", "even-source", "even only"),
        ("imbalance p99", "own", "optimal, tokens"),
        ("imbalance p99", "optimal tokens", "optimal, tokens"),
        ("tiles", "own", "any policy"),
        ("tiles", "optimal tiles", "any policy"),
    ]
    for figure, routed, kind in questions:
        if kind not in plans:
            continue
        name, rival = best(beside[routed], figure)
        value, against = plans[kind][figure], rival[figure]
        print(f"{case} | {figure} | {kind} | {value:.3f} | {name} ({routed}) | {against:.3f} | {value / against:.3f}")
    for kind, of in plans.items():
        print(f"{case} | {kind} | " + ", ".join(f"{name} {value:.3f}" for name, value in of.items()))
    for kind in (kind for kind in FREE if {kind, "optimal"} <= plans.keys()):
        parts = [won(plans[kind], plans["optimal"], beside["own"], f"latency {of}") for of in ("mean", "p99")]
        print(
            f"{case} | {kind} wins of what optimal would win without a price | "
            + ", ".join(map("{:.0%}".format, parts))
        )


def won(plan: Figures, optimal: Figures, rivals: dict[str, Figures], figure: str) -> float:
    """The part of what optimal routing without its price wins over the best rival that a plan wins, in one figure."""
    rival = best(rivals, figure)[1][figure]
    return (rival - plan[figure]) / (rival - (optimal[figure] - optimal["price"]))


def main() -> None:
    """Run all cases, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", nargs="*", default=[])
    parser.add_argument("--sizes", default="128,512,1024,2048")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--kinds", default=",".join(OURS), help="the kinds of servers; their plans alone are made")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    kept: dict[str, Any] = {}
    print("case | figure | our server | ours | best rival | its | ratio")
    for trace in given.traces or [None]:
        for tokens in map(int, given.sizes.split(",")):
            for seed in map(int, given.seeds.split(",")):
                source, mesh = opened(trace, tokens, seed)
                sets, experts = source.sets(LAYER), source.model.experts
                cost = Cost(HARDWARE, load_hardware(HARDWARE))
                problem = make_problem(source.model, mesh, cost, sets.train.load(experts))
                case = f"{Path(trace).name if trace else 'built-in'}, {tokens} tokens, seed {seed}"
                found = (
                    rivals(problem, sets, seed),
                    ours(problem, sets, seed, given.seconds, given.kinds.split(",")),
                )
                show(case, *found)
                kept[case] = {"rivals": found[0], "ours": found[1]}
                if given.json:
                    given.json.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
