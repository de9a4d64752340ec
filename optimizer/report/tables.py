"""Tables on the terminal, and the simulator's."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from optimizer.simulator import SimulationReport
from optimizer.statistics import FIVE, five_figures

FIGURES = {
    "latency_us": "latency, us",
    "dispatch_us": "dispatch, us",
    "compute_us": "compute, us",
    "combine_us": "combine, us",
    "imbalance": "imbalance (peak / mean device load)",
    "tiles": "tiles on the fullest device",
    "hops": "hops per token",
}


def console() -> Console:
    """Standard output; wide enough for every table when it is not a terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=110)


def show_table(table: Table) -> None:
    """Print a table, its title on a line of its own: rich would fold it to the width of the columns."""
    out = console()
    out.print(table.title, style="bold", soft_wrap=True)
    table.title = None
    out.print(table)


def make_table(title: str, first: str, columns: Sequence[str]) -> Table:
    """An empty table: the first column is left-aligned, the others right."""
    table = Table(title=title)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def simulation_table(report: SimulationReport, layer: int) -> Table:
    """The five statistics of every figure."""
    title = f"Layer {layer}: {len(report.hops)} batches of {report.tokens} tokens, routing {report.routing}"
    table = make_table(title, "per batch", FIVE)
    for name, label in FIGURES.items():
        figures = five_figures(getattr(report, name))
        table.add_row(label, *(f"{figures[key]:.3f}" for key in FIVE))
    return table
