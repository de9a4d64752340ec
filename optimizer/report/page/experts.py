"""What experts do: which are hot and have how many replicas, which are chosen together, and how loads move."""

from base64 import b64encode
from typing import Any

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.placement import EMPTY
from optimizer.report.page.facts import LayerFacts, PlanFacts
from optimizer.report.page.parts import Picture, View, rounded
from optimizer.report.page.theme import BEFORE_COLOUR, COLOURS, DIVERGING, PLAN_COLOUR
from optimizer.routing.hints import USUAL_HINTS
from optimizer.statistics.coactivation import lift

LIFT_STEPS, MOST_DOUBLINGS = 40, 3
"""Lifts are kept as fortieths of a doubling, from an eighth to eight times: they fit into a byte, which keeps a page of
58 layers small, and a reader sees no difference."""

FOLLOWED = 3
"""How many experts are followed over time: the hottest ones, as many as a picture can show with what hints knew."""

SHOWN_BATCHES = 256
"""How many consecutive batches are shown: as many as can be told apart on a screen."""


def hot_picture(facts: PlanFacts) -> Picture:
    """The mean load of each expert, the hottest first, and what is left of it for each replica."""
    points = {"type": "scatter", "mode": "markers", "marker": {"size": 5}}
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "name": "load of the expert", "line": {"color": COLOURS[6], "width": 2}}
    ]
    for owner, colour in ((facts.before, BEFORE_COLOUR), ("moeplan", PLAN_COLOUR)):
        traces.append({**points, "name": f"per replica, {owner}", "marker": {"size": 5, "color": colour}})
    hover = "expert %{customdata[0]}: %{y:.1f} pairs a batch, %{customdata[1]} replicas<extra></extra>"
    return Picture(
        name="hot-experts",
        title="Hot experts and their replicas, pairs a batch",
        reads="Experts from the hottest to the coldest; the points are the load over the number of replicas. Means of "
        f"{facts.batches}.",
        traces=[trace | {"hovertemplate": hover} for trace in traces],
        layout={
            "xaxis": {"title": {"text": "experts, the hottest first"}},
            "yaxis": {"title": {"text": "pairs a batch, log"}, "type": "log", "dtick": 1},
        },
        views={str(layer): _hot(each) for layer, each in facts.layers.items()},
        height=360,
    )


def _hot(facts: LayerFacts) -> View:
    load = facts.load.mean(axis=0)
    order = np.argsort(-load, kind="stable")
    counts = {name: getattr(facts, name).placement.counts(len(load)) for name in ("before", "plan")}
    traces = [{"y": rounded(load[order]), "customdata": np.stack([order, counts["plan"][order]], axis=1).tolist()}]
    for copies in counts.values():
        data = np.stack([order, copies[order]], axis=1).tolist()
        traces.append({"y": rounded((load / copies)[order]), "customdata": data})
    hottest = int(order[0])
    says = (
        f"Layer {facts.layer}: the hottest expert, {hottest}, has {load[hottest]:.1f} pairs a batch where the mean is "
        f"{load.mean():.1f}; it has {counts['before'][hottest]} replicas before and {counts['plan'][hottest]} now."
    )
    return View(traces, says)


def together_picture(facts: PlanFacts) -> Picture:
    """How much oftener than by chance tokens choose two experts, for experts in the order of the plan's mesh rows."""
    ticks = [LIFT_STEPS * power for power in range(-MOST_DOUBLINGS, MOST_DOUBLINGS + 1)]
    words = ["1/8 or less", "1/4", "1/2", "by chance", "2", "4", "8 or more"]
    axis = {"showticklabels": False, "ticks": "", "showgrid": False, "title": {"text": "experts by mesh row"}}
    return Picture(
        name="together",
        title="Co-activation in row order: lift",
        reads="How many times oftener tokens choose both experts than if they chose independently. Experts are in the "
        f"order of the mesh row, and the device, of their first replica in the plan; lines part rows. {facts.batches}.",
        traces=[
            {
                "type": "heatmap",
                "colorscale": DIVERGING,
                "zmin": ticks[0],
                "zmax": ticks[-1],
                "hoverinfo": "text",
                "colorbar": {"tickvals": ticks, "ticktext": words, "thickness": 10},
            }
        ],
        layout={"xaxis": axis, "yaxis": axis | {"autorange": "reversed"}},
        views={str(layer): _together(each, facts.plan.mesh.cols) for layer, each in facts.layers.items()},
        height=420,
    )


