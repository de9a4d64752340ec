"""What more replicas win in a layer, and what a limit on them costs."""

import numpy as np

from optimizer.planning.replica_curves import ReplicaCurve
from optimizer.report.page.facts import LayerFacts, PlanFacts
from optimizer.report.page.parts import ALL_LAYERS, Item, Picture, View, rounded
from optimizer.report.page.sweep_page import capacity_picture
from optimizer.report.page.theme import COLOURS, PLAN_COLOUR
from optimizer.report.page.words import us


def curve_items(facts: PlanFacts) -> list[Item]:
    """The pictures of the layer that was looked at closest; none where none was."""
    found: list[Item] = []
    for each in facts.layers.values():
        if each.capacities:
            found.append(f"Of layer {each.layer}, the slowest or the first one of the plan.")
            found += [replicas_picture(each.replicas)] if each.replicas is not None else []
            found.append(_capacity(each))
    return found


def _capacity(facts: LayerFacts) -> Picture:
    """The latency of the plan against what a capacity reroutes."""
    return capacity_picture({facts.layer: facts.capacities})


def replicas_picture(curve: ReplicaCurve) -> Picture:
    """Mean latency and imbalance against the number of extra replicas."""
    values = {"latency, us": curve.test.latency_us, "imbalance": curve.test.imbalance}
    least = int(np.argmin(curve.test.latency_us))
    says = (
        f"Layer {curve.layer}: mean latency falls from {us(float(curve.test.latency_us[0]))} us without extra replicas "
        f"to {us(float(curve.test.latency_us[least]))} us with {int(curve.extra[least])}."
    )
    return Picture(
        name="replicas",
        title="Latency and imbalance against extra replicas, means",
        reads="Placed by quick seeds on train batches, with slots left empty where replicas do not help; `solve` finds "
        f"better ones. On {curve.batches} test batches of {curve.tokens} tokens.",
        traces=[
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "line": {"color": colour, "dash": dash},
                "yaxis": axis,
                "hovertemplate": f"%{{x}} extra replicas: {name} %{{y}}<extra></extra>",
            }
            for (name, colour, dash, axis) in (
                ("latency, us", PLAN_COLOUR, "solid", "y"),
                ("imbalance", COLOURS[0], "dot", "y2"),
            )
        ],
        layout={
            "xaxis": {"title": {"text": "replicas beyond one of each expert"}},
            "yaxis": {"title": {"text": "latency of the layer, us"}},
            "yaxis2": {
                "title": {"text": "imbalance (peak / mean device load)"},
                "overlaying": "y",
                "side": "right",
                "showgrid": False,
            },
        },
        views={ALL_LAYERS: View([{"x": curve.extra.tolist(), "y": rounded(of, 5)} for of in values.values()], says)},
        height=360,
        wide=True,
    )
