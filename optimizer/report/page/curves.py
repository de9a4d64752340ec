"""What more replicas win in a layer, and what a limit on them costs."""

import numpy as np

from formulations.kit.arrays import Floats
from optimizer.planning.replica_curves import ReplicaCurve
from optimizer.report.page.facts import LayerFacts, PlanFacts
from optimizer.report.page.parts import ALL_LAYERS, Item, Picture, View, rounded
from optimizer.report.page.sweep_page import capacity_picture
from optimizer.report.page.theme import PLAN_COLOUR


def curve_items(facts: PlanFacts) -> list[Item]:
    """The pictures of the layer that was looked at closest; none where none was."""
    found: list[Item] = []
    for each in facts.layers.values():
        if each.capacities:
            found.append(f"Of layer {each.layer}, the slowest or the first one of the plan.")
            found += replica_pictures(each.replicas) if each.replicas is not None else []
            found.append(_capacity(each))
    return found


def _capacity(facts: LayerFacts) -> Picture:
    """The latency of the plan against what a capacity reroutes."""
    return capacity_picture({facts.layer: facts.capacities})


def replica_pictures(curve: ReplicaCurve) -> list[Picture]:
    """Mean latency and mean imbalance against the number of extra replicas."""
    return [
        _against_replicas(curve, "replicas-latency", "Latency", "latency of the layer, us", curve.test.latency_us),
        _against_replicas(curve, "replicas-imbalance", "Imbalance", "peak / mean device load", curve.test.imbalance),
    ]


def _against_replicas(curve: ReplicaCurve, name: str, what: str, unit: str, means: Floats) -> Picture:
    """One of the two pictures; means `[point]` over test batches."""
    least = int(np.argmin(means))
    says = (
        f"Layer {curve.layer}: mean {what.lower()} is {float(means[0]):,.3f} without extra replicas, and least, "
        f"{float(means[least]):,.3f}, with {int(curve.extra[least])}."
    )
    return Picture(
        name=name,
        title=f"{what} against extra replicas, mean",
        reads="Placed by quick seeds on train batches, with slots left empty where replicas do not help; `solve` finds "
        f"better placements. On {curve.batches} test batches of {curve.tokens} tokens.",
        traces=[
            {
                "type": "scatter",
                "mode": "lines+markers",
                "line": {"color": PLAN_COLOUR},
                "hovertemplate": f"%{{x}} extra replicas: {unit} %{{y}}<extra></extra>",
            }
        ],
        layout={
            "xaxis": {"title": {"text": "replicas beyond one of each expert"}},
            "yaxis": {"title": {"text": unit}},
        },
        views={ALL_LAYERS: View([{"x": curve.extra.tolist(), "y": rounded(means, 5)}], says)},
    )
