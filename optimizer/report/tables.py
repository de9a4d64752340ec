"""Results as tables on the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from formulations.arrays import Floats
from optimizer.mesh import Mesh
from optimizer.model import Model
from optimizer.simulator import SimulationReport
from optimizer.solve import Row, Solution
from optimizer.statistics import FIVE, Statistics, five_figures

FIGURES = {
    "latency_us": "latency, us",
    "dispatch_us": "dispatch, us",
    "compute_us": "compute, us",
    "combine_us": "combine, us",
    "imbalance": "imbalance (peak / mean device load)",
    "tiles": "tiles on the fullest device",
    "hops": "hops per token",
}
HOTTEST = 12


def console() -> Console:
    """Standard output; wide enough for every table when it is not a terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=110)


def _table(title: str, first: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", min_width=len(title))
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def solution_table(solution: Solution, layer: int) -> Table:
    """One row per method, judged on the test batches."""
    report = solution.rows[0].report
    title = f"Layer {layer} on {len(report.hops)} test batches of {report.tokens} tokens, routing {report.routing}"
    columns = ["imbalance p50", "p99", "latency p50, us", "p99, us", "tiles (mean)", "planned in, s"]
    table = _table(title, "method", columns)
    for row in solution.rows:
        table.add_row(*_solution_cells(row), style="bold" if row is solution.rows[-1] else None)
    return table


def _solution_cells(row: Row) -> list[str]:
    imbalance = np.percentile(row.report.imbalance, [50, 99])
    latency = np.percentile(row.report.latency_us, [50, 99])
    return [
        row.method,
        *(f"{value:.3f}" for value in imbalance),
        *(f"{value:.1f}" for value in latency),
        f"{row.report.tiles.mean():.2f}",
        f"{row.seconds:.3f}" if row.seconds < 1 else f"{row.seconds:.1f}",
    ]


def bound_lines(solution: Solution) -> list[str]:
    """What the bounds say, in words."""
    bounds, outcome = solution.bounds, solution.outcome
    proof = f"CP-SAT, greedy counts: {outcome.status}"
    if outcome.objective is not None:
        proof += f", expected peak within {outcome.gap:.2%} of its bound for these counts"
    return [
        f"Mean imbalance of search {bounds['imbalance']:.3f}; no placement and routing can go below "
        f"{bounds['any_placement']:.3f} (gap {bounds['gap_to_any_placement']:.1%}), "
        f"none with these replica counts below {bounds['these_counts']:.3f} (gap {bounds['gap_to_these_counts']:.1%}).",
        f"{proof}. First complete plan after {solution.first_result:.1f} s; {solution.candidates} candidates compared.",
    ]


def simulation_table(report: SimulationReport, layer: int) -> Table:
    """The five statistics of every figure."""
    title = f"Layer {layer}: {len(report.hops)} batches of {report.tokens} tokens, routing {report.routing}"
    table = _table(title, "per batch", FIVE)
    for name, label in FIGURES.items():
        figures = five_figures(getattr(report, name))
        table.add_row(label, *(f"{figures[key]:.3f}" for key in FIVE))
    return table


def statistics_table(stats: Statistics, model: Model, layer: int) -> Table:
    """The hottest routed experts, and the shared ones."""
    batches = len(stats.load)
    title = f"Layer {layer}: hottest experts of {model.experts}, pairs a batch, {batches} batches"
    table = _table(title, "expert", ["mean", "std", "p95", "max", "share"])
    routed = np.argsort(-stats.mean[: model.routed_experts], kind="stable")[:HOTTEST]
    for expert in [*map(int, routed), *model.shared_ids]:
        name = f"{expert} (shared)" if expert in model.shared_ids else str(expert)
        cells = (stats.mean[expert], stats.std[expert], stats.p95[expert], stats.max[expert])
        table.add_row(name, *(f"{value:.2f}" for value in cells), f"{stats.share[expert]:.2%}")
    return table


def imbalance_line(imbalance: Floats, model: Model, mesh: Mesh) -> str:
    """The sequential baseline in words."""
    found = five_figures(imbalance)
    figures = ", ".join(f"{name} {found[name]:.2f}" for name in FIVE)
    placed = f"{model.routed_experts} routed experts in order on {mesh.rows}x{mesh.cols} devices"
    return f"Sequential placement ({placed}, no replicas): imbalance {figures}."


def statistics_json(stats: Statistics, imbalance: Floats, model: Model) -> Mapping[str, Any]:
    """All experts, and the sequential baseline."""
    names = ("mean", "std", "p95", "max", "share")
    columns = {name: getattr(stats, name).tolist() for name in names}
    return {
        "batches": len(stats.load),
        "sequential_imbalance": five_figures(imbalance),
        "experts": [
            {"expert": expert, "shared": expert in model.shared_ids} | {name: columns[name][expert] for name in names}
            for expert in range(model.experts)
        ],
    }


def solution_json(solution: Solution) -> dict[str, Any]:
    """All rows and bounds."""
    outcome = solution.outcome
    return {
        "rows": [{"method": row.method, "seconds": row.seconds, **row.report.summary()} for row in solution.rows],
        "bounds": solution.bounds,
        "formulation": {
            "status": str(outcome.status),
            "expected_peak": outcome.objective,
            "lower_bound_these_counts": outcome.lower_bound,
        },
        "candidates": solution.candidates,
        "first_result_seconds": solution.first_result,
    }
