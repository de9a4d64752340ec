"""Runs that are killed, stopped, or lose a worker or the disk: nothing that was finished is lost, and no plan is half.

Every run is compared with an unbroken one, byte for byte.
"""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
from dying_planners import plan_layer_or_die
from dying_workers import MARKS, PATIENCE
from joblib.externals.loky import get_reusable_executor
from running_commands import fault, other_notes, run
from small_model import solving, with_few_batches, write_corpus

from optimizer.planning.many_layers.work import WorkFolder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
SECONDS_ONLY = ("--iterations", str(10**9))


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        with_few_batches(patch)
        yield
    get_reusable_executor().shutdown(wait=True, kill_workers=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("kill") / "traces")


@pytest.fixture(scope="module")
def unbroken(corpus: Path) -> bytes:
    """The plan; its layers are in a folder beside it."""
    plan = corpus.parent / "plan.json"
    assert run(*solving(corpus, plan, "--jobs", 1, "--work", corpus.parent / "work")).exit_code == 0
    return plan.read_bytes()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return tmp_path / "plan.json"


def accident(name: str, arguments: list[str], marks: Path) -> subprocess.CompletedProcess[str]:
    """A run of its own, with its own process group. Ends when all of them have, as they hold its output."""
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "accidents.py"), name, *arguments]
    marks.mkdir(exist_ok=True)
    known = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'helpers'}", MARKS: str(marks)}
    with subprocess.Popen(
        command, env=os.environ | known, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            _end_group(process.pid)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _end_group(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def layers_kept(work: Path) -> list[str]:
    return sorted(file.stem for file in work.glob("layer-*.json"))


def all_whole(folder: Path) -> None:
    for file in folder.glob("*.json"):
        json.loads(file.read_text())
    for file in [*folder.glob("layer-*.json"), *folder.glob("survey.json")]:
        assert run("validate", file).exit_code == 0


@pytest.mark.parametrize(("name", "jobs"), [("killed_after_a_layer", 2), ("killed_in_a_write", 1)])
def test_a_killed_run_is_gone_on_with(
    corpus: Path, unbroken: bytes, work: Path, plan: Path, name: str, jobs: int
) -> None:
    arguments = solving(corpus, plan, "--jobs", jobs, "--work", work)
    assert accident(name, arguments, work.parent / "marks").returncode == -signal.SIGKILL
    assert len(layers_kept(work)) == 1
    assert len(list(work.glob(".*.json.*"))) == (name == "killed_in_a_write")
    assert not plan.exists()
    all_whole(work)
    kept = {name: (work / f"{name}.json").read_bytes() for name in layers_kept(work)}
    assert run(*solving(corpus, plan, "--jobs", 1, "--work", work, "--resume")).exit_code == 0
    assert plan.read_bytes() == unbroken
    assert not list(work.glob(".*.json.*"))
    assert {name: (work / f"{name}.json").read_bytes() for name in kept} == kept
    assert layers_kept(work) == ["layer-0", "layer-1", "layer-2"]


@pytest.fixture
def endless(corpus: Path, unbroken: bytes, work: Path, plan: Path) -> list[str]:
    """How to go on with a run that has planned layer 1, and will not end the others of its own accord."""
    arguments = solving(corpus, plan, *SECONDS_ONLY, "--work", work)
    assert run(*arguments, "--jobs", 1, "--time-limit", 1).exit_code == 0
    for file in (*work.glob("layer-*.json"), *work.glob("clock.json"), plan):
        file.unlink()
    (work / "layer-1.json").write_bytes((corpus.parent / "work" / "layer-1.json").read_bytes())
    return [*arguments, "--jobs", "2", "--resume"]


@pytest.mark.parametrize("name", ["interrupted", "interrupted_twice"])
def test_ctrl_c_ends_with_a_complete_plan(
    endless: list[str], unbroken: bytes, work: Path, plan: Path, name: str
) -> None:
    ended = accident(name, endless, work.parent / "marks")
    assert (ended.returncode, other_notes(ended.stderr)) == (0, "Note: 10 requests\n"), ended.stderr
    assert f"The plan is written to {plan}." in ended.stdout
    assert run("validate", plan).exit_code == 0
    found = json.loads(plan.read_text())["layers"]
    assert found["1"] == json.loads(unbroken)["layers"]["1"]
    methods = {layer: found[layer]["provenance"]["method"] for layer in ("0", "2")}
    assert set(methods.values()) <= {"search", "seed"}
    assert name == "interrupted" or methods == {"0": "seed", "2": "seed"}
    assert layers_kept(work) == ["layer-1"]
    all_whole(work)


def test_a_lost_worker_does_not_change_the_plan(
    corpus: Path, unbroken: bytes, work: Path, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, killed = WorkFolder.keep, list[int]()

    def keep_and_kill(*arguments: Any) -> None:
        keep(*arguments)
        if not killed:
            killed.extend(process.pid for process in active_children() if process.pid is not None)
            for process in killed:
                os.kill(process, signal.SIGKILL)

    monkeypatch.setattr(WorkFolder, "keep", keep_and_kill)
    result = run(*solving(corpus, plan, "--jobs", 2, "--work", work))
    assert result.exit_code == 0, result.output
    assert len(killed) >= 2
    assert plan.read_bytes() == unbroken


def test_workers_that_die_again_and_again_are_a_failed_run(
    corpus: Path, unbroken: bytes, work: Path, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimizer.planning.many_layers.plan_model.plan_layer", plan_layer_or_die)
    monkeypatch.setattr("optimizer.planning.many_layers.parallel.TRIES", 1)
    said = fault(run(*solving(corpus, plan, "--jobs", 2, "--work", work)), 1)
    assert "a worker process died" in said
    assert not plan.exists()
    monkeypatch.undo()
    assert run(*solving(corpus, plan, "--jobs", 1, "--work", work, "--resume")).exit_code == 0
    assert plan.read_bytes() == unbroken


def full_from(write: int) -> Callable[[int], None]:
    """An `fsync` of a disk that has room for so many writes."""
    left, real = [write], os.fsync

    def fsync(file: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    return fsync


@pytest.mark.parametrize("writes", [1, 3, 4, 8])
def test_a_full_disk_loses_nothing_that_was_finished(
    corpus: Path, unbroken: bytes, work: Path, plan: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written are settings, survey, three times a layer and the clock, and the plan."""
    monkeypatch.setattr(os, "fsync", full_from(writes))
    arguments = solving(corpus, plan, "--jobs", 1, "--work", work)
    assert "No space left on device" in fault(run(*arguments), 1)
    assert len([file for file in work.iterdir() if file.name != ".lock"]) == {1: 1, 3: 3, 4: 4, 8: 6}[writes]
    assert not plan.exists()
    all_whole(work)
    monkeypatch.undo()
    assert run(*arguments, "--resume").exit_code == 0
    assert plan.read_bytes() == unbroken


def test_a_quota_leaves_the_plan_that_was_there(corpus: Path, unbroken: bytes, work: Path, plan: Path) -> None:
    """Layers are small enough for it, the plan is not."""
    plan.write_text("older")
    arguments = solving(corpus, plan, "--jobs", 1, "--work", work)
    ended = accident("short_of_room", arguments, work.parent / "marks")
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "File too large" in ended.stderr.strip().splitlines()[-1]
    assert len(ended.stderr.strip().splitlines()) == 1
    assert plan.read_text() == "older"
    assert {file.name for file in plan.parent.iterdir()} == {"marks", "plan.json", "work"}
    assert layers_kept(work) == ["layer-0", "layer-1", "layer-2"]
    assert run(*arguments, "--resume").exit_code == 0
    assert plan.read_bytes() == unbroken
