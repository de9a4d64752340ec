"""Charts of results, as self-contained pages that a browser shows without a network."""

from collections.abc import Mapping, Sequence

import numpy as np
from plotly import graph_objects
from plotly.io import to_html

from optimizer.report.simulation import estimates, model_line
from optimizer.simulation.report import SimulationReport

LABEL_APART = 0.04
"""The least distance of two labels, as a share of the chart's width: of two points that are closer, the second shows
its label only under the mouse. A compromise between many labels and labels that overlap; not tuned."""


def sweep_page(reports: Mapping[int, Sequence[SimulationReport]]) -> str:
    """A page with the p99 latency (microseconds) against the share of pairs that is rerouted or dropped (per cent): one
    curve per layer, and one point on it per capacity factor."""
    figure = graph_objects.Figure()
    for layer, of_layer in reports.items():
        limits = [report.rerouting for report in of_layer if report.rerouting is not None]
        share = [100 * (limit.share(limit.rerouted) + limit.share(limit.dropped)) for limit in limits]
        factors = [f"{limit.capacity_factor:g}" for limit in limits]
        figure.add_scatter(
            x=share,
            y=[float(np.percentile(report.latency_us, 99)) for report in of_layer],
            text=_spaced_out(factors, share),
            customdata=factors,
            name=f"layer {layer}",
            mode="lines+markers+text",
            textposition="top right",
            hovertemplate="capacity factor %{customdata}: %{x:.2f} % rerouted, p99 %{y:.1f} us",
        )
    first = next(iter(reports.values()))[0]
    figure.update_layout(
        title={"text": f"{first.batches} batches of {first.tokens} tokens, routing {first.routing}",
               "subtitle": {"text": f"{model_line(first)}; {estimates(first)}"}},
        xaxis_title="pairs rerouted to another expert or dropped, % (labels: capacity factor)",
        yaxis_title="latency of one layer, p99, us",
        showlegend=len(reports) > 1,
        template="plotly_white",
        height=520,
    )  # fmt: skip
    page: str = to_html(figure, include_plotlyjs=True, full_html=True)
    return page


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
