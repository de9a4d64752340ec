"""The page of `sweep`: what latency a capacity wins, and how many pairs it reroutes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optimizer.report.page.from_tables import items_of
from optimizer.report.page.parts import ALL_LAYERS, Picture, Section, View, rounded
from optimizer.report.page.skeleton import page
from optimizer.report.page.theme import COLOURS
from optimizer.report.simulation import estimates, model_line, sweep_table
from optimizer.simulation.report import SimulationReport

LABEL_APART = 0.04
"""The least distance of two labels, as a share of the chart's width: of two points that are closer, the second shows
its label only under the mouse. A compromise between many labels and labels that overlap; not tuned."""


def sweep_page(reports: Mapping[int, Sequence[SimulationReport]]) -> str:
    """A page with the p99 latency (microseconds) against the share of pairs that is rerouted or dropped (per cent): one
    curve per layer, and one point on it per capacity factor; and the tables of `sweep`."""
    first = next(iter(reports.values()))[0]
    said = [
        f"{first.batches:,} batches of {first.tokens} tokens, routing {first.routing}; {model_line(first)}; "
        f"{estimates(first)}.",
        *(_best(layer, of_layer) for layer, of_layer in reports.items()),
    ]
    tables = items_of([sweep_table(of_layer, layer) for layer, of_layer in reports.items()], "sweep")
    return page(
        "moeplan: capacity of replicas", said, [Section("curve", "Capacity", [capacity_picture(reports), *tables])]
    )


def p99(report: SimulationReport) -> float:
    """The latency that 99 % of batches keep to, in microseconds."""
    return float(np.percentile(report.latency_us, 99))


def moved_on(report: SimulationReport) -> float:
    """The share of pairs that are rerouted to other experts or dropped, in per cent; 0 where there is no capacity."""
    limit = report.rerouting
    return 0.0 if limit is None else 100 * (limit.share(limit.rerouted) + limit.share(limit.dropped))


def _best(layer: int, reports: Sequence[SimulationReport]) -> str:
    """Under which capacity factor a layer has the least p99, in words."""
    best = min(reports, key=p99)
    factor = best.rerouting.capacity_factor if best.rerouting is not None else np.inf
    return (
        f"Layer {layer}: the least p99 is {p99(best):,.1f} us, at capacity factor {factor:g}, where "
        f"{moved_on(best):.2f} % of pairs are rerouted or dropped."
    )


def capacity_picture(reports: Mapping[int, Sequence[SimulationReport]]) -> Picture:
    """The curves of the page."""
    traces, values = [], []
    for place, (layer, of_layer) in enumerate(reports.items()):
        factors = ["none" if each.rerouting is None else f"{each.rerouting.capacity_factor:g}" for each in of_layer]
        share = [moved_on(each) for each in of_layer]
        traces.append(_curve(layer, COLOURS[place % len(COLOURS)]))
        text, latency = _spaced_out(factors, share), np.array([p99(each) for each in of_layer])
        values.append({"x": rounded(np.array(share)), "y": rounded(latency, 6), "text": text, "customdata": factors})
    first = next(iter(reports.values()))[0]
    return Picture(
        name="capacity",
        title="Latency against what a capacity reroutes, us",
        reads="Each point is a capacity factor, which stands beside it. On "
        f"{first.batches:,} batches of {first.tokens} tokens.",
        traces=traces,
        layout={
            "xaxis": {"title": {"text": "pairs rerouted to another expert or dropped, %"}},
            "yaxis": {"title": {"text": "latency of the layer, p99, us"}},
        },
        views={ALL_LAYERS: View(values, " ".join(_best(layer, of_layer) for layer, of_layer in reports.items()))},
        height=400,
        wide=True,
    )


def _curve(layer: int, colour: str) -> dict[str, Any]:
    """How the curve of a layer is drawn."""
    return {
        "type": "scatter",
        "mode": "lines+markers+text",
        "name": f"layer {layer}",
        "textposition": "top right",
        "cliponaxis": False,
        "line": {"color": colour},
        "hovertemplate": "capacity factor %{customdata}: %{x:.2f} % rerouted, p99 %{y:.1f} us",
    }


def _spaced_out(labels: list[str], places: list[float]) -> list[str]:
    """The labels of points at ascending or descending places; a label that is too near to the last one shown is
    empty."""
    apart = LABEL_APART * (max(places) - min(places))
    shown: list[str] = []
    last = np.inf
    for label, place in zip(labels, places, strict=True):
        far = not shown or abs(place - last) >= apart
        shown.append(label if far else "")
        last = place if far else last
    return shown
