"""How time, memory, gap and gain grow with devices, experts and tokens: a star of cases around the home case.

Usage: python benchmarks/scale.py [--seconds N] [--cases NAME,...] [--stages]

Each case runs in a process of its own, so that its peak memory is its own. It first times the stages that a plan is
made of, each on its own and once its kernels are compiled, and then, without --stages, plans one layer in --seconds.
Exponents are fitted to the stages by least squares in logarithms, over each arm of the star. Prints a table and
writes results/scale.json; cases that are there already are kept, so that a run can be gone on with.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from optimizer import Hardware, SolveOptions
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.presets import load_model
from optimizer.domain.problem import make_problem
from optimizer.files import write_whole
from optimizer.planning.bounds import LATENCY, bound_any
from optimizer.planning.plan_layer import solve
from optimizer.planning.pool import LayerJudge
from optimizer.search.seeds.flexibility import flexibility
from optimizer.search.seeds.greedy import greedy
from optimizer.search.seeds.quick import quick
from optimizer.simulation.conditions import Conditions
from optimizer.traces.source import TraceInput, open_traces

LAYER, RESULTS = 12, Path(__file__).parent / "results" / "scale.json"
POLICIES = ("even-source", "near-source", "nearest", "hint-device")  # `optimal` is left out where it takes seconds
BATCHES = 8  # simulated to tell how long one takes


class Case(NamedTuple):
    """A layer to plan: the mesh, slots of a device, routed experts and tokens of a batch."""

    rows: int
    cols: int
    slots: int
    experts: int
    tokens: int

    @property
    def devices(self) -> int:
        """The number of devices."""
        return self.rows * self.cols


CASES = {
    "home": Case(16, 8, 3, 256, 512),
    "512 devices": Case(32, 16, 3, 256, 512),
    "2048 devices": Case(64, 32, 3, 256, 512),
    "1024 experts": Case(16, 8, 12, 1024, 512),
    "8192 tokens": Case(16, 8, 3, 256, 8192),
    "65536 tokens": Case(16, 8, 3, 256, 65536),
    "large": Case(64, 32, 4, 1024, 8192),
}
"""One number is changed at a time, and in the last case all."""


def model_of(experts: int) -> Model:
    """DeepSeek-V3 with another number of experts."""
    return replace(load_model("deepseek-v3"), routed_experts=experts)


def taken(work: Callable[[], object]) -> float:
    """Seconds that some work takes the second time, when all that it needs is compiled."""
    work()
    started = time.monotonic()
    work()
    return time.monotonic() - started


def measured(case: Case, seconds: float | None) -> dict[str, Any]:
    """The stages of a case, and what a plan came to where it is given seconds; run in a process of its own."""
    mesh, model = Mesh(case.rows, case.cols, case.slots), model_of(case.experts)
    cost = Hardware.of(mesh=mesh).cost
    started = time.monotonic()
    source = open_traces(TraceInput(batch_tokens=case.tokens), [LAYER], model, mesh, lambda share: None)
    sets = source.sets(LAYER)
    found: dict[str, Any] = {"batches_s": time.monotonic() - started, "batches": sets.test.count}
    problem = make_problem(model, mesh, cost, sets.train.load(model.experts), layer=LAYER)
    placement, some = greedy(problem), sets.selection.part(0, BATCHES)
    for policy in POLICIES:
        judge = LayerJudge(problem, sets, Conditions(policy))
        found[f"{policy}_ms"] = 1000 * taken(partial(judge.on, placement, some)) / BATCHES
    found["simulated_ms"] = sum(found[f"{policy}_ms"] for policy in POLICIES)
    found["flexibility_s"] = taken(lambda: flexibility(problem))
    found["expected_ms"] = 1000 * taken(lambda: quick(problem, np.random.default_rng(0)))
    started = time.monotonic()
    bound_any(sets.test, model, mesh, cost)
    found["bounds_s"] = time.monotonic() - started
    if seconds is not None:
        solve(problem, sets, SolveOptions(1.0))  # compiles
        started = time.monotonic()
        solution = solve(problem, sets, SolveOptions(seconds))
        base = next(row for row in solution.seeds if row.method == "greedy").report.latency_us
        gap = next(gap for gap in solution.gaps if gap.unit == LATENCY)
        found |= {
            "limit_s": seconds,
            "solve_s": time.monotonic() - started,
            "policy": solution.chosen.report.routing,
            "gap": gap.to_any,
            "gain": 1 - float(solution.chosen.report.latency_us.mean() / base.mean()),
            "says": [*solution.remarks],
        }
    return found | {"gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


ARMS = {
    "devices": ("home", "512 devices", "2048 devices"),
    "experts": ("home", "1024 experts"),
    "tokens": ("home", "8192 tokens", "65536 tokens"),
}
"""The cases among which one number alone differs, but for the slots that more experts need."""


def exponent(rows: dict[str, dict[str, Any]], size: str, figure: str) -> float:
    """The power of devices, experts or tokens with which a figure grows from the home case on, by least squares in
    logarithms over the cases of an arm."""
    sizes = [getattr(CASES[name], size) for name in ARMS[size]]
    figures = [rows[name][figure] for name in ARMS[size]]
    return float(np.polyfit(np.log(sizes), np.log(figures), 1)[0])


FITTED = ("simulated_ms", "flexibility_s", "expected_ms", "bounds_s", "gigabytes")
COLUMNS = (*FITTED, "solve_s", "gap", "gain")


def shown(rows: dict[str, dict[str, Any]]) -> str:
    """The table of all cases, and the exponents below it."""
    lines = [f"| case | {' | '.join(COLUMNS)} |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{row[of]:.3g}' if of in row else '' for of in COLUMNS)} |")
    if rows.keys() >= {name for arm in ARMS.values() for name in arm}:
        lines += ["", f"| grows with a power of | {' | '.join(FITTED)} |", "| --- " * (len(FITTED) + 1) + "|"]
        lines += [
            f"| {size} | {' | '.join(f'{exponent(rows, size, figure):.2f}' for figure in FITTED)} |" for size in ARMS
        ]
    return "\n".join(lines)


def main() -> None:
    """Run the cases that the command line names, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        print(json.dumps(measured(CASES[given.cases], None if given.stages else given.seconds)))
        return
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in given.cases.split(","):
        command = [sys.executable, __file__, "--alone", "--cases", name, "--seconds", str(given.seconds)]
        command += ["--stages"] * given.stages
        rows[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        write_whole(RESULTS, json.dumps(rows, indent=1) + "\n")
        print(name, rows[name], file=sys.stderr, flush=True)
    print(shown(rows))


if __name__ == "__main__":
    main()
