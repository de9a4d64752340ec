"""Layers planned on a dask cluster: a real scheduler and two worker processes of this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from dying_planners import plan_layer_or_die_once
from dying_workers import MARKS, PATIENCE, Job, square_or_die, wait_for
from running_commands import fault, other_notes
from running_commands import run as command
from small_model import solving, with_few_batches, write_corpus

from optimizer.errors import LostWorkerError
from optimizer.planning.many_layers.parallel import in_parallel
from optimizer.planning.many_layers.run import Run
from optimizer.planning.many_layers.workers import Workers
from optimizer.search.stop import Deadline

distributed = pytest.importorskip("distributed", reason="the [cluster] extra is not installed")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
QUIET = ("--host", "127.0.0.1", "--no-dashboard")


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        with_few_batches(patch)
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("cluster") / "traces")


@pytest.fixture(scope="module")
def unbroken(corpus: Path) -> bytes:
    """The plan of a run in one process."""
    plan = corpus.parent / "plan.json"
    assert command(*solving(corpus, plan, "--jobs", 1)).exit_code == 0
    return plan.read_bytes()


@contextmanager
def started(name: str, folder: Path, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process of dask, until the end of the block."""
    (folder / "marks").mkdir(exist_ok=True)
    known = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'helpers'}", MARKS: str(folder / "marks")}
    command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *QUIET, *map(str, arguments)]
    with open(folder / f"{name}.log", "ab") as log, subprocess.Popen(
        command, cwd=folder, env=os.environ | known, stdout=log, stderr=log
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


class Cluster:
    """A scheduler, and what was started for it."""

    def __init__(self, folder: Path, processes: ExitStack) -> None:
        self.folder, self.processes = folder, processes
        self.file = folder / "scheduler.json"
        more = ("--port", 0, "--scheduler-file", self.file, "--idle-timeout", f"{PATIENCE} seconds")
        processes.enter_context(started("scheduler", folder, *more))
        wait_for(lambda: self.file.exists() and self.file.read_text().endswith("}"))
        self.address: str = json.loads(self.file.read_text())["address"]

    def add_workers(self, number: int) -> None:
        """Of one thread each, and wait for them."""
        more = ("--scheduler-file", self.file, "--no-nanny", "--nthreads", 1, "--death-timeout", PATIENCE)
        for _ in range(number):
            self.processes.enter_context(started("worker", self.folder, *more))
        with distributed.Client(self.address) as client:
            wait_for(lambda: len(client.nthreads()) >= number)


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    with ExitStack() as processes:
        yield Cluster(folder, processes)


def test_a_plan_is_the_same_from_a_cluster_whose_worker_is_killed(
    corpus: Path, unbroken: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, work = tmp_path / "plan.json", tmp_path / "work"
    with cluster(tmp_path) as dask:
        arguments = solving(corpus, plan, "--cluster", dask.address)
        assert "the scheduler has no workers" in fault(command(*arguments))
        dask.add_workers(2)
        result = command(*arguments, "--work", work)
        assert (result.exit_code, other_notes(result.stderr)) == (0, "Note: 10 requests\n")
        assert plan.read_bytes() == unbroken
        assert len(list(work.glob("layer-*.json"))) == 3

        monkeypatch.setattr("optimizer.planning.many_layers.plan_model.plan_layer", plan_layer_or_die_once)
        plan.unlink()
        result = command(*arguments)
        assert (tmp_path / "marks" / "died").exists()
        assert (result.exit_code, other_notes(result.stderr)) == (0, "Note: 10 requests\n")
        assert plan.read_bytes() == unbroken


def test_a_cluster_without_workers_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizer.planning.many_layers.parallel.MOST_LATE", 0.0)
    monkeypatch.setattr("optimizer.planning.many_layers.parallel.TRIES", 1)
    kept: dict[int, int] = {}

    def keep(layer: int, part: int) -> None:
        kept[layer] = part
        if len(kept) == 2:
            (tmp_path / "others are kept").touch()

    with cluster(tmp_path) as dask:
        dask.add_workers(2)
        with Workers(cluster=dask.address).ready() as crew:
            run = Run(crew, Deadline(5.0), lambda stage, share: None)
            with pytest.raises(LostWorkerError, match="of the cluster"):
                in_parallel(run, {1: 1.0, 2: 1.0, 3: 0.5}, lambda layer: Job(layer, tmp_path), square_or_die, keep)
    assert kept.items() <= {1: 1, 2: 4}.items()  # a slow machine may be given up before it has begun
