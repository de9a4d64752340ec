"""The page itself: one HTML file with its styles, its script, plotly and all data, which needs no network."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from optimizer.report.page.parts import ALL_LAYERS, Item, Picture, Section, TableOfText

ASSETS = files(__name__.rpartition(".")[0]) / "assets"


def page(title: str, verdict: Sequence[str], sections: Sequence[Section], layers: Sequence[int] = ()) -> str:
    """The text of a page: the verdict, then the sections. layers: those that a reader may choose among."""
    first = str(layers[0]) if layers else ALL_LAYERS
    return Template(asset("page.html")).substitute(
        title=escape(title),
        style=asset("page.css"),
        verdict="\n".join(f"<p>{escape(said)}</p>" for said in verdict),
        contents="\n".join(f'<a href="#{each.name}">{escape(each.title)}</a>' for each in sections),
        slider=_slider(layers),
        sections="\n".join(_section(each, first) for each in sections),
        data=as_script(data_of(sections, layers)),
        plotly=get_plotlyjs(),
        script=asset("page.js") + asset("reading.js"),
    )


def data_of(sections: Sequence[Section], layers: Sequence[int]) -> dict[str, Any]:
    """What scripts draw: all pictures and tables of the sections, for all layers."""
    return {"layers": [str(layer) for layer in layers], "items": [_item(item) for item in _drawn(sections)]}


@cache
def asset(name: str) -> str:
    """The text of a file that pages are made of."""
    return (ASSETS / name).read_text(encoding="utf-8")


def as_script(data: Mapping[str, Any]) -> str:
    """Data as JSON that may stand inside a script element, where no tag may begin."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _drawn(sections: Sequence[Section]) -> Iterable[Picture | TableOfText]:
    """All pictures and tables, in the order of the page."""
    return (item for section in sections for item in section.items if not isinstance(item, str))


def _item(item: Picture | TableOfText) -> dict[str, Any]:
    """What the script needs of a picture or a table."""
    return {"kind": "picture" if isinstance(item, Picture) else "table", **asdict(item, dict_factory=_plain)}


def _plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dataclass as JSON can have it: without what is empty, and sets as lists."""
    return {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in pairs
        if value is not None and name != "reads"
    }


def _slider(layers: Sequence[int]) -> str:
    """The slider by which a reader chooses a layer; nothing where there is no choice."""
    if len(layers) < 2:
        return ""
    return (
        f'<nav class="slider"><label for="layer">layer <output id="layer-name">{layers[0]}</output></label>'
        f'<input id="layer" type="range" min="0" max="{len(layers) - 1}" value="0" step="1"></nav>'
    )


def _section(section: Section, layer: str) -> str:
    """A section with its heading."""
    items = "\n".join(_html(item, layer) for item in section.items)
    return (
        f'<section id="{section.name}"><h2>{escape(section.title)}</h2>{_metrics(section)}'
        f'<div class="items">{items}</div></section>'
    )


def _metrics(section: Section) -> str:
    """The buttons by which a reader chooses what the section's pictures show."""
    if not section.metrics:
        return ""
    buttons = "".join(
        f'<label><input type="radio" name="{section.name}-metric" value="{name}"{" checked" if place == 0 else ""}> '
        f"{escape(words)}</label>"
        for place, (name, words) in enumerate(section.metrics.items())
    )
    return f'<fieldset class="metrics" data-section="{section.name}"><legend>colours show</legend>{buttons}</fieldset>'


def _html(item: Item, layer: str) -> str:
    """A sentence, a place for a picture, or a table as it is for the first layer."""
    if isinstance(item, str):
        return f"<p>{escape(item)}</p>"
    if isinstance(item, TableOfText):
        return _table(item, item.views.get(layer, item.views.get(ALL_LAYERS, ())))
    view = item.views.get(layer) or item.views[ALL_LAYERS]
    return (
        f'<figure id="{item.name}"{" class=wide" if item.wide else ""}><h3>{escape(item.title)}</h3>'
        f'<div class="plot" role="img" style="height:{item.height}px" aria-label="{escape(view.says)}"></div>'
        f"<figcaption>{escape(item.reads)}</figcaption></figure>"
    )


def _table(table: TableOfText, rows: Sequence[Sequence[str]]) -> str:
    """A table with its title; where it is too wide for the screen, it moves sideways by itself."""
    head = "".join(
        f'<th scope="col"{_kind(place, table)}>{escape(name)}</th>' for place, name in enumerate(table.columns)
    )
    body = "".join(_row(row, place in table.strong, table) for place, row in enumerate(rows))
    kind = "table prose" if table.prose else "table"
    return (
        f'<div class="{kind}" id="{table.name}"><h3 id="{table.name}-title">{escape(table.title)}</h3>'
        f'<div class="scrolling" tabindex="0"><table aria-labelledby="{table.name}-title">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )


def _kind(column: int, table: TableOfText) -> str:
    """The class of a cell in a column, as it stands in its tag."""
    return " class=words" if column in table.words else ""


def _row(cells: Sequence[str], strong: bool, table: TableOfText) -> str:
    """A row of a table, whose first cell names it."""
    first, *others = (escape(cell) for cell in cells)
    return (
        f'<tr{" class=strong" if strong else ""}><th scope="row">{first}</th>'
        f"{''.join(f'<td{_kind(place, table)}>{cell}</td>' for place, cell in enumerate(others, 1))}</tr>"
    )
