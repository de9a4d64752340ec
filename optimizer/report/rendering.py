"""Parts of a report as text for a terminal and as HTML for a notebook."""

import io
from collections.abc import Sequence

from rich.console import Console

from optimizer.report.tables import Part

WIDTH = 120
"""Columns of output that is no terminal: wide enough for every table."""


def print_parts(parts: Sequence[Part], console: Console) -> None:
    """Write the parts to a console, one after another.

    A table's title stands on a line of its own, as rich would fold it to the width of the columns.
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
    """What shows itself as tables: with `print` in a terminal, by its name alone in a notebook."""

    def parts(self) -> Sequence[Part]:
        """The tables and sentences, in the order in which they are read."""
        raise TypeError(f"{type(self).__name__} has no tables")

    def __str__(self) -> str:
        """Plain text with box-drawing characters, 120 columns wide."""
        out = io.StringIO()
        print_parts(self.parts(), Console(file=out, width=WIDTH, highlight=False))
        return out.getvalue().rstrip()

    def _repr_html_(self) -> str:
        """The same in HTML with its styles, as notebooks ask for it."""
        console = Console(file=io.StringIO(), width=WIDTH, highlight=False, record=True)
        print_parts(self.parts(), console)
        return console.export_html(inline_styles=True, code_format='<pre style="line-height: 1.2">{code}</pre>')
