"""One row per run, in a CSV file that grows by whole lines and is read again to go on where a run was ended."""

import csv
import io
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeFloat, NonNegativeInt, ValidationError

from formulations.outcome import SolveStatus
from optimizer.errors import InputError

Key = tuple[str, str, str, str, str, int, float]


class Row(BaseModel):
    """What one method made of one instance, in the order of the file's columns.

    version: of this program; digest: of the instance; limit and seconds: allowed and taken. value and gap (value /
    bound - 1) are None where the method found no placement, bound and gap where nothing is proven. status: `optimal`
    where the value meets the bound.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    family: str
    size: str
    instance: str
    digest: str
    method: str
    seed: NonNegativeInt
    limit: FiniteFloat = Field(gt=0)
    value: FiniteFloat | None
    bound: FiniteFloat | None
    status: SolveStatus
    gap: FiniteFloat | None
    seconds: NonNegativeFloat

    @property
    def key(self) -> Key:
        """Rows with the same key are the same run."""
        return (self.family, self.size, self.instance, self.digest, self.method, self.seed, self.limit)


COLUMNS = list(Row.model_fields)


class Journal:
    """The rows of a file, by key. Raises InputError where the file is there and holds anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = {row.key: row for row in _read(path)} if path.exists() else {}
        if not self.rows:
            path.write_text(_line(COLUMNS), encoding="utf-8")

    def add(self, row: Row) -> None:
        """Append a row: one write of one line, so that a run that is killed leaves whole lines."""
        cells = row.model_dump(mode="json").values()
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_line(["" if cell is None else cell for cell in cells]))
        self.rows[row.key] = row


def _line(cells: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _read(path: Path) -> list[Row]:
    """All rows of a file, none of an empty one."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file of results ({error}); name another --output") from None
    if lines and lines[0] != COLUMNS:
        raise InputError(f"{path}: its columns are not {', '.join(COLUMNS)}; name another --output")
    return [_row(path, number, cells) for number, cells in enumerate(lines[1:], start=2)]


def _row(path: Path, number: int, cells: list[str]) -> Row:
    try:
        return Row.model_validate({name: cell or None for name, cell in zip(COLUMNS, cells, strict=True)})
    except ValidationError as error:
        first = error.errors()[0]
        fault = f"{first['loc'][0]}: {first['msg']}"
    except ValueError:
        fault = f"{len(cells)} cells instead of {len(COLUMNS)}"
    raise InputError(f"{path}, line {number}: {fault}; mend it, or name another --output")
