"""The page of `compare`: our plan beside the plans of published planners."""

from collections.abc import Sequence

import numpy as np

from optimizer.experiments.compare_rivals import OURS, ComparedPlan, Comparison, p99
from optimizer.report.compare import parts, routing, verdict
from optimizer.report.page.distribution import LAYOUT, TITLE, Curve, points
from optimizer.report.page.from_tables import items_of
from optimizer.report.page.parts import ALL_LAYERS, Picture, Section, View, rounded
from optimizer.report.page.skeleton import page
from optimizer.report.page.theme import COLOURS, PLAN_COLOUR
from optimizer.report.page.words import apart, us


def compare_page(found: Comparison, notes: Sequence[str]) -> str:
    """A page with the verdict, latencies of all planners as bars and as a distribution, and the table of `compare`."""
    said = [verdict(found) if found.server.own_rule else best_of_each(found), f"On {_batches(found)}."]
    return page(f"moeplan: planners on layer {found.layer}", said, compare_sections(found, notes))


def compare_sections(found: Comparison, notes: Sequence[str]) -> list[Section]:
    """The sections of the page."""
    pictures = [bars(found), distribution(found)]
    return [
        Section("planners", "Latency of each planner", [*pictures, *items_of(parts(found), "compared")]),
        Section("notes", "What to know of the traces", list(notes) or ["Nothing."]),
    ]


def _batches(found: Comparison) -> str:
    report = found.rows[0].report
    return f"{report.batches:,} test batches of {report.tokens} tokens"


def fastest(found: Comparison) -> dict[str, ComparedPlan]:
    """Each planner's placement under that of its policies under which its p99 is least, the fastest planner first."""
    best: dict[str, ComparedPlan] = {}
    for row in sorted(found.rows, key=lambda row: p99(row.report)):
        best.setdefault(row.planned.name, row)
    return best


def best_of_each(found: Comparison) -> str:
    """How our p99 latency stands to EPLB's and to that of the best other planner, each under its best policy."""
    best = fastest(found)
    ours, eplb = best.pop(OURS), best["EPLB"]
    name, other = next(iter(best.items()))
    said = f"{apart(p99(ours.report), p99(eplb.report))} that of EPLB"
    if other is not eplb:
        said += f" and {apart(p99(ours.report), p99(other.report))} that of the best other planner ({name})"
    return (
        f"Our plan's p99 latency is {us(p99(ours.report))} us, {said}; each under the best of its policies, "
        f"ours under {routing(ours)}. Every latency holds the price of its routing."
    )


def bars(found: Comparison) -> Picture:
    """The p50 and p99 of each planner's latency under its best policy."""
    best = fastest(found)
    names = [f"{name}, {routing(row)}" for name, row in best.items()]
    figures = {q: np.array([np.percentile(row.report.latency_us, q) for row in best.values()]) for q in (50, 99)}
    said = "; ".join(f"{name} {us(value)}" for name, value in zip(names, figures[99].tolist(), strict=True))
    return Picture(
        name="planners-bars",
        title="Latency of each planner under its best policy, us",
        reads=f"The fastest stands first. On {_batches(found)}.",
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
        reads=f"Curves further left are faster. Each under its best policy, on {_batches(found)}.",
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
