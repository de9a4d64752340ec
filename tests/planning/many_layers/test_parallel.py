"""Tasks in worker processes: all are done, each once, and what happens where processes die or somebody stops them."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path

import pytest
from dying_workers import (
    Job,
    square,
    square_once_asked_to_stop,
    square_or_be_interrupted,
    square_or_die,
    square_or_die_once,
    square_or_fail,
    wait_for,
    work_on_deafly,
)
from joblib.externals.loky import get_reusable_executor

from optimizer.errors import LostWorkerError
from optimizer.interrupts import asking, heard_by
from optimizer.planning.many_layers.parallel import in_parallel
from optimizer.planning.many_layers.run import Run
from optimizer.planning.many_layers.workers import Workers
from optimizer.search.stop import Deadline

pytestmark = pytest.mark.slow

WEIGHTS = {0: 2.0, 1: 1.0, 2: 5.0, 3: 4.0, 4: 3.0}
SQUARES = {0: 0, 1: 1, 2: 4, 3: 9, 4: 16}
IN_TURN = dict.fromkeys(SQUARES, 1.0)


@pytest.fixture(scope="module", autouse=True)
def _no_workers_left() -> Iterator[None]:
    yield
    get_reusable_executor().shutdown(wait=True, kill_workers=True)


class Bench:
    """Runs `in_parallel` with jobs that leave files, as a command would, and remembers what it was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[int] = []
        self.kept: list[int] = []
        self.said: list[tuple[str, float]] = []
        self.run: Run | None = None

    def job(self, layer: int) -> Job:
        self.made.append(layer)
        return Job(layer, self.folder)

    def keep(self, layer: int, part: int) -> None:
        assert part == SQUARES[layer]
        self.kept.append(layer)

    def __call__(self, jobs: int, plan: Callable[[Job, Deadline], int], weights: dict[int, float]) -> dict[int, int]:
        with Workers(jobs).ready() as crew:
            self.run = Run(crew, Deadline(1e5), lambda stage, share: self.said.append((stage, share)))
            with heard_by(asking(self.run.cancel)):
                return in_parallel(self.run, weights, self.job, plan, self.keep)

    def begun(self) -> dict[int, int]:
        times = {layer: Job(layer, self.folder).begun() for layer in SQUARES}
        return {layer: number for layer, number in times.items() if number}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_all_tasks_are_done_once_the_heaviest_first(bench: Bench, jobs: int) -> None:
    assert bench(jobs, square, WEIGHTS) == SQUARES
    assert bench.begun() == dict.fromkeys(SQUARES, 1)
    assert bench.made == [2, 3, 4, 0, 1]
    assert sorted(bench.kept) == [0, 1, 2, 3, 4]
    assert [share for _, share in bench.said] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert bench.said[1][0].startswith("2 of 5 layers")


@pytest.mark.parametrize("jobs", [1, 2])
def test_nothing_to_do(bench: Bench, jobs: int) -> None:
    assert bench(jobs, square, {}) == {}


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_cannot_be_done_ends_the_run(bench: Bench, jobs: int) -> None:
    with pytest.raises(ArithmeticError, match="three"):
        bench(jobs, square_or_fail, IN_TURN)
    assert set(bench.kept) <= {0, 1, 2, 4}
    assert jobs > 1 or bench.kept == [0, 1, 2]


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_cannot_be_kept_ends_the_run_without_further_words(
    bench: Bench, jobs: int, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    def full(layer: int, part: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(bench, "keep", full)
    with pytest.raises(OSError, match="disk full"):
        bench(jobs, square, IN_TURN)
    assert list(recwarn) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_task_has_no_result_and_ends_no_other(bench: Bench, jobs: int) -> None:
    assert bench(jobs, square_or_be_interrupted, IN_TURN) == {0: 0, 1: 1, 2: 4, 4: 16}
    assert sorted(bench.kept) == [0, 1, 2, 4]


def test_no_task_begins_after_ctrl_c_and_what_ends_then_is_not_kept(bench: Bench) -> None:
    def tell() -> None:
        wait_for(lambda: bench.kept == [0] and len(bench.begun()) == 3)
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: bench.run is not None and bench.run.cancel.asked)
        (bench.folder / "asked").touch()

    teller = threading.Thread(target=tell)
    teller.start()
    found = bench(2, square_once_asked_to_stop, IN_TURN)
    teller.join()
    assert found == {0: 0, 1: 1, 2: 4}
    assert bench.begun() == {0: 1, 1: 1, 2: 1}
    assert set(bench.kept) <= {0}


def test_a_second_ctrl_c_does_not_wait(bench: Bench) -> None:
    def press_twice() -> None:
        wait_for(lambda: bench.kept == [0] and len(bench.begun()) == 3 and len(active_children()) >= 2)
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: bench.run is not None and bench.run.cancel.asked)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press_twice)
    presser.start()
    found = bench(2, work_on_deafly, IN_TURN)
    presser.join()
    assert found == {0: 0}
    wait_for(lambda: not active_children())


def test_a_lost_worker_is_made_up_for(bench: Bench) -> None:
    assert bench(2, square_or_die_once, IN_TURN) == SQUARES
    assert bench.begun()[3] == 2
    assert sorted(bench.kept) == [0, 1, 2, 3, 4]


def test_workers_that_die_again_and_again_fail_the_run_and_lose_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = bench.keep

    def keep_all_others(layer: int, part: int) -> None:
        keep(layer, part)
        if len(bench.kept) == 4:
            (bench.folder / "others are kept").touch()

    monkeypatch.setattr(bench, "keep", keep_all_others)
    monkeypatch.setattr("optimizer.planning.many_layers.parallel.TRIES", 2)
    with pytest.raises(LostWorkerError, match="take fewer jobs"):
        bench(2, square_or_die, IN_TURN | {3: 0.5})  # last, as it waits for the others
    assert sorted(bench.kept) == [0, 1, 2, 4]
    assert bench.begun() == {0: 1, 1: 1, 2: 1, 3: 2, 4: 1}
