"""What `compare` prints."""

from typing import Any

import numpy as np
from rich.table import Table

from optimizer.experiments.compare_rivals import OPTIMAL, OURS, ComparedPlan, Comparison
from optimizer.report.tables import Part


def parts(found: Comparison) -> list[Part]:
    """The table of planners, and a sentence that says what its gaps are measured from."""
    reference = (
        f"Gaps are of means over batches, from what no placement and routing goes below: imbalance "
        f"{found.imbalance_bound:.3f}, {found.unit} on the fullest device {found.tiles_bound:.2f}."
    )
    return [compare_table(found), reference]


def compare_table(found: Comparison) -> Table:
    """A row for each placement and routing, the planner's name and time in the first of its rows."""
    report = found.rows[0].report
    title = f"Layer {found.layer} on {report.batches} test batches of {report.tokens} tokens"
    table = Table(title=title)
    for column in ("planner", "routing"):
        table.add_column(column, no_wrap=True)
    figures = ("imbalance p50", "p99", "gap", found.unit, "gap", "latency p50, us", "p99, us")
    for column in (*figures, "planned in, s"):
        table.add_column(column, justify="right")
    before = None
    for row in found.rows:
        first = row.planned is not before
        name, took = (row.planned.name, seconds(row.planned.seconds)) if first else ("", "")
        table.add_row(name, routing(row), *_cells(row), took, style="bold" if row.planned.name == OURS else None)
        before = row.planned
    return table


def routing(row: ComparedPlan) -> str:
    """The policy, and for the optimal one the unit whose peak is least."""
    report = row.report
    return f"{report.routing} {report.unit}" if report.routing == OPTIMAL else report.routing


def seconds(value: float) -> str:
    """Milliseconds for what is fast."""
    return f"{value:.3f}" if value < 1 else f"{value:.1f}"


def _cells(row: ComparedPlan) -> list[str]:
    report = row.report
    imbalance, latency = (np.percentile(of, [50, 99]) for of in (report.imbalance, report.latency_us))
    return [
        *(f"{value:.3f}" for value in imbalance),
        f"{row.imbalance_gap:.1%}",
        f"{report.tiles.mean():.2f}",
        f"{row.tiles_gap:.1%}",
        *(f"{value:.1f}" for value in latency),
    ]


def as_json(found: Comparison) -> dict[str, Any]:
    """All rows with the simulator's summaries, and the bounds."""
    return {
        "layer": found.layer,
        "bounds": {"imbalance": found.imbalance_bound, "tiles": found.tiles_bound},
        "rows": [
            {
                "planner": row.planned.name,
                "planned_seconds": row.planned.seconds,
                "imbalance_gap": row.imbalance_gap,
                "tiles_gap": row.tiles_gap,
                **row.report.summary(),
            }
            for row in found.rows
        ],
    }
