"""The parts of which every report is made: tables and sentences."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

Part = Table | str
"""One part of a report: a table with a title, or a sentence."""


def make_table(title: str, first: str, columns: Sequence[str]) -> Table:
    """An empty table with this title, whose first column is left-aligned and whose other columns are right-aligned."""
    table = Table(title=title)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def plain(text: object) -> str:
    """The text of a title or a cell as a reader sees it, without rich's markup."""
    return Text.from_markup(text).plain if isinstance(text, str) else str(text)
