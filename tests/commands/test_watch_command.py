"""The command `watch`, as a user meets it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_problems import write_request
from running_commands import fault, run
from watched import skewed, small_plan, write_requests

from optimizer.planning.plan_file import read_plan
from optimizer.planning.watching.window import LEAST_OLDER, LEAST_TEST
from optimizer.report.watching import METRICS

pytestmark = pytest.mark.usefixtures("few_batches")

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--iterations", "100", "--jobs", "1", "--batch-tokens", "24", "--max-moves", "2")
OLD = 1_000_000_000
"""A time in seconds since 1970 long ago: files that were changed then are settled."""


@pytest.fixture
def own_plan(tmp_path: Path) -> Path:
    return small_plan(tmp_path / "plan.json")


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Requests enough for a decision."""
    write_requests(tmp_path / "served", range(LEAST_OLDER + LEAST_TEST), rng)
    return settled(tmp_path / "served")


def settled(folder: Path) -> Path:
    for file in folder.iterdir():
        os.utime(file, (OLD, OLD))
    return folder


def watch(folder: Path, plan: Path, *more: object) -> Any:
    return run("watch", folder, "--plan", plan, *QUICK, "--once", *more)


def figures(text: str) -> dict[str, float]:
    """The values in a text for Prometheus, each of which has its two lines of description before it."""
    lines, found = text.splitlines(), {}
    assert text.endswith("\n")
    assert len(lines) % 3 == 0
    for meaning, kind, sample in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        name, value = sample.split(" ")
        assert meaning.startswith(f"# HELP {name} ")
        assert kind in (f"# TYPE {name} gauge", f"# TYPE {name} counter")
        assert name.endswith("_total") == kind.endswith("counter")
        found[name.removeprefix("moeplan_watch_")] = float(value)
    return found


def test_a_plan_that_pays_is_written_and_said_in_a_line(own_plan: Path, folder: Path, tmp_path: Path) -> None:
    old, text = read_plan(own_plan), tmp_path / "moeplan.prom"
    (folder / "bad.npz").write_bytes(b"PK nothing")
    result = watch(settled(folder), own_plan, "--metrics", text)
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    said = json.loads(line)
    new = read_plan(own_plan)
    moves = new.layers[1].placement.weights_to_load(old.layers[1].placement)
    assert (said["decision"], said["moves"]) == ("written", moves)
    assert said["gain"]["mean"] >= 0.02
    assert said["gain"]["low"] > 0
    assert said["latency_us"]["after"] < said["latency_us"]["before"]
    assert (said["tested_on"], said["planned_on"], list(said["bad"])) == (LEAST_TEST, LEAST_OLDER, ["bad.npz"])
    assert "bad.npz: " in result.stderr
    found = figures(text.read_text())
    assert (found["plans_written_total"], found["moves_total"], found["bad_files_total"]) == (1, moves, 1)
    assert found["gain_ratio"] == said["gain"]["mean"]
    assert json.loads((tmp_path / "plan.moves.json").read_text())["moves"] == moves


def test_the_next_run_counts_nothing_twice_and_says_nothing(own_plan: Path, folder: Path, tmp_path: Path) -> None:
    watch(folder, own_plan)
    content, text = own_plan.read_text(), tmp_path / "moeplan.prom"
    result = watch(folder, own_plan, "--metrics", text)
    assert (result.exit_code, result.stdout) == (0, "")
    assert own_plan.read_text() == content
    found = figures(text.read_text())
    assert (found["requests_total"], found["unseen_requests"]) == (LEAST_OLDER + LEAST_TEST, 0)
    assert 0 <= found["drift_ratio"] <= 1
    assert {*found} == {*METRICS}


def test_what_looks_wrong_in_the_recording_is_said(own_plan: Path, folder: Path) -> None:
    """A warm-up run of equal tokens."""
    write_request(folder / "warm.npz", np.tile(np.array([1, 2], dtype=np.uint8), (500, 3, 1)))
    result = watch(settled(folder), own_plan)
    assert "looks wrong: " in result.stderr
    assert "a profile or warm-up run" in json.loads(result.stdout)["looks_wrong"]


def test_the_line_of_a_later_run_tells_the_drift_from_the_plan(
    own_plan: Path, folder: Path, rng: np.random.Generator
) -> None:
    watch(folder, own_plan)
    write_requests(folder, range(100, 100 + LEAST_TEST), rng)
    result = watch(settled(folder), own_plan)
    assert result.exit_code == 0, result.output
    drift = json.loads(result.stdout)["drift"]
    assert drift["worst_layer"] == 1
    assert 0 <= drift["mean"] == drift["worst"] < 0.2
    assert 0 < drift["by_chance"] < 0.2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--layer", 2), "--layer: "),
        (("--phase", "sleep"), "--phase: phase 'sleep' is not known"),
        (("--routing", "nowhere"), "--routing: 'nowhere' is not a known policy"),
        (("--max-bytes", 1e9), "--max-bytes: a budget is given in moves or in bytes, not in both"),
        (("--metrics", "no/such/folder.prom"), "--metrics: no/such/folder.prom cannot be written"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(
    own_plan: Path, folder: Path, more: tuple[object, ...], said: str
) -> None:
    assert said in fault(watch(folder, own_plan, *more))
    assert not own_plan.with_name("plan.watch.json").exists()


def test_a_folder_or_a_budget_that_lacks_is_refused_in_one_line(own_plan: Path, folder: Path, tmp_path: Path) -> None:
    assert "nowhere: no such folder" in fault(watch(tmp_path / "nowhere", own_plan))
    assert "--max-moves: a watch needs a budget for each decision" in fault(
        run("watch", folder, "--plan", own_plan, "--once")
    )
    assert "no such file" in fault(watch(folder, tmp_path / "none.json"))


def test_a_decision_that_cannot_be_made_fails_a_single_look(own_plan: Path, folder: Path) -> None:
    result = watch(folder, own_plan, "--replicas", 1)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["decision"] == "failed"
    assert "the current plan breaks what is asked for" in result.stderr


@contextmanager
def watching(folder: Path, plan: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that watches, looking every tenth of a second."""
    command = [sys.executable, "-c", "from cli import main; main()", "watch", str(folder), "--plan", str(plan)]
    more = [*QUICK, "--every", "0.1"]
    process = subprocess.Popen([*command, *more], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_process_that_was_killed_goes_on_and_ctrl_c_ends_it(
    own_plan: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    served = tmp_path / "served"
    write_requests(served, range(3), rng)
    requests = 0
    with watching(served, own_plan) as process:
        assert process.stdout is not None
        while requests < 3:  # the looks may find some of the files settled before the others
            requests += json.loads(process.stdout.readline())["requests"]
        process.send_signal(signal.SIGKILL)
    write_request(served / "later.npz", skewed(rng))
    with watching(served, own_plan) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert (said["decision"], said["requests"], said["unseen"]) == ("waiting", 1, 4)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
