"""The command `benchmark` as a user meets it: its table, its JSON, its file of rows and its errors."""

import csv
import json
from pathlib import Path

import pytest
from running_commands import fault, run

from optimizer.experiments.optimality_ladder import runs
from optimizer.experiments.optimality_ladder.methods import METHODS
from optimizer.experiments.optimality_ladder.runs import WrongAnswerError

QUICK = ("--family", "replication", "--sizes", "1x8", "--time-limit", "0.5")


def test_the_table_and_json_say_the_same_and_nothing_is_run_twice(tmp_path: Path, traces: Path) -> None:
    output = tmp_path / "rows.csv"
    first = run("benchmark", traces, *QUICK, "-o", output)
    assert first.exit_code == 0, first.output
    number = 6 * (1 + len(METHODS))
    assert f"{number} runs, {number} of them made now" in first.stdout
    with output.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == number
    assert {row["instance"].split(" ")[0] for row in rows} == {"generated", "traces"}
    assert "0 of them made now" in run("benchmark", traces, *QUICK, "-o", output).stdout
    again = run("benchmark", traces, *QUICK, "-o", output, "--json")
    found = json.loads(again.stdout)["figures"]
    assert [each["method"] for each in found] == ["formulation", *METHODS]
    for each in found:
        line = next(line for line in first.stdout.splitlines() if f" {each['method']} " in line)
        cells = [cell.strip() for cell in line.split("│")[3:8]]
        figures = f"{each['mean_gap']:.2%}", f"{each['worst_gap']:.2%}", f"{each['optimal']:.0%}"
        assert cells == ["6", *figures, f"{each['mean_seconds']:.3f}"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--family", "luck"), "there are expected, batches, replication"),
        (("--sizes", "3x3"), "there are 1x8, 4x2, 4x4, 4x8, 16x8"),
        (("nowhere",), "no such file"),
    ],
)
def test_what_is_not_known_is_said_in_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in fault(run("benchmark", *arguments, "-o", tmp_path / "rows.csv"))


def test_another_csv_file_is_refused_in_one_line(tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    output.write_text("a,b\n1,2\n")
    assert "name another file" in fault(run("benchmark", *QUICK, "-o", output))
    assert output.read_text() == "a,b\n1,2\n"


def test_an_answer_that_cannot_be_ends_the_run_with_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> None:
        """Fail as a run does whose method gives a value below a proven bound."""
        raise WrongAnswerError("value 1 is below the bound 2")

    monkeypatch.setattr(runs, "run_all", wrong)
    assert "below the bound" in fault(run("benchmark", *QUICK, "-o", tmp_path / "rows.csv"), code=1)
