"""Files of results: CSV that grows by whole lines, one per row, and is read again to go on where a run was ended."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from optimizer.errors import InputError

R = TypeVar("R", bound=BaseModel)


def header(kind: type[BaseModel]) -> str:
    """The first line of a file of such rows: their fields in order."""
    return _line(list(kind.model_fields))


def lines(rows: Iterable[BaseModel]) -> str:
    """The lines of rows; what is None is an empty cell."""
    cells = (row.model_dump(mode="json").values() for row in rows)
    return "".join(_line(["" if cell is None else cell for cell in of_row]) for of_row in cells)


def append(path: Path, rows: Iterable[BaseModel]) -> None:
    """Add rows to the end of a file in one write, so that a run that is killed leaves all of them or none."""
    content = lines(rows).encode()
    with path.open("ab", buffering=len(content) + 1) as file:
        file.write(content)


def parse(path: Path, content: bytes, kind: type[R], option: str) -> list[R]:
    """The rows in the content of a file, none of an empty one.

    Raises InputError that says where it holds anything else, and that `option` can name another file.
    """
    columns = list(kind.model_fields)
    try:
        found = list(csv.reader(io.StringIO(content.decode(), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file of results ({error}); name another {option}") from None
    if found and found[0] != columns:
        raise InputError(f"{path}: its columns are not {', '.join(columns)}; name another {option}")
    try:
        return [_row(number, cells, kind) for number, cells in enumerate(found[1:], start=2)]
    except ValueError as fault:
        raise InputError(f"{path}, {fault}; mend it, or name another {option}") from None


def _line(cells: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _row(number: int, cells: list[str], kind: type[R]) -> R:
    """Raises ValueError with the line and its fault."""
    columns = list(kind.model_fields)
    if len(cells) != len(columns):
        raise ValueError(f"line {number}: {len(cells)} cells instead of {len(columns)}")
    try:
        return kind.model_validate({name: cell or None for name, cell in zip(columns, cells, strict=True)})
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"line {number}: {first['loc'][0]}: {first['msg']}") from None
