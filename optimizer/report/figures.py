"""Pictures of results as plotly's figures, for notebooks: of the same curves as the pages', with their colours."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from formulations.kit.arrays import Floats
from optimizer.experiments.compare_rivals import Comparison
from optimizer.planning.choose_for_datasets import EXPECTED
from optimizer.planning.plan_file import Plan
from optimizer.planning.plan_layer import LayerSolution
from optimizer.planning.rebalancing.plan import RebalancedPlan
from optimizer.report.page.distribution import LAYOUT, TITLE, Curve, points
from optimizer.report.page.parts import ALL_LAYERS, Picture
from optimizer.report.page.planners import bars
from optimizer.report.page.planners import distribution as of_planners
from optimizer.report.page.theme import COLOURS, PLAN_COLOUR
from optimizer.simulation.report import SimulationReport

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SHOWN_PARTS = ("p50", "p99")
"""The statistics of a layer's latency that a picture of all layers shows."""


def figure_of(picture: Picture, view: str = ALL_LAYERS) -> "Figure":
    """A page's picture as a figure; view: of which of the picture's views."""
    shown = picture.views[view]
    traces = [{**common, **own} for common, own in zip(picture.traces, shown.traces, strict=True)]
    return _figure(traces, {**picture.layout, **shown.layout, **_frame(picture.title, picture.height)})


def of_comparison(found: Comparison) -> "list[Figure]":
    """The latency of each planner under its best policy, and the distribution of the best."""
    return [figure_of(bars(found)), figure_of(of_planners(found))]


def of_solution(solution: LayerSolution) -> "list[Figure]":
    """The distribution of latency over test batches: EPLB's scheme, and the best plan under each policy."""
    greedy = {f"greedy, {row.report.routing}": row.report for row in solution.seeds if row.method == "greedy"}
    found = {f"{row.method}, {name}": row.report for name, row in solution.searched.items()}
    return [distribution(greedy | found)]


def of_reports(reports: Mapping[int, Sequence[SimulationReport]]) -> "list[Figure]":
    """Of one layer the distribution of latency under each policy; of several the latency of each."""
    if len(reports) == 1:
        (only,) = reports.values()
        return [distribution({report.routing: report for report in only})]
    curves: dict[str, list[float]] = {}
    for each in reports.values():
        for report in each:
            for statistic, q in (("p50", 50), ("p99", 99)):
                name = f"{report.routing}, {statistic}"
                curves.setdefault(name, []).append(float(np.percentile(report.latency_us, q)))
    return [layers([*reports], curves, "latency of the layer, us")]


def distribution(reports: Mapping[str, SimulationReport]) -> "Figure":
    """Which share of batches ends within a latency: a curve for each report, by its name."""
    curves = [Curve(name, COLOURS[place % len(COLOURS)]).trace() for place, name in enumerate(reports)]
    traces = [{**curve, **own} for curve, own in zip(curves, points(_latencies(reports)), strict=True)]
    first = next(iter(reports.values()))
    title = f"{TITLE}, on {first.batches:,} batches of {first.tokens:,} tokens"
    return _figure(traces, {**LAYOUT, **_frame(title, 400)})


def _latencies(reports: Mapping[str, SimulationReport]) -> list[Floats]:
    return [report.latency_us for report in reports.values()]


def of_plan(plan: Plan) -> "list[Figure]":
    """The latency of each layer of a plan, or the imbalance of its expected load where it was made on that alone."""
    parts = dict(sorted(plan.layers.items()))
    name, unit = "latency_us", "latency of the layer, us"
    if not all(name in part.quality for part in parts.values()):
        name, unit = "expected_imbalance", "expected imbalance (peak / mean device load)"
    if not all(name in part.quality for part in parts.values()):
        return []
    statistics = SHOWN_PARTS if name == "latency_us" else ("mean", "max")
    curves = {each: [float(part.quality[name][each]) for part in parts.values()] for each in statistics}
    return [layers([*parts], curves, unit)]


def layers(ids: Sequence[int], curves: Mapping[str, Sequence[float]], unit: str) -> "Figure":
    """A line over layers for each curve; unit: what the curves are of."""
    traces = [
        {"type": "scatter", "mode": "lines+markers", "name": name, "x": [*map(str, ids)], "y": list(values),
         "line": {"color": COLOURS[place % len(COLOURS)]}}
        for place, (name, values) in enumerate(curves.items())
    ]  # fmt: skip
    axes = {"xaxis": {"title": {"text": "layer"}, "type": "category"}, "yaxis": {"title": {"text": unit}}}
    return _figure(traces, {**axes, **_frame(f"Each layer: {unit}", 360)})


def of_rebalancing(found: RebalancedPlan) -> "list[Figure]":
    """What is gained against moves, with its 95 % intervals, where there is more than one budget."""
    points = sorted(found.curve, key=lambda point: point.moves)
    if len(points) < 2:
        return []
    gains = 100 * np.array([[point.gain.mean, point.gain.low, point.gain.high] for point in points])
    spread = {"type": "data", "symmetric": False, "array": (gains[:, 2] - gains[:, 0]).tolist(),
              "arrayminus": (gains[:, 0] - gains[:, 1]).tolist()}  # fmt: skip
    trace = {"type": "scatter", "mode": "lines+markers", "x": [point.moves for point in points],
             "y": gains[:, 0].tolist(), "error_y": spread, "line": {"color": PLAN_COLOUR}}  # fmt: skip
    counted = found.measure == EXPECTED
    gained, on = ("peak of the expected load", "steps") if counted else ("mean latency", "test batches")
    title = f"Gain in {gained} against moves, %, with 95 % intervals, on {len(found.asked.after):,} {on}"
    axes = {"xaxis": {"title": {"text": "moves"}}, "yaxis": {"title": {"text": "gain, %"}}}
    return [_figure([trace], {**axes, **_frame(title, 360)})]


def _figure(traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> "Figure":
    """A figure of plotly's, which is imported for it alone: results are made more often than figures of them."""
    from plotly.graph_objects import Figure

    return Figure([*traces], {**layout})


def _frame(title: str, height: int) -> dict[str, Any]:
    """What all figures have in common."""
    return {"title": {"text": title}, "height": height, "template": "plotly_white"}
