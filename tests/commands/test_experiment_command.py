"""The command `experiment` as a user meets it: its tables, its JSON, its file of rows and its errors."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from random_problems import request_experts, write_request
from running_commands import fault, run

from optimizer.report.page.pictures import BROWSERS
from optimizer.traces import source

QUICK = ("--mesh", "2x2", "--batch-tokens", 24, "--iterations", 200, "--time-limit", 60)
CLI = "import sys, cli; from optimizer.traces import source; source.BATCHES_PER_SET = 24; cli.main()"
"""The command line in a process of its own, with as few batches as in the others."""


@pytest.fixture(autouse=True)
def fewer_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces give 24 batches to each of the train, selection and test sets in these tests, so that a run is short."""
    monkeypatch.setattr(source, "BATCHES_PER_SET", 24)


def experiment(traces: Path, *more: object) -> tuple[Path, Result]:
    """The file of rows that `experiment` writes for these traces, and how the command ended."""
    output = traces.parent / "rows.csv"
    return output, run("experiment", traces, *QUICK, "--csv", output, *more)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, each by the names of its columns."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_tables_json_and_file_say_the_same(traces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # so that no cell is folded
    page = traces.parent / "steps.html"
    folder, drawn = traces.parent / "pictures", any(map(shutil.which, BROWSERS))
    wanted = ("--html", page, *(("--svg", folder) if drawn else ()))
    output, result = experiment(traces, "--layer", 1, "--shared-experts", 1, *wanted)
    assert result.exit_code == 0, result.output
    if drawn:
        assert "Latency after each step on traces" in (folder / "steps-0.svg").read_text(encoding="utf-8")
        assert f"1 picture is written into {folder}." in result.stdout
    rows = read(output)
    written = page.read_text()
    assert f"{len(rows)} runs" in result.stdout
    found = json.loads(experiment(traces, "--layer", 1, "--shared-experts", 1, "--json")[1].stdout)
    assert len(read(output)) == len(rows) == len(found["summary"])
    ladder = found["ladders"]["traces"]
    assert [rung["bound"] for rung in ladder] == [False] * 6 + [True]
    for rung in ladder:
        assert f"{rung['p50']:.1f} │" in result.stdout
        assert f"{rung['p99']:.1f} │" in result.stdout
        assert f"<td>{rung['p99']:.1f}</td>" in written
        assert rung["bound"] or f"{rung['p99']:.4f}" in {f"{float(row['latency_p99_us']):.4f}" for row in rows}
    assert result.stdout.count("does not lower p99") == sum(not rung["helps"] for rung in ladder)
    for line, row in zip(found["summary"], rows, strict=True):
        assert (line["method"], line["policy"], line["runs"]) == (row["method"], row["policy"], 1)
        assert line["latency_p99_us"] == float(row["latency_p99_us"])
        cell = f"{line['latency_p50_us']:.1f} / {line['latency_p99_us']:.1f}"
        assert line["capacity_factor"] or cell in result.stdout
    for sentence in (
        "│ 8 in 8 slots ",
        "│ 9 in 12 slots ",
        "The bound holds for",
        "Steps with 8 experts leave",
    ):
        assert sentence in result.stdout


def test_data_sets_and_layers_have_rows_of_their_own_and_a_mean(traces: Path, rng: np.random.Generator) -> None:
    for number in range(12):
        write_request(traces.parent / "others" / f"r{number}.npz", request_experts(rng, 20, 3, 8, 2))
    named = f"one={traces}", f"two={traces.parent / 'others'}"
    output = traces.parent / "rows.csv"
    result = run("experiment", *named, "--layer", "0-1", *QUICK, "--csv", output, "--json")
    assert result.exit_code == 0, result.output
    rows, found = read(output), json.loads(result.stdout)
    assert {(row["dataset"], row["layer"]) for row in rows} == {
        (name, str(n)) for name in ("one", "two") for n in range(2)
    }
    assert list(found["ladders"]) == ["one", "two"]
    line = found["summary"][1]
    same = [row for row in rows if all(row[key] == str(line[key]) for key in ("setting", "moe_op", "method", "policy"))]
    plain = [float(row["latency_us"]) for row in same if not row["capacity_factor"]]
    assert (line["runs"], line["capacity_factor"]) == (4, None)
    assert line["latency_us"] == pytest.approx(np.mean(plain))
    rung = found["ladders"]["two"][1]
    of_two = [row for row in same if row["dataset"] == "two" and not row["capacity_factor"]]
    assert rung["p99"] == pytest.approx(np.mean([float(row["latency_p99_us"]) for row in of_two]))
    shown = run("experiment", *named, "--layer", "0-1", *QUICK, "--csv", output).stdout
    assert "one, mean of 2 layers" in shown
    assert "shared experts" not in shown


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(traces: Path) -> None:
    """The run is ended by SIGKILL once the rows of some plans are written, and then started again."""
    output = traces.parent / "rows.csv"
    given = ["experiment", str(traces), "--layer", "0-1", *map(str, QUICK), "--csv", str(output)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen([sys.executable, "-c", CLI, *given], env=environment) as process:
        while process.poll() is None and not (output.exists() and len(read(output)) > 60):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    before = output.read_bytes()
    whole = before[: before.rfind(b"\n") + 1].decode().splitlines()
    ended = subprocess.run([sys.executable, "-c", CLI, *given], env=environment, check=False, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    rows = read(output)
    assert {*whole[:-19]} <= {*output.read_text().splitlines()}  # the last plan may be half-written
    places = [
        tuple(row[key] for key in ("layer", "setting", "moe_op", "method", "policy", "capacity_factor")) for row in rows
    ]
    assert len(set(places)) == len(places) >= 2 * (1 + 2 * 5 * 18)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--layer", "x"), "--layer: 'x' does not name layers"),
        (("--layer", 9), "layer 9"),
        (("--mesh", "1x1", "--slots", 3), "experts do not fit"),
        (("nowhere",), "no such file"),
        (("a=nowhere",), "a plain path beside data set"),
        (("--csv", "nowhere/rows.csv"), "nowhere/rows.csv cannot be written"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(traces: Path, arguments: tuple[Any, ...], said: str) -> None:
    given = ("--layer", 1) if "--layer" not in arguments else ()
    assert said in fault(experiment(traces, *given, *arguments)[1])


def test_another_csv_file_is_refused_in_one_line(traces: Path) -> None:
    (traces.parent / "rows.csv").write_text("a,b\n1,2")
    output, result = experiment(traces, "--layer", 1)
    assert "name another file" in fault(result)
    assert output.read_text() == "a,b\n1,2"


def test_counts_alone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    path.write_text(json.dumps({"logical_count": np.ones((2, 8), dtype=int).tolist()}))
    assert "token traces" in fault(run("experiment", path, "--layer", 0, "--top-k", 2, *QUICK, "--csv", tmp_path / "r"))
