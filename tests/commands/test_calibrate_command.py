"""The command `calibrate`: the sheet, the preset that other commands take, what it says, and how it ends."""

import csv
import json
import re
from pathlib import Path

import pytest
from random_problems import WORMHOLE
from running_commands import fault, run
from timed_rows import cost_us, row, write_rows

from optimizer.domain.calibration.sheet import sheet_rows
from optimizer.domain.cost import Cost
from optimizer.domain.presets import load_hardware


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """The published times of one device."""
    times = {(17, 17): 235.0, (17, 38): 365.0, (38, 38): 495.0, (38, 70): 626.0}
    return write_rows(tmp_path / "times.csv", [(row("compute", tokens), us) for tokens, us in times.items()])


def test_the_verdict_comes_first_and_the_preset_is_taken_by_other_commands(examples: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    found = run("calibrate", examples, "-o", mine)
    assert found.exit_code == 0
    said = found.stdout.splitlines()
    assert said[0].startswith("All constants of compute are told apart; RMSE 0.")
    assert said[0].endswith(" of the mean) over 4 rows.")
    assert f"Not measured, and so as in {WORMHOLE}: functional, dispatch, table, combine, routing." in said
    assert said[-1] == f"Written: {mine}, which --hardware takes."
    assert load_hardware(str(mine)).compute.source.startswith("fitted to 4 measurements of times.csv, RMSE 0.")


def test_what_is_not_told_apart_comes_first_with_what_to_measure(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv", [(row("compute", (33,)), 250.0), (row("compute", (40, 50)), 500.0)])
    found = run("calibrate", rows, "-o", tmp_path / "mine.toml")
    assert found.exit_code == 0
    first, second = found.stdout.splitlines()[:2]
    assert first.startswith("compute: first_tile_us and further_tile_us cannot be told apart: ")
    assert second.startswith("To tell them better measure compute with tokens ")


def test_the_sheet_filled_in_gives_the_preset(tmp_path: Path) -> None:
    sheet, preset = tmp_path / "sheet.csv", load_hardware("h800")
    assert run("calibrate", "--sheet", sheet, "--like", "h800").stdout.startswith(f"Written: {sheet}. ")
    head, *lines = sheet.read_text().splitlines()
    place, times = head.split(",").index("us"), [cost_us(Cost("h800", preset), each) for each, _ in sheet_rows(preset)]
    cells = [line.split(",") for line in lines]
    filled = [[*row[:place], f"{us:.3f}", *row[place + 1 :]] for row, us in zip(cells, times, strict=True)]
    filled[-1][place] = ""
    sheet.write_text("\n".join([head, *map(",".join, filled)]))
    found = run("calibrate", sheet, "--like", "h800", "-o", tmp_path / "mine.toml", "--json")
    assert found.exit_code == 0
    assert found.stderr == f"Note: 1 row(s) of {sheet} have no time in column us and were left out\n"
    figures = json.loads(found.stdout)
    assert figures["rows_without_time"] == 1
    assert figures["kept"] == []
    for section, of in figures["sections"].items():
        assert of["rmse_us"] < 0.001
        assert of["to_measure"] == []
        for name, constant in of["constants"].items():
            assert constant["value"] == pytest.approx(getattr(getattr(preset, section), name), rel=1e-4)
            assert constant["told"] == "yes"
    assert load_hardware(str(tmp_path / "mine.toml")).model_dump(exclude_none=True) == figures["preset"]


def test_a_fault_is_one_line_and_leaves_what_was_there(examples: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("old")
    examples.write_text(examples.read_text().replace("365.0", "soon"))
    said = fault(run("calibrate", examples, "-o", mine))
    assert said == f"Error: {examples}: line 3, column us: 'soon' is no number from 0 to 1e+12"
    assert mine.read_text() == "old"


def test_a_sheet_with_times_is_not_written_over(examples: Path) -> None:
    before = examples.read_text()
    assert "is there already" in fault(run("calibrate", "--sheet", examples))
    assert examples.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give either MEASUREMENTS.csv, or --sheet"),
        (["TIMES", "--sheet", "sheet.csv"], "give either MEASUREMENTS.csv, or --sheet"),
        (["TIMES", "-o", "mine.json"], "does not end in .toml"),
        (["TIMES", "-o", "/no folder/mine.toml"], "Error: --output: "),
        (["--sheet", "/no folder/sheet.csv"], "Error: --sheet: "),
        (["TIMES", "--like", "abacus"], "hardware 'abacus' is not known"),
        (["TIMES", "--like", "none.toml"], "none.toml: cannot be read"),
        (["none.csv"], "none.csv: cannot be read"),
    ],
)
def test_bad_usage_is_one_line(arguments: list[str], said: str, examples: Path) -> None:
    assert said in fault(run("calibrate", *[examples if each == "TIMES" else each for each in arguments]))


DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "calibrating.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    """The blocks of the document that are marked with this word."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


def test_the_documents_example_says_what_the_document_says(tmp_path: Path) -> None:
    times = tmp_path / "timings.csv"
    times.write_text(blocks("csv")[1])
    found = run("calibrate", times, "-o", tmp_path / "mine.toml")
    assert found.stdout.startswith(blocks("text")[0])


def test_the_documents_sheet_is_what_is_written_but_for_two_stages(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    run("calibrate", "--sheet", sheet)
    with sheet.open() as file:
        written = [row for row in csv.DictReader(file) if row["stage"] not in ("functional", "routing")]
    shown = list(csv.DictReader(blocks("csv")[0].splitlines()))
    assert shown == [{column: row[column] for column in shown[0]} for row in written]
