"""Results that show themselves: as text where they are printed, as tables and pictures in a notebook."""

import io
import json
from collections.abc import Sequence
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from optimizer.report.rendering import WIDTH, print_parts
from optimizer.report.tables import Part, plain

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


class Printable:
    """The base of results that show themselves as tables: with `print` in a terminal, by their name alone in a
    notebook, where pictures follow."""

    def parts(self) -> Sequence[Part]:
        """The tables and sentences of the result in the order in which they are read. Raises TypeError in a class that
        does not define them."""
        raise TypeError(f"{type(self).__name__} has no tables")

    def figures(self) -> "list[Figure]":
        """Pictures of the result as plotly's figures, to show, to change or to save; none where tables say it all."""
        return []

    def __str__(self) -> str:
        """The tables as plain text with box-drawing characters, 100 columns wide."""
        out = io.StringIO()
        print_parts(self.parts(), Console(file=out, width=WIDTH, highlight=False))
        return out.getvalue().rstrip()

    def _repr_html_(self) -> str:
        """The tables and sentences as HTML, for notebooks that are not of IPython, and for those who ask for it."""
        return "\n".join(map(_html, self.parts()))

    def _ipython_display_(self) -> None:
        """Show the tables and then the pictures; IPython calls this method to show a result."""
        ipython = import_module("IPython.display")  # which is there, as it calls
        ipython.display({"text/html": self._repr_html_(), "text/plain": str(self)}, raw=True)
        for figure in self.figures():
            ipython.display(_bundle(figure), raw=True)


def _bundle(figure: "Figure") -> dict[str, Any]:
    """A figure by the media types that front ends know: as plotly's JSON, which most of them draw themselves, or as
    HTML that loads plotly from the network. (Plotly's own `show` wants nbformat, and puts 4 MB of script into each
    notebook.)"""
    return {
        "application/vnd.plotly.v1+json": json.loads(figure.to_json()),
        "text/html": figure.to_html(full_html=False, include_plotlyjs="cdn"),
        "text/plain": figure.layout.title.text,
    }


def _html(part: Part) -> str:
    """A sentence or a table as HTML."""
    if isinstance(part, str):
        return f"<p>{escape(part)}</p>"
    return _table(part)


def _table(table: Table) -> str:
    """A table as HTML: figures on the right, and rows bold, as in print."""
    sides = [f' style="text-align: {column.justify}"' for column in table.columns]
    head = [plain(column.header) for column in table.columns]
    rows = zip(*([plain(cell) for cell in column.cells] for column in table.columns), strict=True)
    lines = [_row("th", head, sides, False)]
    lines += [_row("td", cells, sides, row.style == "bold") for row, cells in zip(table.rows, rows, strict=True)]
    title = plain(table.title or "")
    caption = f'<caption style="text-align: left"><b>{escape(title)}</b></caption>'
    return "\n".join(["<table>", caption, *lines, "</table>"])


def _row(tag: str, cells: Sequence[str], sides: Sequence[str], bold: bool) -> str:
    """A row of cells, each with its side."""
    texts = (f"<b>{escape(cell)}</b>" if bold else escape(cell) for cell in cells)
    return f"<tr>{''.join(f'<{tag}{side}>{text}</{tag}>' for text, side in zip(texts, sides, strict=True))}</tr>"
