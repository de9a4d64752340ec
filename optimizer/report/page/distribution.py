"""How latency is distributed over batches: a curve for each of several placements, of one layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from formulations.kit.arrays import Floats
from optimizer.report.page.parts import rounded

QUANTILES = np.array([*range(101)])
"""The per cent of batches for which a curve has a point: p50, p95 and p99 are among them."""

LAYOUT: dict[str, Any] = {
    "xaxis": {"title": {"text": "latency of the layer, us"}},
    "yaxis": {"title": {"text": "share of batches, %"}, "range": [0, 101]},
}
"""The axes of such a picture."""

TITLE = "Share of batches that end within a latency"


@dataclass(frozen=True)
class Curve:
    """A curve: what it is of, its colour, and whether it is dashed."""

    label: str
    colour: str
    dashed: bool = False

    def trace(self) -> dict[str, Any]:
        """The curve in plotly's terms, without its points."""
        return {
            "type": "scatter",
            "mode": "lines",
            "name": self.label,
            "line": {"color": self.colour, "dash": "dash" if self.dashed else "solid", "width": 2},
            "hovertemplate": f"{self.label}: %{{y}} % of batches within %{{x:,.1f}} us<extra></extra>",
        }


def points(latencies_us: Sequence[Floats]) -> list[dict[str, Any]]:
    """The points of curves, one for each per cent of batches; latencies_us: of each curve `[batch]`."""
    return [{"x": rounded(np.percentile(of, QUANTILES), 6), "y": QUANTILES.tolist()} for of in latencies_us]
