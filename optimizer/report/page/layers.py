"""All layers at a glance, and how far each is from what no placement goes below."""

from typing import Any

import numpy as np

from optimizer.planning.plan_file import LayerPlan
from optimizer.report.figure_names import name_of
from optimizer.report.page.facts import PLAN, LayerFacts, PlanFacts
from optimizer.report.page.parts import ALL_LAYERS, Picture, TableOfText, View, rounded
from optimizer.report.page.theme import BEFORE_COLOUR, COLOURS, PLAN_COLOUR
from optimizer.report.page.words import percent, ratio, us


def layers_picture(facts: PlanFacts) -> Picture:
    """The p99 and the mean of each layer's latency, before and after."""
    traces, values = [], []
    x = [str(layer) for layer in facts.layers]
    for which, owner, colour in (("before", facts.before, BEFORE_COLOUR), ("plan", PLAN, PLAN_COLOUR)):
        for statistic, dash in (("p99", "solid"), ("mean", "dot")):
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": f"{owner}, {statistic}",
                    "line": {"color": colour, "dash": dash},
                    "hovertemplate": f"layer %{{x}}: {owner}, {statistic} %{{y:,.1f}} us<extra></extra>",
                }
            )
            latency = [getattr(each, which).latency[statistic] for each in facts.layers.values()]
            values.append({"x": x, "y": rounded(np.array(latency), 6)})
    worst = max(facts.layers, key=lambda layer: facts.layers[layer].plan.latency["p99"])
    says = f"The plan's slowest layer is {worst}, with a p99 of {us(facts.layers[worst].plan.latency['p99'])} us."
    return Picture(
        name="layers-latency",
        title="Latency of each layer, us",
        reads=f"Full lines are p99, dotted ones means, each over {facts.batches}.",
        traces=traces,
        layout={
            "xaxis": {"title": {"text": "layer"}, "type": "category"},
            "yaxis": {"title": {"text": "latency of the layer, us"}},
        },
        views={ALL_LAYERS: View(values, says)},
        height=360,
        wide=True,
    )


def layers_table(facts: PlanFacts) -> TableOfText:
    """A row for each layer."""
    columns = ("layer", f"p99 {facts.before}, us", "p99 plan, us", "change", "mean plan, us", "imbalance p50",
               "imbalance p99", facts.cost.unit, "compute above bound")  # fmt: skip
    rows = [_row(each, facts.plan.layers[layer]) for layer, each in facts.layers.items()]
    title = f"All layers; {facts.batches}"
    return TableOfText("layers-table", title, columns, {ALL_LAYERS: rows})


def _row(facts: LayerFacts, part: LayerPlan) -> list[str]:
    report, latency, old = facts.plan.report, facts.plan.latency, facts.before.latency["p99"]
    imbalance = np.percentile(report.imbalance, [50, 99])
    above = part.bounds.get("compute_us", {}).get("gap_to_any_placement")
    return [
        str(facts.layer),
        us(old),
        us(latency["p99"]),
        f"{latency['p99'] / old - 1:+.1%}",
        us(latency["mean"]),
        *map(ratio, imbalance),
        f"{report.tiles.mean():.2f}",
        "-" if above is None else percent(above),
    ]


def bounds_table(facts: PlanFacts) -> TableOfText:
    """The plan file's bounds: what the plan reaches, what its placement and what any placement could reach at best."""
    views = {str(layer): list(map(_bound_row, *_bounds(facts.plan.layers[layer]))) for layer in facts.layers}
    columns = ("mean of", "plan", "its own best routing", "gap to it", "any placement", "gap to it", "by the bound")
    title = "What the plan reaches on its test batches, and what is proven to be out of reach (from the plan file)"
    return TableOfText("bounds-table", title, columns, views)


def _bounds(part: LayerPlan) -> tuple[list[str], list[dict[str, Any]]]:
    """What is bounded, and the plan file's words on it."""
    return list(part.bounds), list(part.bounds.values())


def _bound_row(unit: str, gap: dict[str, Any]) -> list[str]:
    return [
        name_of(unit),
        _figure(gap.get("reached")),
        _figure(gap.get("this_placement")),
        _share(gap.get("gap_to_this_placement")),
        _figure(gap.get("any_placement")),
        _share(gap.get("gap_to_any_placement")),
        str(gap.get("by", "-")).replace("_", " "),
    ]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.3f}" if value < 100 else us(value)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def bounds_picture(facts: PlanFacts) -> Picture:
    """How far the plan is above each bound, in per cent of it."""
    return Picture(
        name="bounds",
        title="Gap to bounds, %",
        reads="How far the plan's mean is above a bound for the best routing of its own placement, and above one for "
        "any placement; 0 is optimal. From the plan file, on the plan's test batches.",
        traces=[
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "marker": {"color": colour},
                "hovertemplate": f"%{{y}}: %{{x:.1f}} % above the bound for {name}<extra></extra>",
            }
            for name, colour in (("its own placement", COLOURS[5]), ("any placement", PLAN_COLOUR))
        ],
        layout={"xaxis": {"title": {"text": "above the bound, %"}}, "yaxis": {"autorange": "reversed"}},
        views={str(layer): _gaps(layer, facts.plan.layers[layer]) for layer in facts.layers},
        wide=True,
        height=360,
    )


def _gaps(layer: int, part: LayerPlan) -> View:
    names = [name_of(unit) for unit in part.bounds]
    shares = [
        [None if (gap := found.get(key)) is None else round(100 * gap, 2) for found in part.bounds.values()]
        for key in ("gap_to_this_placement", "gap_to_any_placement")
    ]
    said = ", ".join(f"{name} {value} %" for name, value in zip(names, shares[1], strict=True) if value is not None)
    says = (
        f"Layer {layer}, the plan's means on its test batches above bounds for any placement: {said or 'none known'}."
    )
    return View([{"x": values, "y": names} for values in shares], says)
