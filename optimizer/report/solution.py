"""What `solve` prints of a layer planned on tokens."""

from typing import Any

import numpy as np
from rich.table import Table

from optimizer.planning.plan_layer import LayerSolution, MethodResult
from optimizer.report.bounds import gap_table
from optimizer.report.tables import Part, make_table
from optimizer.simulation.report import Rerouting


def parts(solution: LayerSolution, layer: int) -> list[Part]:
    """The table of methods, how far the plan is from its bounds, and how the search went."""
    shown: list[Part] = [solution_table(solution, layer)]
    shown += [gap_table(solution.gaps)] if solution.gaps else []
    rerouting = solution.chosen.report.rerouting
    shown += [] if rerouting is None else [rerouted(rerouting)]
    return [*shown, proof(solution)]


def solution_table(solution: LayerSolution, layer: int) -> Table:
    """One row per method and, for the search, routing policy, judged on the test batches."""
    report = solution.rows[0].report
    title = f"Layer {layer} on {len(report.hops)} test batches of {report.tokens} tokens"
    columns = ["imbalance p50", "p99", "latency p50, us", "p99, us", "tiles (mean)", "planned in, s"]
    table = make_table(title, "method", [])
    table.add_column("routing")
    for column in columns:
        table.add_column(column, justify="right")
    for row in solution.rows:
        table.add_row(*_solution_cells(row), style="bold" if row is solution.chosen else None)
    return table


def _solution_cells(row: MethodResult) -> list[str]:
    imbalance = np.percentile(row.report.imbalance, [50, 99])
    latency = np.percentile(row.report.latency_us, [50, 99])
    return [
        row.method,
        row.report.routing,
        *(f"{value:.3f}" for value in imbalance),
        *(f"{value:.1f}" for value in latency),
        f"{row.report.tiles.mean():.2f}",
        f"{row.seconds:.3f}" if row.seconds < 1 else f"{row.seconds:.1f}",
    ]


def proof(solution: LayerSolution) -> str:
    """What the formulation proved, in words, and how the search went."""
    return (
        f"{_formulated(solution)}. First complete plan after {solution.first_result:.1f} s; {solution.candidates} "
        "candidates compared."
    )


def _formulated(solution: LayerSolution) -> str:
    outcome = solution.outcome
    if outcome is None:
        return "Interrupted before the formulation"
    proved = f"Formulation of the expected load, {holds_for(solution)}: {outcome.status}"
    return proved if outcome.objective is None else f"{proved}, peak within {outcome.gap:.2%} of its bound"


def rerouted(what: Rerouting) -> str:
    """What the capacity of the plan means for the tokens."""
    said = what.summary()
    return (
        f"Capacity factor {what.capacity_factor:g}: a replica takes {what.capacity} pairs; {said['rerouted']:.2%} of "
        f"all go to another expert ({said['next_expert']}), {said['gate_weight_kept']:.2%} of the gate weight is kept "
        f"({said['gate_weights']}). No bound is known where pairs are rerouted."
    )


def holds_for(solution: LayerSolution) -> str:
    """Between which replica counts the formulation could choose, and for which its bound holds."""
    return "any counts" if solution.free_counts else "greedy's counts"


def as_json(solution: LayerSolution) -> dict[str, Any]:
    """All rows and bounds."""
    outcome = solution.outcome
    return {
        "rows": [{"method": row.method, "seconds": row.seconds, **row.report.summary()} for row in solution.rows],
        "bounds": {gap.unit: gap.summary() for gap in solution.gaps},
        "formulation": None
        if outcome is None
        else {
            "status": str(outcome.status),
            "expected_peak": outcome.objective,
            "lower_bound": outcome.lower_bound,
            "for": holds_for(solution),
        },
        "candidates": solution.candidates,
        "first_result_seconds": solution.first_result,
    }
