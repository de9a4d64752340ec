"""The file of the benchmark's results: it is read again as it was written, or refused."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulations.kit.outcome import SolveStatus
from optimizer.errors import InputError
from optimizer.experiments.optimality_ladder.ladder_row import LadderJournal, LadderRow

ROW = LadderRow(
    version="1", family="batches", size="1x8", instance='a "b", layer 3', digest="0f", method="greedy", seed=0,
    limit=2.5, value=0.1 + 0.2, bound=0.25, status=SolveStatus.FEASIBLE, gap=0.2, seconds=1e-7,
)  # fmt: skip


def other(**changes: Any) -> LadderRow:
    """ROW with some fields changed."""
    return LadderRow(**(ROW.model_dump() | changes))


def journal(tmp_path: Path, *rows: LadderRow) -> Path:
    """A new file with these rows, each put as a run of its own."""
    path = tmp_path / "rows.csv"
    kept = LadderJournal(path)
    for row in rows:
        kept.put([row])
    return path


def read(path: Path) -> list[LadderRow]:
    """The rows of a file, in their order."""
    return [row for rows in LadderJournal(path).blocks.values() for row in rows]


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1) | st.sampled_from(
    ["\r", "\n", "\r\n", '"']
)
figures = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@given(name=texts, value=figures, bound=figures, status=st.sampled_from(SolveStatus))
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: float, bound: float, status: SolveStatus
) -> None:
    rows = [ROW, other(method="ilp", instance=name, value=value, bound=bound, status=status)]
    path = journal(tmp_path_factory.mktemp("rows"), *rows)
    assert read(path) == rows


def test_a_run_that_is_killed_between_rows_leaves_a_readable_file(tmp_path: Path) -> None:
    rows = [ROW, other(seed=1), other(seed=2)]
    path = journal(tmp_path, *rows)
    lines = path.read_text().splitlines(keepends=True)
    assert lines[0].rstrip().split(",") == list(LadderRow.model_fields)
    for number in range(len(lines) + 1):
        path.write_text("".join(lines[:number]))
        assert read(path) == rows[: max(number - 1, 0)]


def test_half_a_last_line_is_cut_off_and_the_run_goes_on(tmp_path: Path) -> None:
    rows = [ROW, other(seed=1)]
    path = journal(tmp_path, *rows)
    content = path.read_bytes()
    first = content.index(b"\n") + 1
    for size in range(len(content)):
        path.write_bytes(content[:size])
        kept = LadderJournal(path)
        assert path.read_bytes() == content[: max(first, content.rfind(b"\n", 0, size) + 1)]
        for row in rows[len(kept) :]:
            kept.put([row])
        assert path.read_bytes() == content


def test_rows_differ_by_what_was_run_and_not_by_what_came_out() -> None:
    assert other(value=3.0, seconds=9.0, version="2").block == ROW.block
    for change in ({"digest": "1f"}, {"method": "ilp"}, {"seed": 1}, {"limit": 3.0}, {"size": "4x2"}):
        assert other(**change).block != ROW.block


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("version,family", "family,version", "its columns are not"),
        ("greedy,0,", "greedy,-1,", "line 2: seed"),
        ("2.5,0.3", "2.5,nan,0.3", "line 2: 14 cells"),
        ("feasible", "fine", "line 2: status"),
        ("0.25", "inf", "line 2: bound"),
        ("greedy", "", "line 2: method"),
        (",1e-07\n", ",1e\n", "line 2: seconds"),
        (',"a', ',"a"x', "not a CSV file"),
    ],
)
def test_a_file_of_anything_else_is_refused_and_kept(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = journal(tmp_path, ROW)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=said) as caught:
        LadderJournal(path)
    assert caught.value.field == "output"
    assert "--" not in str(caught.value)
    assert path.read_text() == text.replace(old, new)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xff\x00")
    with pytest.raises(InputError, match="not a CSV file"):
        LadderJournal(path)


def test_the_null_device_takes_rows_and_gives_none(tmp_path: Path) -> None:
    journal = LadderJournal(Path(os.devnull))
    journal.put([ROW])
    assert journal.row(ROW.block) == ROW
    assert len(LadderJournal(Path(os.devnull))) == 0
