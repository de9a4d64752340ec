"""Files of results: CSV that grows by whole lines, one for each row, and is read again to go on where a run ended."""

import csv
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from optimizer.errors import InputError
from optimizer.files import write_whole


class ResultRow(BaseModel, ABC):
    """One row of results. A kind of row defines its columns as fields, in the order of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    @abstractmethod
    def block(self) -> Hashable:
        """What was run; all rows of one block are results of the same run."""


R = TypeVar("R", bound=ResultRow)


class Journal(Generic[R]):
    """The rows of a file, in blocks of rows that belong to the same run.

    A search that is ended by the clock finds something else each time, so the rows of a block are written together, and
    a block that is made anew replaces the old one. A last line without an end is what a killed run left, and is cut
    off. A device, such as /dev/null, is written into but not read.

    kind: the class of the rows; field: the parameter that names the file, for errors. Raises InputError where the file
    holds anything else than such rows.
    """

    def __init__(self, path: Path, kind: type[R], field: str) -> None:
        self.path, self.kind = path, kind
        self.blocks: dict[Hashable, list[R]] = {}
        content = path.read_bytes() if path.is_file() else b""
        head = _header(kind).encode()
        whole = b"" if head.startswith(content) else content[: content.rfind(b"\n") + 1] or content
        for row in _parse(path, whole, kind, field):
            self.blocks.setdefault(row.block, []).append(row)
        if not whole:
            write_whole(path, head.decode())
        elif len(whole) < len(content):
            os.truncate(path, len(whole))

    def __len__(self) -> int:
        """The number of rows."""
        return sum(map(len, self.blocks.values()))

    def rows(self, block: Hashable) -> list[R]:
        """The rows of a block; none if it was not run."""
        return self.blocks.get(block, [])

    def put(self, rows: Sequence[R]) -> None:
        """Add all rows of one block, in place of those that the block had."""
        block = rows[0].block
        known = block in self.blocks
        self.blocks[block] = list(rows)
        if known:
            kept = (row for of_block in self.blocks.values() for row in of_block)
            write_whole(self.path, _header(self.kind) + _lines(kept))
        else:
            _append(self.path, rows)


def _header(kind: type[BaseModel]) -> str:
    """The first line of a file of rows: the names of their fields in order."""
    return _line(list(kind.model_fields))


def _lines(rows: Iterable[BaseModel]) -> str:
    """The lines of rows; what is None becomes an empty cell."""
    cells = (row.model_dump(mode="json").values() for row in rows)
    return "".join(_line(["" if cell is None else cell for cell in of_row]) for of_row in cells)


def _append(path: Path, rows: Iterable[BaseModel]) -> None:
    """Add rows to the end of a file in one write, so that a run that is killed leaves all of them or none."""
    content = _lines(rows).encode()
    with path.open("ab", buffering=len(content) + 1) as file:
        file.write(content)


def _parse(path: Path, content: bytes, kind: type[R], field: str) -> list[R]:
    """The rows in the content of a file; an empty content has none. Raises InputError that names the first fault."""
    columns = list(kind.model_fields)
    try:
        found = list(csv.reader(io.StringIO(content.decode(), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file of results ({error}); name another file", field) from None
    if found and found[0] != columns:
        raise InputError(f"{path}: its columns are not {', '.join(columns)}; name another file", field)
    try:
        return [_row(number, cells, kind) for number, cells in enumerate(found[1:], start=2)]
    except ValueError as fault:
        raise InputError(f"{path}, {fault}; mend it, or name another file", field) from None


def _line(cells: list[Any]) -> str:
    """One line of the file, which ends with a line feed alone."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(
        cells
    )  # with this end the writer quotes either character in a cell
    return text.getvalue().removesuffix("\r\n") + "\n"


def _row(number: int, cells: list[str], kind: type[R]) -> R:
    """The row in the cells of a line. Raises ValueError with the number of the line and its fault."""
    columns = list(kind.model_fields)
    if len(cells) != len(columns):
        raise ValueError(f"line {number}: {len(cells)} cells instead of {len(columns)}")
    try:
        return kind.model_validate({name: cell or None for name, cell in zip(columns, cells, strict=True)})
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"line {number}: {first['loc'][0]}: {first['msg']}") from None
