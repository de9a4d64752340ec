"""How long batches take: by stage, as a table, and as a distribution, for each placement and routing policy."""

from typing import Any

import numpy as np

from optimizer.report.page.distribution import LAYOUT, TITLE, Curve, points
from optimizer.report.page.facts import PLAN, JudgedRun, LayerFacts, PlanFacts
from optimizer.report.page.parts import Picture, TableOfText, View, rounded
from optimizer.report.page.theme import COLOURS, STAGE_COLOURS
from optimizer.report.page.words import ratio, us
from optimizer.simulation.report import STAGES

COLUMNS = (
    "placement, routing",
    *("mean", "p50", "p95", "p99"),
    *STAGES,
    *("imbalance p50", "imbalance p99"),
)


def latency_table(facts: PlanFacts) -> TableOfText:
    """Latency of every placement and policy: its statistics, the means of its stages, and the imbalance."""
    return TableOfText(
        name="latency",
        title=f"Latency, us: statistics over {facts.batches}; means of its stages, routing being the price of deciding",
        columns=(*COLUMNS, facts.cost.unit),
        views={str(layer): [_row(run) for run in each.runs] for layer, each in facts.layers.items()},
        strong=frozenset({1}),
    )


def _row(run: JudgedRun) -> list[str]:
    """One placement under one policy."""
    latency, report = run.latency, run.report
    stages = (float(getattr(report, f"{name}_us").mean()) for name in STAGES)
    imbalance = np.percentile(report.imbalance, [50, 99])
    return [
        run.name,
        *(us(latency[name]) for name in ("mean", "p50", "p95", "p99")),
        *map(us, stages),
        *map(ratio, imbalance),
        f"{report.tiles.mean():.2f}",
    ]


def stages_picture(facts: PlanFacts) -> Picture:
    """Bars of the stages, the price of routing included."""
    views = {str(layer): _stages(each) for layer, each in facts.layers.items()}
    return Picture(
        name="stages",
        title="Latency by stage, mean, us",
        reads=f"Routing is the time that every batch waits until its replicas are chosen. Means over {facts.batches}.",
        traces=[
            {
                "type": "bar",
                "orientation": "h",
                "name": stage,
                "marker": {"color": STAGE_COLOURS[stage]},
                "hovertemplate": f"%{{y}}: {stage} %{{x:,.1f}} us<extra></extra>",
            }
            for stage in STAGES
        ],
        layout={
            "barmode": "stack",
            "xaxis": {"title": {"text": "latency of the layer, us"}},
            "yaxis": {"autorange": "reversed", "automargin": True},
            "legend": {"traceorder": "normal"},
        },
        views=views,
        height=400,
        wide=True,
    )


def _stages(facts: LayerFacts) -> View:
    names = [run.name for run in facts.runs]
    traces: list[dict[str, Any]] = [
        {"x": rounded(np.array([getattr(run.report, f"{stage}_us").mean() for run in facts.runs])), "y": names}
        for stage in STAGES
    ]
    plan = {stage: float(getattr(facts.plan.report, f"{stage}_us").mean()) for stage in STAGES}
    said = ", ".join(f"{stage} {us(value)}" for stage, value in plan.items())
    return View(traces, f"Layer {facts.layer}, stages of {facts.plan.name} in microseconds: {said}.")


def distribution_picture(facts: PlanFacts) -> Picture:
    """Which share of batches ends within a latency: a curve for each placement and policy."""
    first = facts.first
    policies = dict.fromkeys(run.report.routing for run in first.runs)
    colours = {policy: COLOURS[place % len(COLOURS)] for place, policy in enumerate(policies)}
    return Picture(
        name="distribution",
        title=TITLE,
        reads=f"Curves further left are faster; a curve's place at 99 % is its p99. Full lines are the plan's, dashed "
        f"ones those of the placement before. On {facts.batches}. A click on a name hides its curve.",
        traces=[Curve(run.name, colours[run.report.routing], dashed=run.owner != PLAN).trace() for run in first.runs],
        layout=LAYOUT,
        views={str(layer): _distribution(each) for layer, each in facts.layers.items()},
        height=400,
        wide=True,
    )


def _distribution(facts: LayerFacts) -> View:
    traces = points([run.report.latency_us for run in facts.runs])
    said = "; ".join(f"{run.name} within {us(run.latency['p99'])}" for run in facts.runs)
    return View(traces, f"Layer {facts.layer}, 99 % of batches end in microseconds: {said}.")
