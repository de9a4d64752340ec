"""Small pictures for the documents, as SVG that follows the reader's choice of light or dark.

A picture has a title and a description for readers who do not see it. Colours are named by what they mean, and stand in
one style sheet, so that both schemes keep text readable.
"""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

SPACE = "http://www.w3.org/2000/svg"
LIGHT = {
    "ground": "#ffffff",
    "text": "#1c2024",
    "faint": "#60646c",
    "line": "#8b8d98",
    "plain": "#eceef2",
    "blue": "#b7d4f5",
    "orange": "#f7cf9a",
    "green": "#b4dfc4",
}
DARK = {
    "ground": "#15171a",
    "text": "#edeef0",
    "faint": "#b0b4ba",
    "line": "#777b84",
    "plain": "#2a2d32",
    "blue": "#1f4d80",
    "orange": "#7a4a12",
    "green": "#245c3b",
}
"""Colours by what they mean; both sets have a contrast of 4.5:1 or more between text and every filling."""

SMALL, USUAL = 12, 14
"""Sizes of letters in pixels, which can be read where a page shows the picture at its full width."""


class Picture:
    """A drawing of boxes, lines and words; lengths in pixels, from the upper left corner."""

    def __init__(self, width: int, height: int, title: str, description: str) -> None:
        self.root = ET.Element("svg", xmlns=SPACE, viewBox=f"0 0 {width} {height}", width=f"{width}", role="img")
        ET.SubElement(self.root, "title").text = title
        ET.SubElement(self.root, "desc").text = description
        ET.SubElement(self.root, "style").text = _style()
        marker = ET.SubElement(
            ET.SubElement(self.root, "defs"), "marker",
            id="tip", viewBox="0 0 8 8", refX="8", refY="4", markerWidth="8", markerHeight="8", orient="auto",
        )  # fmt: skip
        ET.SubElement(marker, "path", {"class": "tip", "d": "M0 0 8 4 0 8z"})
        self.box(0, 0, width, height, "ground")

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """A rectangle that is filled with a colour of `LIGHT` and `DARK`."""
        ET.SubElement(
            self.root, "rect", {"class": colour, "x": _n(x), "y": _n(y), "width": _n(width), "height": _n(height)}
        )

    def words(
        self,
        x: float,
        y: float,
        text: str,
        size: int = USUAL,
        anchor: str = "start",
        colour: str = "text",
        turned: int = 0,
    ) -> None:
        """A line of words whose start, middle or end is at x, and whose base line at y; turned by degrees there."""
        given = {"class": f"words-{colour}", "x": _n(x), "y": _n(y), "font-size": str(size), "text-anchor": anchor}
        turn = {"transform": f"rotate({turned} {_n(x)} {_n(y)})"} if turned else {}
        ET.SubElement(self.root, "text", given | turn).text = text

    def line(self, points: Sequence[tuple[float, float]], arrow: bool = False, strong: bool = False) -> None:
        """Straight lines from point to point; an arrow has a tip at its end, a strong line is drawn thicker."""
        given = {"class": "strong" if strong else "thin", "points": " ".join(f"{_n(x)},{_n(y)}" for x, y in points)}
        ET.SubElement(self.root, "polyline", given | ({"marker-end": "url(#tip)"} if arrow else {}))

    def svg(self) -> str:
        """The whole file."""
        ET.indent(self.root)
        return ET.tostring(self.root, encoding="unicode") + "\n"


def write_pictures(pictures: dict[str, Picture], folder: Path) -> None:
    """Write every picture into the folder, under its name with `.svg`."""
    folder.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        (folder / f"{name}.svg").write_text(picture.svg())


def _style() -> str:
    return f"text{{font-family:sans-serif}}{_rules(LIGHT)}@media(prefers-color-scheme:dark){{{_rules(DARK)}}}"


def _rules(colours: dict[str, str]) -> str:
    """The style of boxes, words and lines in these colours."""
    fills = "".join(f".{name}{{fill:{colour}}}" for name, colour in colours.items())
    words = "".join(f".words-{name}{{fill:{colours[name]}}}" for name in ("text", "faint"))
    thin = f".thin{{fill:none;stroke:{colours['line']};stroke-width:1}}"
    strong = f".strong{{fill:none;stroke:{colours['text']};stroke-width:2}}"
    return f"{fills}{words}{thin}{strong}.tip{{fill:{colours['text']}}}"


def _n(length: float) -> str:
    """A length as short as it can be written to a tenth of a pixel."""
    return f"{length:.1f}".removesuffix(".0")
