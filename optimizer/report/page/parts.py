"""Of what pages are made: sections of sentences, tables and pictures, which may differ from layer to layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from formulations.kit.arrays import Floats, Ints

ALL_LAYERS = ""
"""The key of what is the same for all layers."""


@dataclass(frozen=True)
class View:
    """A picture of one layer.

    traces: for each of the picture's traces the values that it has here, by plotly's names. says: the picture in words,
    for those who do not see it. layout: what differs from the picture's own layout. cells: of a map of slots, what each
    cell shows when it is pointed at, see `mesh_map`.
    """

    traces: Sequence[Mapping[str, Any]]
    says: str
    layout: Mapping[str, Any] = field(default_factory=dict)
    cells: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Picture:
    """A picture in plotly's terms.

    name: of its file, and of its place in the page. title: what it shows, with its unit. reads: how to read it. traces:
    what traces have in common in all views; a trace with a `meta` of `{"metric": ...}` is shown while that metric is
    chosen. layout: as plotly has it, without colours and fonts, which the page chooses. height: in pixels. wide:
    whether it takes the width of the page, or shares it with the next one.
    """

    name: str
    title: str
    reads: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    views: Mapping[str, View]
    height: int = 320
    wide: bool = False


@dataclass(frozen=True)
class TableOfText:
    """A table whose cells are text, the first of each row naming it.

    views: the rows by layer. strong: the places of the rows that are bold. prose: whether cells are sentences, which
    break into lines, and else figures. words: the places of columns of such sentences among columns of figures.
    """

    name: str
    title: str
    columns: Sequence[str]
    views: Mapping[str, Sequence[Sequence[str]]]
    strong: frozenset[int] = frozenset()
    prose: bool = False
    words: frozenset[int] = frozenset()


Item = str | Picture | TableOfText
"""A sentence, a picture or a table."""


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading. metrics: names and words of the metrics that its pictures can show."""

    name: str
    title: str
    items: Sequence[Item]
    metrics: Mapping[str, str] = field(default_factory=dict)


def rounded(values: Floats | Ints, digits: int = 4) -> Any:
    """Values as nested lists of numbers with so many significant digits, which keeps pages small."""
    if values.ndim > 1:
        return [rounded(row, digits) for row in values]
    return [float(f"{value:.{digits}g}") for value in values.tolist()]
