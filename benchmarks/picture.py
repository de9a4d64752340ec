"""Draw the README's picture: how latency is distributed over test batches, with one curve for each method.

Usage: python benchmarks/picture.py OUT.png TRACES LAYER MESH SECONDS. MESH is ROWSxCOLUMNS, SECONDS the time limit.
The Chromium or Chrome that is installed draws it, as it does the pictures of `moeplan report`.
"""

import sys
from pathlib import Path

import numpy as np

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.presets import load_hardware
from optimizer.domain.problem import make_problem
from optimizer.files import write_whole_binary
from optimizer.planning.options import SolveOptions
from optimizer.planning.plan_layer import LayerSolution, MethodResult, solve
from optimizer.report.page.distribution import LAYOUT, Curve, points
from optimizer.report.page.parts import ALL_LAYERS, Picture, Section, View
from optimizer.report.page.pictures import draw_pictures, find_browser
from optimizer.report.page.theme import COLOURS as TELLING
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput, open_source

HARDWARE = "tt-wormhole-quad-galaxy"
COLOURS = {"sequential": TELLING[6], "pairing": TELLING[4], "greedy": TELLING[0], "search": TELLING[1]}
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


def draw(solution: LayerSolution, path: Path, title: str) -> None:
    """Draw a curve for each method: the share of test batches that end within a latency."""
    rows = {row.method: row for row in solution.rows if row.method in COLOURS}  # the last search of several is the plan
    labels = {method: f"{LABELS[method]}: p99 {p99(row):,.0f} us" for method, row in rows.items()}
    picture = Picture(
        name="distribution",
        title=title,
        reads="",
        traces=[Curve(labels[method], COLOURS[method]).trace() for method in rows],
        layout=LAYOUT,
        views={ALL_LAYERS: View(points([row.report.latency_us for row in rows.values()]), title)},
    )
    drawn = draw_pictures(find_browser("png"), [Section("picture", title, [picture])], None, "png")
    write_whole_binary(path, lambda file: file.write(drawn["distribution"]))


def p99(row: MethodResult) -> float:
    """The latency that 99 % of test batches keep to, in microseconds."""
    return float(np.percentile(row.report.latency_us, 99))


if __name__ == "__main__":
    out, traces, layer, mesh, seconds = sys.argv[1:]
    solution = solution_of(traces, int(layer), Mesh.parse(mesh, 3), float(seconds))
    batches = len(solution.rows[0].report.hops)
    draw(
        solution,
        Path(out),
        f"DeepSeek-V2-Lite, layer {layer}, {mesh} devices: {batches} held-out batches of 512 tokens",
    )
