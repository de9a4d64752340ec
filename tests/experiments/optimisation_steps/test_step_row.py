"""The file of the experiments: it holds whole plans, and a run goes on with it wherever another was killed."""

import os
from pathlib import Path
from typing import Any

import pytest
from experiment_row import ROW
from hypothesis import given
from hypothesis import strategies as st

from optimizer.errors import InputError
from optimizer.experiments.optimisation_steps.step_row import StepJournal, StepRow


def other(**changes: Any) -> StepRow:
    """ROW with some fields changed."""
    return StepRow(**(ROW.model_dump() | changes))


PLANS = [
    [ROW, other(policy="optimal", rerouted=0.5)],
    [other(method="search", capacity_factor=factor) for factor in (1.0, 1.5, None)],
    [other(layer=4), other(layer=4, policy="optimal")],
]


def written(path: Path, plans: list[list[StepRow]]) -> Path:
    """The path of a file to which the rows of these plans were added."""
    journal = StepJournal(path)
    for rows in plans:
        journal.put(rows)
    return path


def read(path: Path) -> list[list[StepRow]]:
    """The rows of a file, plan by plan."""
    return list(StepJournal(path).blocks.values())


texts = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)


@given(name=texts, figure=st.floats(allow_nan=False, allow_infinity=False), moves=st.none() | st.integers(0, 10**12))
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, name: str, figure: float, moves: int | None
) -> None:
    rows = [other(dataset=name, latency_us=figure, gap=figure, moves=moves)]
    assert read(written(tmp_path_factory.mktemp("rows") / "rows.csv", [rows])) == [rows]


def test_wherever_a_run_was_killed_its_file_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No power fails here, so the disk is not waited for; nor is there another file in the way, for which it is too."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    content = written(tmp_path / "rows.csv", PLANS).read_bytes()
    heads = [len("".join(content.decode().splitlines(keepends=True)[: 1 + n]).encode()) for n in range(8)]
    assert heads[-1] == len(content)
    everything = [row for rows in PLANS for row in rows]
    for size in range(len(content) + 1):
        path = tmp_path / f"{size}.csv"
        path.write_bytes(content[:size])
        found = [row for rows in read(path) for row in rows]
        assert found == everything[: sum(head <= size for head in heads[1:])]
        assert path.read_bytes() == content[: max([heads[0], *(head for head in heads if head <= size)])]
        for rows in PLANS:
            journal = StepJournal(path)
            if journal.rows(rows[0].block) != rows:
                journal.put(rows)
        assert read(path) == PLANS


def test_a_plan_that_is_made_anew_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", PLANS)
    again = [row.model_copy(update={"tiles": 2.0}) for row in PLANS[0]]
    StepJournal(path).put(again)
    assert sorted(map(str, read(path))) == sorted(map(str, [again, *PLANS[1:]]))
    assert len(path.read_text().splitlines()) == 8


def test_rows_are_of_one_plan_if_what_was_planned_is_the_same() -> None:
    same = {"policy": "optimal", "capacity_factor": 2.0, "tiles": 9.0, "seconds": 3.0, "version": "2"}
    for name, value in same.items():
        assert other(**{name: value}).block == ROW.block
    changes = {"dataset": "c", "layer": 4, "setting": "routed", "moe_op": "functional", "method": "search", "seed": 1,
               "limit": 3.0, "moves": 5, "digest": "1f"}  # fmt: skip
    for name, value in changes.items():
        assert other(**{name: value}).block != ROW.block


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("version,dataset", "dataset,version", "its columns are not"),
        ("greedy,even-source", "greedy", "line 2: 31 cells instead of 32"),
        ("greedy,even-source,,0", "greedy,even-source,,-1", "line 2: seed"),
        ("2.5", "inf", "line 2: limit"),
        ("greedy", "", "line 2: method"),
        ('"a "', '"a"x ', "not a CSV file"),
        ("version", "\udcff", "not a CSV file"),
    ],
)
def test_a_file_of_anything_else_is_refused_and_kept(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = written(tmp_path / "rows.csv", PLANS)
    text = path.read_text()
    assert old in text
    content = text.replace(old, new, 1).encode(errors="surrogateescape") + b"half a line"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{said}.*name another file") as caught:
        StepJournal(path)
    assert caught.value.field == "csv"
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"x", b"my notes, without an end", b"a,b\n1,2", b"version,dataset,layer,x"])
def test_a_line_without_an_end_is_not_cut_off_a_file_of_others(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match="name another file"):
        StepJournal(path)
    assert path.read_bytes() == content
