"""The file of timings: what is read, and faults that are named by line and column."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import WORMHOLE

from optimizer.domain.calibration.measurements import COLUMNS, Measurement, read_measurements
from optimizer.domain.calibration.sheet import sheet_rows, sheet_text
from optimizer.domain.calibration.stages import choices_of, stages_of
from optimizer.domain.presets import load_hardware, names
from optimizer.errors import InputError

HEAD = "stage,tokens,messages,experts,hops,information,us\n"


def read(path: Path, content: str | bytes, name: str = WORMHOLE) -> tuple[list[Measurement], int]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_measurements(path, choices_of(stages_of(load_hardware(name))))


def test_rows_are_read_in_any_order_of_columns_with_blanks_and_notes(tmp_path: Path) -> None:
    text = '\ufeffus, stage ,note,tokens\r\n\r\n235, compute,"two\nslots",17; 17 ;0\r\n'
    text += ',compute,,4\r\n,,,\r\n365,compute,,"17;38"\r\n'
    rows, blank = read(tmp_path / "rows.csv", text)
    assert rows == [Measurement(4, "compute", 235.0, (17, 17)), Measurement(7, "compute", 365.0, (17, 38))]
    assert blank == 1


@pytest.mark.parametrize("name", names("hardware"))
def test_the_sheet_is_read_once_it_is_filled_in(name: str, tmp_path: Path) -> None:
    preset = load_hardware(name)
    head, *lines = sheet_text(preset).splitlines()
    place = head.split(",").index("us")
    filled = [",".join([*cells[:place], "7", *cells[place + 1 :]]) for cells in (line.split(",") for line in lines)]
    rows, blank = read(tmp_path / "rows.csv", "\n".join([head, *filled]), name)
    assert blank == 0
    wanted = [each for each, _ in sheet_rows(preset)]
    assert [(row.stage, row.tokens, row.numbers, row.information) for row in rows] == [
        (row.stage, row.tokens, row.numbers, row.information) for row in wanted
    ]
    assert {row.us for row in rows} == {7.0}
    with pytest.raises(InputError, match="no row has a time"):
        read(tmp_path / "rows.csv", sheet_text(preset), name)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (HEAD + "compute,17,,,,,abc\n", r"line 2, column us: 'abc' is no number"),
        (HEAD + "compute,17,,,,,-1\n", r"line 2, column us: '-1' is no number from 0"),
        (HEAD + "compute,17,,,,,nan\n", r"line 2, column us: "),
        (HEAD + "compute,17,,,,,inf\n", r"line 2, column us: "),
        (HEAD + "compute,17,,,,,0\n", r"line 2, column us: must be above 0"),
        (HEAD + "compute,17,38,,,,9\n", r"line 2, column messages: is not used by compute"),
        (HEAD + "compute,17.5,,,,,9\n", r"line 2, column tokens: '17.5' are no whole numbers"),
        (HEAD + "compute,,,,,,9\n", r"line 2, column tokens: is empty; compute needs tokens"),
        (HEAD + "compute,0,,,,,9\n", r"line 2, column tokens: is empty"),
        (
            HEAD + "dispatch,,,4,,,9\n",
            r"line 2, column messages: is empty; dispatch needs messages or experts and hops",
        ),
        (HEAD + "routing,,,,,some,9\n", r"line 2, column information: 'some' is none of none, own, hint, batch"),
        (HEAD + "\ncompt,17,,,,,9\n", r"line 3, column stage: 'compt' is none of compute, functional, dispatch"),
        (HEAD + "compute,17,,,,,9,9\n", r"line 2 has 8 cells, and the head 7"),
        (HEAD + "a,,,,,,1\n" * 5, r"line 2, .*; line 3, .*; line 4, .*; and 2 more fault\(s\)$"),
        (HEAD + 'compute,"17,,,,,9\n', r"line \d+ is no row of a CSV file"),
        ("stage,tokens,time\n", r"line 1: column 'time' is not known"),
        ("stage,tokens\n", r"line 1 names no column us"),
        ("stage,us,us\n", r"line 1 names a column twice"),
        ("", r"line 1 names no column stage"),
        (HEAD, r"no row has a time"),
        (b"\xff\xfe\x00", r"cannot be read as a CSV file in UTF-8"),
    ],
)
def test_a_fault_is_named_by_line_and_column(content: str | bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path / "rows.csv", content)
    assert str(caught.value).startswith(str(tmp_path / "rows.csv"))
    assert len(str(caught.value).splitlines()) == 1


CELLS = st.sampled_from(
    ["", "compute", "dispatch", "routing", "none", "17;38", "3", "1e400", "-0", "nan", "x", '"', ";", "\0"]
)
HEADS = st.lists(st.sampled_from([*COLUMNS, "other"]), max_size=6)


@given(HEADS, st.lists(st.lists(CELLS, max_size=7), max_size=5), st.sampled_from(names("hardware")))
def test_any_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, head: list[str], rows: list[list[str]], name: str
) -> None:
    text = "\n".join(",".join(cells) for cells in [["stage", "us", *head], *rows])
    with suppress(InputError):
        found, _ = read(tmp_path_factory.getbasetemp() / "fuzzed.csv", text, name)
        assert found
        assert all(0 <= row.us < 1e12 for row in found)
