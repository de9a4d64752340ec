"""The documents' pictures: drawn from the code as it is, readable, and with words for who does not see them."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from document_text import PAGES, ROOT
from drawings import FOLDER, PICTURES
from house import draw, house
from svg_picture import DARK, LIGHT, SPACE

FILES = sorted(FOLDER.glob("*.svg"))
ROOM = re.compile(r"^\s*(?:from|import) (?:optimizer\.(\w+)\b|(formulations)\b)", re.MULTILINE)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_show_what_the_code_gives_today(name: str) -> None:
    """Where they do not, `python benchmarks/drawings.py` draws them anew."""
    assert (FOLDER / f"{name}.svg").read_text() == PICTURES[name]().svg()


def test_the_house_is_drawn_as_it_stands() -> None:
    """Where it is not, `python benchmarks/house.py` draws it anew."""
    assert (FOLDER / "house.svg").read_text() == draw(house()).svg()


def test_what_the_house_says_in_words_is_what_the_files_import() -> None:
    """Imports are looked up here as text, and not as the script does it."""
    says = ET.parse(FOLDER / "house.svg").findtext(f"{{{SPACE}}}desc") or ""
    lines = [line.rstrip(".").split(" imports ") for line in says.splitlines()]
    drawn = {room: set(others.split(", ")) - {"nothing"} for room, others in lines}
    for room in drawn.keys() - {"cli"}:
        top = ROOT / room if room == "formulations" else ROOT / "optimizer" / room
        text = "\n".join(path.read_text() for path in top.rglob("*.py"))
        found = {first or second for first, second in ROOM.findall(text)}
        assert found & drawn.keys() - {room} == drawn[room], room
    rooms = {path.parent.name for path in ROOT.glob("optimizer/*/__init__.py")}
    assert drawn.keys() == rooms | {"formulations", "cli"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_picture_says_what_it_shows_and_keeps_its_words_inside(file: Path) -> None:
    """Letters are taken to be 0.52 of their size wide, which is more than they are on average, and words that are
    turned by 40 degrees to reach 0.77 of their length to the side."""
    root = ET.parse(file).getroot()
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert root.findtext(f"{{{SPACE}}}title")
    assert len(root.findtext(f"{{{SPACE}}}desc") or "") > 100
    for words in root.iter(f"{{{SPACE}}}text"):
        x, y, size = (float(words.attrib[name]) for name in ("x", "y", "font-size"))
        long = 0.52 * size * len(words.text or "") * (0.77 if "transform" in words.attrib else 1)
        before = {"start": 0.0, "middle": 0.5, "end": 1.0}[words.attrib["text-anchor"]]
        assert x - before * long >= 0
        assert x + (1 - before) * long <= width
        assert size <= y <= height


def luminance(colour: str) -> float:
    """The relative luminance of a colour `#rrggbb`, as WCAG 2.1 defines it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_words_can_be_read_on_every_filling(colours: dict[str, str]) -> None:
    for words, fillings in (("text", ("ground", "plain", "blue", "orange", "green")), ("faint", ("ground",))):
        for filling in fillings:
            dark, light = sorted((luminance(colours[words]), luminance(colours[filling])))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (words, filling)


def test_every_picture_is_on_a_page_and_has_words_in_its_place() -> None:
    shown = {}
    for page in PAGES:
        for words, target in re.findall(r"!\[(.*?)\]\((.*?)\)", page.read_text(), re.DOTALL):
            shown[(page.parent / target).resolve()] = words
    assert set(FILES) <= shown.keys()
    assert all(len(words) > 20 for words in shown.values())


def test_the_page_of_the_house_names_every_room() -> None:
    text = (ROOT / "docs" / "house.md").read_text()
    assert [room for room in house() if f"| `{room}` |" not in text] == []
