"""The file with a user's timings: one row for each, told by its stage and by what was sent or computed."""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from optimizer.errors import InputError

NUMBERS = ("slots", "blocks", "messages", "experts", "hops", "local", "remote")
"""Columns that hold one number."""

KINDS = ("none", "own", "hint", "batch")
"""What the column information may hold: what a routing policy must know, as in `presets.schema.RoutingPrice`."""

COLUMNS = ("stage", "tokens", *NUMBERS, "information", "us", "note")
"""All columns of a file; only stage and us must be there."""

SHOWN_FAULTS = 3
"""Faults that a message names; the others are counted, so that it stays one line that can be read."""

Choices = Mapping[str, tuple[tuple[str, ...], ...]]
"""For each stage the sets of columns of which a row must fill one, or more, completely."""


@dataclass(frozen=True)
class Measurement:
    """One timing.

    line: where it is in the file, from 1; stage: what was timed; us: microseconds. tokens: those of each active slot of
    the slowest device; numbers: the filled columns of NUMBERS; information: one of KINDS, or empty.
    """

    line: int
    stage: str
    us: float
    tokens: tuple[int, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    information: str = ""

    def has(self, columns: Iterable[str]) -> bool:
        """Whether all of these columns are filled."""
        filled = {*self.numbers, *(["tokens"] if self.tokens else []), *(["information"] if self.information else [])}
        return filled >= set(columns)

    def words(self) -> str:
        """What was timed, such as `compute with tokens 17;38`."""
        parts = [f"{name} {value:g}" for name, value in self.numbers.items()]
        parts += [f"tokens {';'.join(map(str, self.tokens))}"] if self.tokens else []
        parts += [f"information {self.information}"] if self.information else []
        return f"{self.stage} with {', '.join(parts)}"


class _CellError(Exception):
    """A cell that cannot be used: its column, and what is wrong with it."""


def read_measurements(path: Path, choices: Choices) -> tuple[list[Measurement], int]:
    """All timings of a CSV file in their order, and how many rows have no time yet, which are left out.

    choices: the stages that there are, with the columns that each needs. Raises InputError, which names line and column
    of the first faults, and for a file that cannot be read or holds no timing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a CSV file in UTF-8 ({error})") from None
    found: list[Measurement] = []
    faults, blank = [], 0
    for line, row in _rows(path, text):
        try:
            if not row["us"]:
                blank += 1
                continue
            found.append(_measurement(line, row, choices))
        except _CellError as error:
            faults.append(f"line {line}, {error}")
    if faults:
        more = f"; and {len(faults) - SHOWN_FAULTS} more fault(s)" if len(faults) > SHOWN_FAULTS else ""
        raise InputError(f"{path}: {'; '.join(faults[:SHOWN_FAULTS])}{more}")
    if not found:
        raise InputError(f"{path}: no row has a time in its column us; fill in the sheet that --sheet writes")
    return found, blank


def _rows(path: Path, text: str) -> Iterable[tuple[int, dict[str, str]]]:
    """The number of the line in which each row ends, and its cells by column; rows without any text are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        head = [name.strip() for name in next(reader, [])]
        _check_head(path, head)
        for cells in reader:
            row = dict.fromkeys(COLUMNS, "") | dict(zip(head, (cell.strip() for cell in cells), strict=False))
            if len(cells) > len(head) and any(cell.strip() for cell in cells[len(head) :]):
                raise InputError(f"{path}: line {reader.line_num} has {len(cells)} cells, and the head {len(head)}")
            if any(row.values()):
                yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num} is no row of a CSV file ({error})") from None


def _check_head(path: Path, head: list[str]) -> None:
    """Raise InputError unless the first line names columns that there are, each once, stage and us among them."""
    unknown = [name for name in head if name not in COLUMNS]
    if unknown:
        raise InputError(f"{path}: line 1: column '{unknown[0][:40]}' is not known; there are {', '.join(COLUMNS)}")
    missing = [name for name in ("stage", "us") if name not in head]
    if missing:
        raise InputError(f"{path}: line 1 names no column {missing[0]}; write the names of columns into it")
    if len(set(head)) < len(head):
        raise InputError(f"{path}: line 1 names a column twice")


def _measurement(line: int, row: dict[str, str], choices: Choices) -> Measurement:
    """The timing of a row. Raises _CellError for the first cell that cannot be used."""
    stage = row["stage"]
    if stage not in choices:
        raise _CellError(f"column stage: '{stage[:40]}' is none of {', '.join(choices)}")
    for column in ("tokens", *NUMBERS, "information"):
        if row[column] and not any(column in choice for choice in choices[stage]):
            raise _CellError(f"column {column}: is not used by {stage} on this hardware; leave it empty")
    numbers = {column: _number(column, row[column]) for column in NUMBERS if row[column]}
    us = _number("us", row["us"])
    if us == 0 and stage != "routing":
        raise _CellError("column us: must be above 0")
    found = Measurement(line, stage, us, _tokens(row["tokens"]), numbers, _information(row["information"]))
    if not any(found.has(choice) for choice in choices[stage]):
        wanted = " or ".join(" and ".join(choice) for choice in choices[stage])
        lacking = next(column for column in choices[stage][0] if not found.has([column]))
        raise _CellError(f"column {lacking}: is empty; {stage} needs {wanted}")
    return found


def _number(column: str, cell: str) -> float:
    """The number in a cell, 0 or above."""
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not 0 <= value < MOST:
        raise _CellError(f"column {column}: '{cell[:40]}' is no number from 0 to {MOST:g}")
    return value


MOST = 1e12
"""No count or time of a batch comes near this; beyond it, squares would lose their digits."""


def _tokens(cell: str) -> tuple[int, ...]:
    """The tokens of each active slot in a cell such as `17;38`; slots without tokens are not active."""
    parts = [part.strip() for part in cell.split(";") if part.strip()]
    if not all(part.isascii() and part.isdigit() and len(part) <= 9 for part in parts):
        raise _CellError(f"column tokens: '{cell[:40]}' are no whole numbers with semicolons between, such as 17;38")
    return tuple(tokens for part in parts if (tokens := int(part)))


def _information(cell: str) -> str:
    """One of KINDS, or nothing."""
    if cell and cell not in KINDS:
        raise _CellError(f"column information: '{cell[:40]}' is none of {', '.join(KINDS)}")
    return cell