def _together(facts: LayerFacts, cols: int) -> View:
    order, rows = row_order(facts.plan.placement.slots, len(facts.pairs), cols)
    above = lift(facts.pairs, facts.load.sum(axis=0)[: len(facts.pairs)], facts.tokens)
    inside = rows[:, None] == rows[None]
    ordered = above[order][:, order]
    means = [float(np.nanmean(ordered[where])) if (~np.isnan(ordered[where])).any() else 1.0
             for where in (inside, ~inside) if where.any()]  # fmt: skip
    said = " and ".join(f"{mean:.2f}" for mean in means)
    says = f"Layer {facts.layer}: the mean lift of experts in the same mesh row and in different ones is {said}."
    edges = np.flatnonzero(np.diff(rows)) + 0.5
    last = len(order) - 0.5
    lines = [{"x0": edge, "x1": edge, "y0": -0.5, "y1": last} for edge in edges.tolist()]
    lines += [{"x0": -0.5, "x1": last, "y0": edge, "y1": edge} for edge in edges.tolist()]
    shapes = [{"type": "line", "line": {"width": 1}, **line} for line in lines]
    cells = {"kind": "lift", "steps": LIFT_STEPS, "order": order.tolist(), "bytes": in_bytes(ordered)}
    return View([{}], says, {"shapes": shapes}, cells)


def row_order(slots: Ints, routed: int, cols: int) -> tuple[Ints, Ints]:
    """The routed experts by the device of their first replica, and the mesh row of each, both `[expert]`; slots
    `[device, slot]`."""
    flat = slots.ravel()
    held = np.flatnonzero((flat != EMPTY) & (flat < routed))
    experts, first = np.unique(flat[held], return_index=True)
    order = np.argsort(first, kind="stable")
    device = held[first[order]] // slots.shape[1]
    return experts[order], device // cols


def in_bytes(lifts: Floats) -> str:
    """Lifts `[expert, expert]` above the diagonal as base64 of signed bytes, row by row: `LIFT_STEPS` a doubling,
    up to `MOST_DOUBLINGS`; 0 where a lift is not known. Lifts are symmetric."""
    most = LIFT_STEPS * MOST_DOUBLINGS
    with np.errstate(divide="ignore"):
        steps = np.clip(np.log2(lifts[np.triu_indices(len(lifts), 1)]) * LIFT_STEPS, -most, most)
    return b64encode(np.nan_to_num(np.rint(steps), nan=0.0).astype(np.int8).tobytes()).decode()


def over_time_picture(facts: PlanFacts) -> Picture:
    """The loads of the hottest routed experts batch by batch, and what a load hint knew before each."""
    hints = facts.plan.hints or USUAL_HINTS
    how = f"an average with a half-life of {hints.half_life:g} batches, which learns of a batch {hints.lag} later"
    told = " hint-device, by which this plan is routed, is told loads of devices instead." if (
        facts.plan.policy == "hint-device") else ""  # fmt: skip
    traces: list[dict[str, Any]] = []
    for place in range(FOLLOWED):
        colour = COLOURS[place]
        drawn: dict[str, Any] = {"type": "scatter", "mode": "lines"}
        traces += [drawn | {"line": {"color": colour, "width": 1}, "opacity": 0.5},
                   drawn | {"line": {"color": colour, "width": 2.5}}]  # fmt: skip
    return Picture(
        name="over-time",
        title="Loads over time, and what hints knew, pairs a batch",
        reads=f"Thin lines: the hottest routed experts, in {_shown(facts)}; thick lines: {how}.{told}",
        traces=[{**trace, "hovertemplate": "batch %{x}: %{y:.1f} pairs"} for trace in traces],
        layout={"xaxis": {"title": {"text": "batch"}}, "yaxis": {"title": {"text": "pairs a batch"}}},
        views={str(layer): _over_time(each, facts.plan.model.routed_experts) for layer, each in facts.layers.items()},
        height=360,
        wide=True,
    )


def _shown(facts: PlanFacts) -> str:
    """Which batches are shown, in words."""
    return f"the first {SHOWN_BATCHES} of {facts.batches}" if len(facts.first.load) > SHOWN_BATCHES else facts.batches


def _over_time(facts: LayerFacts, routed: int) -> View:
    hottest = np.argsort(-facts.load[:, :routed].mean(axis=0), kind="stable")[:FOLLOWED].tolist()
    traces: list[dict[str, Any]] = []
    for expert in hottest:
        traces += [
            {"y": facts.load[:SHOWN_BATCHES, expert].tolist(), "name": f"expert {expert}"},
            {"y": rounded(facts.known[:SHOWN_BATCHES, expert], 3), "name": f"hint for expert {expert}"},
        ]
    traces += [{"y": [], "showlegend": False}] * (2 * FOLLOWED - len(traces))
    load, known = facts.load[:, :routed], facts.known[:, :routed]
    error = float(np.abs(load - known).mean() / load.mean())
    fixed = float(np.abs(load - load.mean(axis=0)).mean() / load.mean())
    says = (
        f"Layer {facts.layer}: over all routed experts and batches, hints miss a load by {error:.1%} of the mean load, "
        f"and the mean over all batches would miss it by {fixed:.1%}."
    )
    return View(traces, says)
