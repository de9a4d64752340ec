"""The tables that commands print as tables of a page: the same columns, words and figures."""

from collections.abc import Sequence

from rich.table import Table

from optimizer.report.page.parts import ALL_LAYERS, Item, TableOfText
from optimizer.report.tables import Part, plain


def items_of(parts: Sequence[Part], name: str) -> list[Item]:
    """Sentences as they are, and tables with their titles; name: what the tables' places in the page begin with."""
    found: list[Item] = []
    for place, part in enumerate(parts):
        found.append(part if isinstance(part, str) else table_of(part, f"{name}-{place}"))
    return found


def table_of(table: Table, name: str) -> TableOfText:
    """A printed table as one of a page: bold rows stay bold, and columns that begin at the left hold words."""
    columns = [[plain(cell) for cell in column.cells] for column in table.columns]
    rows = [list(cells) for cells in zip(*columns, strict=True)]
    strong = frozenset(place for place, row in enumerate(table.rows) if row.style == "bold")
    head = [plain(column.header) for column in table.columns]
    words = frozenset(place for place, column in enumerate(table.columns) if place and column.justify == "left")
    return TableOfText(name, plain(table.title or ""), head, {ALL_LAYERS: rows}, strong, words=words)
