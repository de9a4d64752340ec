"""Tables on the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Standard output; wide enough for every table when it is not a terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=120)


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
