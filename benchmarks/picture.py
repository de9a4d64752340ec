"""Draw the README's picture: how latency is distributed over test batches, with one curve for each method.

Usage: python benchmarks/picture.py OUT.png TRACES LAYER MESH SECONDS. MESH is ROWSxCOLUMNS, SECONDS the time limit.
"""

import sys

import matplotlib as mpl
import numpy as np

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.presets import load_hardware
from optimizer.domain.problem import make_problem
from optimizer.planning.options import SolveOptions
from optimizer.planning.plan_layer import LayerSolution, solve
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput, open_source

HARDWARE = "tt-wormhole-quad-galaxy"
COLOURS = {"sequential": "#999999", "pairing": "#e69f00", "greedy": "#0072b2", "search": "#d55e00"}
LABELS = {
    "sequential": "sequential",
    "pairing": "hottest with coldest",
    "greedy": "greedy (as EPLB)",
    "search": "moeplan",
}


def solution_of(traces: str, layer: int, mesh: Mesh, seconds: float) -> LayerSolution:
    """Plan one layer as `moeplan solve` does."""
    source = open_source(TraceInput(traces=[traces]), [layer], ModelChoice(), mesh, lambda share: None)
    sets = source.sets(layer)
    problem = make_problem(
        source.model, mesh, Cost(HARDWARE, load_hardware(HARDWARE)), sets.train.load(source.model.experts)
    )
    return solve(problem, sets, SolveOptions(seconds))


def draw(solution: LayerSolution, path: str, title: str) -> None:
    """Draw a curve for each method: the share of test batches that end within a latency."""
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 3.6), layout="constrained")
    for row in {row.method: row for row in solution.rows}.values():  # the last search of several is the plan
        if row.method in COLOURS:
            latency = np.sort(row.report.latency_us)
            share = np.arange(1, len(latency) + 1) / len(latency)
            p99 = np.percentile(latency, 99)
            label = f"{LABELS[row.method]}: p99 {p99:.0f} µs"
            axes.plot(latency, share, color=COLOURS[row.method], label=label, linewidth=2)
            axes.plot(p99, 0.99, "o", color=COLOURS[row.method])
    axes.set(
        xlabel="latency of one decode step of one layer, µs",
        ylabel="share of test batches",
        title=title,
        ylim=(0, 1.03),
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(0.21, 0.5), frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    out, traces, layer, mesh, seconds = sys.argv[1:]
    solution = solution_of(traces, int(layer), Mesh.parse(mesh, 3), float(seconds))
    batches = len(solution.rows[0].report.hops)
    draw(solution, out, f"DeepSeek-V2-Lite, layer {layer}, {mesh} devices: {batches} held-out batches of 512 tokens")
