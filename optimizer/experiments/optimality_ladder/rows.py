"""One row per run, in a CSV file that grows by whole lines and is read again to go on where a run was ended."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeFloat, NonNegativeInt

from formulations.kit.outcome import SolveStatus
from optimizer.experiments.journal import append, header, parse

Key = tuple[str, str, str, str, str, int, float]


class LadderRow(BaseModel):
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


COLUMNS = list(LadderRow.model_fields)


class LadderJournal:
    """The rows of a file, by key. Raises InputError where the file is there and holds anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        held = parse(path, path.read_bytes(), LadderRow, "--output") if path.exists() else []
        self.rows = {row.key: row for row in held}
        if not self.rows:
            path.write_text(header(LadderRow), encoding="utf-8")

    def add(self, row: LadderRow) -> None:
        """Append a row."""
        append(self.path, [row])
        self.rows[row.key] = row
