"""The tables of `benchmark`: how far from the bound each placement method ends, by family of questions and mesh
size."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

from rich.table import Table

from formulations.kit.outcome import SolveStatus
from optimizer.experiments.optimality_ladder.families import FAMILIES
from optimizer.experiments.optimality_ladder.ladder_row import LadderRow
from optimizer.report.tables import Part, make_table


@dataclass(frozen=True)
class Figures:
    """The figures of one method on all instances of one family and mesh size.

    mean_gap and worst_gap are relative to the bound (0.01 is one per cent above it) and None where no run has a bound.
    optimal is the share of runs whose value meets the bound, mean_seconds the mean time of a run.
    """

    family: str
    size: str
    method: str
    runs: int
    mean_gap: float | None
    worst_gap: float | None
    optimal: float
    mean_seconds: float

    @classmethod
    def of(cls, family: str, size: str, method: str, rows: Sequence[LadderRow]) -> "Figures":
        """The figures drawn from the rows of this family, size and method, of which there must be at least one."""
        gaps = [row.gap for row in rows if row.gap is not None]
        solved = [row.status is SolveStatus.OPTIMAL for row in rows]
        seconds = fmean(row.seconds for row in rows)
        mean, worst = (fmean(gaps), max(gaps)) if gaps else (None, None)
        return cls(family, size, method, len(rows), mean, worst, fmean(solved), seconds)


def figures(rows: Sequence[LadderRow]) -> list[Figures]:
    """The figures of each family, size and method, in the order in which these first appear in the rows."""
    groups: dict[tuple[str, str, str], list[LadderRow]] = {}
    for row in rows:
        groups.setdefault((row.family, row.size, row.method), []).append(row)
    return [Figures.of(*group, of_group) for group, of_group in groups.items()]


def parts(rows: Sequence[LadderRow]) -> list[Part]:
    """One table for each family of questions."""
    families = groupby(figures(rows), key=lambda each: each.family)
    return [family_table(family, list(found)) for family, found in families]


def family_table(family: str, found: Sequence[Figures]) -> Table:
    """The table of one family, with one row per mesh size and method; a dash stands where no gap is known."""
    table = make_table(f"{family}: {FAMILIES[family].says}", "mesh", [])
    table.add_column("method")
    for column in ("runs", "mean gap", "worst gap", "optimal", "mean time, s"):
        table.add_column(column, justify="right")
    for size, of_size in groupby(found, key=lambda each: each.size):
        table.add_section()
        for place, each in enumerate(of_size):
            gaps = ("-" if gap is None else f"{gap:.2%}" for gap in (each.mean_gap, each.worst_gap))
            cells = (each.method, str(each.runs), *gaps, f"{each.optimal:.0%}", f"{each.mean_seconds:.3f}")
            table.add_row("" if place else size, *cells)
    return table


def as_json(rows: Sequence[LadderRow]) -> list[dict[str, Any]]:
    """The figures of the tables in their stable JSON form: one entry per family, size and method."""
    return [asdict(each) for each in figures(rows)]
