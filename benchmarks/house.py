"""Draw the picture of `docs/house.md` from the code: which room imports which.

Usage: python benchmarks/house.py [OUT.svg]. OUT.svg is docs/pictures/house.svg by default. The picture's description
holds the same as text, one line for each room.
"""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from svg_picture import SMALL, Picture

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "pictures" / "house.svg"
TITLE = "The rooms of the house, and what imports what"

DOORS = {"eplb": "api"}
"""Modules beside the rooms that only hand on names of a room."""

LEFT, TOP, CELL = 130, 80, 34
"""Where the cells begin, with room for names, and how large one is; pixels."""


def room_of(path: Path) -> str | None:
    """The room that a file belongs to; None for the package's face and the modules that stand beside the rooms."""
    top, *rest = path.relative_to(ROOT).with_suffix("").parts
    return _room(top, rest)


def _room(top: str, rest: list[str]) -> str | None:
    """The room of a module under a top folder: `formulations` and `cli` count as one room each."""
    if top in ("formulations", "cli"):
        return top
    name = DOORS.get(rest[0], rest[0]) if rest else ""
    return name if (ROOT / "optimizer" / name / "__init__.py").is_file() and name else None


def imported_rooms(path: Path) -> Iterator[str]:
    """The rooms from which a file imports anything, also where it does so inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            top, *rest = name.split(".")
            if top in ("formulations", "optimizer", "cli") and (room := _room(top, rest)):
                yield room


def house() -> dict[str, set[str]]:
    """For each room the others from which it imports, rooms in such an order that a room comes after these.

    Raises graphlib.CycleError where rooms import one another in a circle.
    """
    found: dict[str, set[str]] = {}
    for path in (*ROOT.glob("formulations/**/*.py"), *ROOT.glob("optimizer/**/*.py"), ROOT / "cli.py"):
        if room := room_of(path):
            found.setdefault(room, set()).update(set(imported_rooms(path)) - {room})
    sorter, order = TopologicalSorter(found), []
    sorter.prepare()
    while sorter.is_active():
        ready = sorted(sorter.get_ready())  # by name, so that the same code gives the same picture
        order += ready
        sorter.done(*ready)
    return {room: found[room] for room in order}


def in_words(rooms: dict[str, set[str]]) -> str:
    """A line for each room: what it imports, in the order of rooms."""
    lines = []
    for room, others in rooms.items():
        named = ", ".join(other for other in rooms if other in others)
        lines.append(f"{room} imports {named or 'nothing'}.")
    return "\n".join(lines)


def draw(rooms: dict[str, set[str]]) -> Picture:
    """The house from its top floor down: a row says what a room imports, a column who imports it."""
    floors = list(reversed(rooms))
    size = CELL * len(floors)
    picture = Picture(LEFT + size + 60, TOP + size + 40, TITLE, in_words(rooms))
    for number, room in enumerate(floors):
        y = TOP + CELL * number
        picture.words(LEFT - 10, y + 22, room, anchor="end")
        picture.words(LEFT + CELL * number + 14, TOP - 8, room, SMALL, turned=-40)
        for place, other in enumerate(floors):
            colour = "blue" if other == room else "green" if other in rooms[room] else "plain"
            picture.box(LEFT + CELL * place, y, CELL - 2, CELL - 2, colour)
            if colour == "green":
                picture.words(LEFT + CELL * place + 16, y + 21, "●", anchor="middle")
    picture.words(20, TOP + size + 24, "A dot: the room of the row imports from the room of the column.", SMALL)
    return picture


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else OUT).write_text(draw(house()).svg())
