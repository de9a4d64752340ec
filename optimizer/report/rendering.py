"""The parts of a report as text for a terminal."""

import textwrap
from collections.abc import Sequence
from copy import copy

from rich import box
from rich.console import Console
from rich.table import Column, Table

from optimizer.report.tables import Part, plain

WIDTH = 100
"""How many columns text has that does not go to a terminal: every table has room in it, and a page of paper, too."""


LINES = 3
"""Columns that a line between cells takes, with the blanks on both its sides."""


def print_parts(parts: Sequence[Part], console: Console) -> None:
    """Write the parts of a report to a console, one after another.

    Sentences, and the titles of tables, are broken between words after at most `WIDTH` columns, unless the console
    wraps softly: then each stays on its line. Tables fold headings and words, never figures; what is wider even then
    than the console is written in full.
    """
    for part in parts:
        if isinstance(part, str):
            _write(part, console)
            continue
        if part.title:
            _write(plain(part.title), console, style="bold")
        console.print(fitted(part, console), crop=False, soft_wrap=False)


def _write(sentence: str, console: Console, style: str | None = None) -> None:
    """Write a sentence in lines; paths and other words that are longer than a line stay whole."""
    if not console.soft_wrap:
        width = min(console.width, WIDTH)
        sentence = "\n".join(textwrap.wrap(sentence, width, break_long_words=False, break_on_hyphens=False))
    console.print(sentence, style=style, markup=False, soft_wrap=True)


def fitted(table: Table, console: Console) -> Table:
    """The table without its title, for this console: with headings in two lines where it is too wide otherwise, and
    with blanks instead of lines between its columns where words leave these no room.

    The widths of columns are set here, as rich takes figures apart where words alone would not make enough room. Tables
    that have no lines, or say themselves how columns share the width, stay as they are.
    """
    whole = copy(table)
    whole.title = None
    if table.box is None or any(column.ratio for column in table.columns):
        return whole
    columns, least = table.columns, [_longest_word(column) for column in table.columns]
    room = console.width - LINES * len(columns) - 1
    if sum(map(_widest, columns)) > room:
        columns = [_folded(column) for column in columns]
    if sum(least) > room:
        room = console.width - len(columns) + 1
        whole.box, whole.show_edge, whole.pad_edge, whole.padding = box.SIMPLE_HEAD, False, False, (0, 0)
    widths = _shrunk([_widest(column) for column in columns], least, room)
    whole.columns = [_of_width(column, width) for column, width in zip(columns, widths, strict=True)]
    return whole


def _texts(column: Column) -> list[str]:
    """The lines of a column's heading, and its cells."""
    return [*plain(column.header).split("\n"), *map(plain, column.cells)]


def _widest(column: Column) -> int:
    return max(map(len, _texts(column)))


def _longest_word(column: Column) -> int:
    return max((len(word) for text in _texts(column) for word in text.split()), default=0)


def _shrunk(widths: list[int], least: Sequence[int], room: int) -> list[int]:
    """The widths with the widest made narrower, though none below its least, until all have room if they can."""
    widths = list(widths)
    while sum(widths) > room:
        more = [place for place, width in enumerate(widths) if width > least[place]]
        if not more:
            break
        widths[max(more, key=lambda place: widths[place])] -= 1
    return widths


def _of_width(column: Column, width: int) -> Column:
    """The column with this width."""
    kept = copy(column)
    kept.min_width = kept.max_width = width  # rich takes less than a mere `width` where the console is narrow
    kept.no_wrap = False
    return kept


def _folded(column: Column) -> Column:
    """The column with its heading in two lines, as even as can be, where that makes it narrower."""
    kept, words = copy(column), plain(column.header).split()
    cells = max((len(plain(cell)) for cell in column.cells), default=0)
    if len(" ".join(words)) > cells and len(words) > 1:
        lines = [(" ".join(words[:place]), " ".join(words[place:])) for place in range(1, len(words))]
        kept.header = "\n".join(min(lines, key=lambda two: max(map(len, two))))
    return kept
