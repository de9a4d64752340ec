"""Pictures of our plan beside the plans of published planners."""

import numpy as np

from optimizer.experiments.compare_rivals import OURS, ComparedPlan, Comparison, p99
from optimizer.report.compare import routing
from optimizer.report.page.distribution import LAYOUT, TITLE, Curve, points
from optimizer.report.page.parts import ALL_LAYERS, Picture, View, rounded
from optimizer.report.page.theme import COLOURS, PLAN_COLOUR
from optimizer.report.page.words import us


def batches_of(found: Comparison) -> str:
    """On which batches the planners are compared, in words."""
    report = found.rows[0].report
    return f"{report.batches:,} test batches of {report.tokens} tokens"


def fastest(found: Comparison) -> dict[str, ComparedPlan]:
    """Each planner's placement under that of its policies, of those that the server runs, under which its p99 is least,
    the fastest planner first."""
    best: dict[str, ComparedPlan] = {}
    for row in sorted(found.rows, key=lambda row: p99(row.report)):
        if found.server.runs(row.report.routing):
            best.setdefault(row.planned.name, row)
    return best


def under_what(found: Comparison) -> str:
    """Under which policy each planner is shown, in words."""
    return f"under {found.server.title}'s rule" if found.server.own_rule else "under its best policy"


def bars(found: Comparison) -> Picture:
    """The p50 and p99 of each planner's latency under its best policy, or under the server's rule."""
    best = fastest(found)
    names = [f"{name}, {routing(row)}" for name, row in best.items()]
    figures = {q: np.array([np.percentile(row.report.latency_us, q) for row in best.values()]) for q in (50, 99)}
    said = "; ".join(f"{name} {us(value)}" for name, value in zip(names, figures[99].tolist(), strict=True))
    return Picture(
        name="planners-bars",
        title=f"Latency of each planner {under_what(found)}, us",
        reads=f"The fastest stands first. On {batches_of(found)}.",
        traces=[
            {
                "type": "scatter",
                "mode": "markers",
                "name": f"p{q}",
                "marker": {"size": 11, "symbol": symbol, "color": colour},
                "hovertemplate": f"%{{y}}: p{q} %{{x:,.1f}} us<extra></extra>",
            }
            for q, symbol, colour in ((50, "circle", COLOURS[0]), (99, "diamond", PLAN_COLOUR))
        ],
        layout={
            "xaxis": {"title": {"text": "latency of the layer, us"}},
            "yaxis": {"type": "category", "autorange": "reversed"},
        },
        views={ALL_LAYERS: View([{"x": rounded(of, 6), "y": names} for of in figures.values()], f"p99 in us: {said}.")},
        height=120 + 26 * len(names),
        wide=True,
    )


def distribution(found: Comparison) -> Picture:
    """Which share of batches ends within a latency: our plan, EPLB's and the best other planner's."""
    best = fastest(found)
    wanted = dict.fromkeys([OURS, "EPLB", next(name for name in best if name != OURS)])
    rows = [best[name] for name in wanted]
    colours = (PLAN_COLOUR, COLOURS[0], COLOURS[2])
    said = "; ".join(f"{row.planned.name} within {us(p99(row.report))}" for row in rows)
    return Picture(
        name="planners-distribution",
        title=TITLE,
        reads=f"Curves further left are faster. Each {under_what(found)}, on {batches_of(found)}.",
        traces=[
            Curve(f"{row.planned.name}, {routing(row)}", colour).trace()
            for row, colour in zip(rows, colours, strict=False)
        ],
        layout=LAYOUT,
        views={
            ALL_LAYERS: View(points([row.report.latency_us for row in rows]), f"99 % of batches end in us: {said}.")
        },
        wide=True,
    )
