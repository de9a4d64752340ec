"""The tables of `solve` for a layer of which only counts are known, so that it is planned on its expected load."""

from typing import Any

from optimizer.planning.plan_expected_load import ExpectedSolution
from optimizer.report.bounds import gap_table
from optimizer.report.tables import Part, make_table


def parts(solution: ExpectedSolution, layer: int) -> list[Part]:
    """The table of methods with their mean and worst imbalance over the test steps, and the table of gaps to the
    bounds."""
    steps = len(solution.chosen.imbalance)
    held = "steps that nothing was planned on" if solution.unseen else "the steps that were planned on"
    title = f"Layer {layer}: imbalance of the expected load in {steps} recorded steps ({held}), even split"
    table = make_table(title, "method", ["mean", "worst step", "planned in, s"])
    for row in solution.rows:
        cells = (f"{row.imbalance.mean():.4f}", f"{row.imbalance.max():.4f}", f"{row.seconds:.3f}")
        table.add_row(row.method, *cells, style="bold" if row is solution.chosen else None)
    return [table, gap_table(solution.gaps)]


def as_json(solution: ExpectedSolution) -> dict[str, Any]:
    """The figures of the tables as a dictionary in a stable JSON form: one entry per method, and the bounds."""
    return {
        "rows": [
            {
                "method": row.method,
                "seconds": row.seconds,
                "expected_imbalance": {"mean": float(row.imbalance.mean()), "max": float(row.imbalance.max())},
            }
            for row in solution.rows
        ],
        "steps": len(solution.chosen.imbalance),
        "unseen_steps": solution.unseen,
        "bounds": {gap.unit: gap.summary() for gap in solution.gaps},
    }
