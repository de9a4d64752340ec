"""The table of `compare`: our plan beside the plans of published planners."""

from typing import Any

import numpy as np
from rich.table import Table

from optimizer.experiments.compare_rivals import OPTIMAL, OURS, ComparedPlan, Comparison, p99
from optimizer.planning.options import AUTO
from optimizer.report.tables import Part
from optimizer.report.verdict import beside
from optimizer.statistics.paired import gain_of_p99


def parts(found: Comparison) -> list[Part]:
    """The table of planners, and a sentence that says from which bounds the gaps in the table are measured. For a
    server with a rule of its own the verdict stands before them, and what the last row is after them."""
    reference = (
        f"Gaps are of means over batches, from what no placement and routing goes below: imbalance "
        f"{found.imbalance_bound:.3f}, {found.unit} on the fullest device {found.tiles_bound:.2f}."
    )
    if not found.server.own_rule:
        return [compare_table(found), reference]
    last = found.rows[-1].report
    beyond = f"The last row is our placement under the best of {', '.join(AUTO)}: {routing(found.rows[-1])}"
    beyond += "." if found.server.runs(last.routing) else f", which {found.server.title} does not run."
    return [verdict(found), compare_table(found), reference, beyond]


def verdict(found: Comparison) -> str:
    """How our plan's p99 latency stands to EPLB's and to that of the best other planner, under the server's rule that
    our plan was made for."""
    rule = found.rows[-1].planned.routings[0]
    reports = {name: row.report for name, row in found.under(rule).items()}
    ours, eplb = reports.pop(OURS), reports["EPLB"]
    name, best = min(reports.items(), key=lambda item: p99(item[1]))
    said = [beside(gain_of_p99(eplb.latency_us, ours.latency_us), "EPLB")]
    if p99(best) != p99(eplb):
        said.append(beside(gain_of_p99(best.latency_us, ours.latency_us), f"the best other planner ({name})"))
    return f"p99 {p99(ours):.1f} us: {'; '.join(said)}; under {found.server.title}'s own rule ({rule})."


def compare_table(found: Comparison) -> Table:
    """A table with a row for each placement and routing policy; a planner's name and the seconds that it planned stand
    in the first of its rows, and our own rows are bold."""
    report = found.rows[0].report
    title = f"Layer {found.layer} on {report.batches} test batches of {report.tokens} tokens"
    table = Table(title=title)
    for column in ("planner", "routing"):
        table.add_column(column)
    figures = ("imbalance p50", "p99", "gap", f"{found.unit} (mean)", "gap", "latency p50, us", "p99, us")
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
    """The name of the row's routing policy; for the optimal policy also the unit whose peak load it makes least."""
    report = row.report
    return f"{report.routing} {report.unit}" if report.routing == OPTIMAL else report.routing


def seconds(value: float) -> str:
    """The text of a time in seconds: three decimals below one second, one decimal from one second on."""
    return f"{value:.3f}" if value < 1 else f"{value:.1f}"


def _cells(row: ComparedPlan) -> list[str]:
    """The figures of a row: imbalance and tiles with their gaps to the bounds, and latency in microseconds."""
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
    """The comparison in its stable JSON form: the bounds, and for each placement and routing policy the planner, the
    gaps and the simulator's summary."""
    return {
        "layer": found.layer,
        "server": found.server.name,
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
