"""The parts of a report as text for a terminal and as HTML for a notebook."""

import io
from collections.abc import Sequence

from rich.console import Console

from optimizer.report.tables import Part

WIDTH = 120
"""How many columns text has that does not go to a terminal: wide enough for every table."""


def print_parts(parts: Sequence[Part], console: Console) -> None:
    """Write the parts of a report to a console, one after another.

    The title of a table is written on a line of its own, because rich would fold it to the width of the table's
    columns.
    """
    for part in parts:
        if isinstance(part, str):
            console.print(part, markup=False, soft_wrap=True)
            continue
        console.print(part.title, style="bold", soft_wrap=True)
        title, part.title = part.title, None
        console.print(part)
        part.title = title


class Printable:
    """The base of results that show themselves as tables: with `print` in a terminal, by their name alone in a
    notebook."""

    def parts(self) -> Sequence[Part]:
        """The tables and sentences of the result in the order in which they are read. Raises TypeError in a class that
        does not define them."""
        raise TypeError(f"{type(self).__name__} has no tables")

    def __str__(self) -> str:
        """The tables as plain text with box-drawing characters, 120 columns wide."""
        out = io.StringIO()
        print_parts(self.parts(), Console(file=out, width=WIDTH, highlight=False))
        return out.getvalue().rstrip()

    def _repr_html_(self) -> str:
        """The tables as HTML with its styles inside; a notebook calls this method to show a result."""
        console = Console(file=io.StringIO(), width=WIDTH, highlight=False, record=True)
        print_parts(self.parts(), console)
        return console.export_html(inline_styles=True, code_format='<pre style="line-height: 1.2">{code}</pre>')
