"""What `solve` prints of a layer planned on counts alone."""

from typing import Any

from optimizer.commands.report.bounds import show_gaps
from optimizer.commands.report.tables import make_table, show_table
from optimizer.planning.plan_expected_load import ExpectedSolution


def show(solution: ExpectedSolution, layer: int) -> None:
    """Print the table and what the bounds say."""
    steps = len(solution.chosen.imbalance)
    held = "steps that nothing was planned on" if solution.unseen else "the steps that were planned on"
    title = f"Layer {layer}: imbalance of the expected load in {steps} recorded steps ({held}), even split"
    table = make_table(title, "method", ["mean", "worst step", "planned in, s"])
    for row in solution.rows:
        cells = (f"{row.imbalance.mean():.4f}", f"{row.imbalance.max():.4f}", f"{row.seconds:.3f}")
        table.add_row(row.method, *cells, style="bold" if row is solution.chosen else None)
    show_table(table)
    show_gaps(solution.gaps)


def as_json(solution: ExpectedSolution) -> dict[str, Any]:
    """All rows and bounds."""
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
