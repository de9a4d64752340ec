"""Ctrl-C during planning: a real run ends soon and writes its plan, at whatever moment it is pressed; pressed twice it
ends at once; and every search ends by itself once its token is asked."""

import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from random_problems import request_experts, small_problem

from optimizer.interrupts import Cancel
from optimizer.planning.candidates import (
    EvenSearch,
    SearchShare,
    SplitSearch,
    seeds,
    shorten,
    split_at_best,
    split_evenly,
)
from optimizer.planning.options import SolveOptions, silent
from optimizer.planning.plan_file import read_plan
from optimizer.search.latency import LatencyPrices
from optimizer.search.multistart import latency_goal
from optimizer.search.ring_state import RingDemand
from optimizer.search.stop import Deadline, SearchBudget

ROOT = Path(__file__).resolve().parents[2]
LONG = ("--time-limit", "60")
"""A limit that a run which does not hear Ctrl-C takes far longer than `PATIENCE` to reach."""

PATIENCE = 30.0  # seconds in which a run must have ended; it takes about one where the machine has nothing else to do
START = 600.0  # seconds in which a run must have begun to search, kernels compiled
VARIANTS = {
    "all searches": (),
    "annealing": ("--routing", "optimal", "--search", "annealing"),
    "neighbourhoods": ("--routing", "optimal", "--search", "lns"),
    "descents": ("--routing", "even-source"),
    "tabu": ("--routing", "even-source", "--search", "tabu"),
}
AFTER_SEEDS = ("formulation", "descent", "tabu", "latency", "annealing", "lns")
"""Stages that progress tells once there is a complete plan."""

MOMENTS = np.random.default_rng(20).uniform(0, 1.5, 20).round(3).tolist()
"""Seconds from the first of these stages to Ctrl-C."""


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of ninety batches of 32 tokens, for which every kernel is compiled."""
    file = tmp_path_factory.mktemp("interrupted") / "batches.npz"
    rng = np.random.default_rng(4)
    np.savez(file, experts=request_experts(rng, 90 * 32, 1, 16, 4).reshape(90, 32, 4))
    for variant in ("all searches", "neighbourhoods", "tabu"):
        subprocess.run(command(file, variant, file.parent / "warm.json", "--iterations", "2000"), cwd=ROOT, check=True)
    return file


def command(batches: Path, variant: str, plan: Path, *more: str) -> list[str]:
    """The command line that plans these batches for eight devices."""
    asked = ("--layer", "0", "--mesh", "4x2", "--slots", "4", *VARIANTS[variant], "-o", str(plan), *more)
    return [sys.executable, "-m", "cli", "solve", "--batches", str(batches), *asked]


class WatchedRun:
    """A run whose progress is read from the terminal that it believes to write to."""

    def __init__(self, arguments: list[str]) -> None:
        self._ours, theirs = pty.openpty()
        known = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
        self.process = subprocess.Popen(arguments, cwd=ROOT, env=known, stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        self.searching = threading.Event()
        self.said = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # that the other end is closed
            while told := os.read(self._ours, 4096):
                self.said += told.decode(errors="replace")
                if any(stage in self.said for stage in AFTER_SEEDS):
                    self.searching.set()
        self.searching.set()

    def press(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def ended(self) -> int:
        """The exit code. Raises TimeoutExpired where the run goes on."""
        code = self.process.wait(PATIENCE)
        self._reader.join()
        return code

    def close(self) -> None:
        """End it, however it is."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._ours)


@pytest.fixture
def start(batches: Path, tmp_path: Path) -> Iterator[Callable[[str], WatchedRun]]:
    """Starts a run that writes plan.json, and returns it once it has a complete plan and is searching."""
    runs: list[WatchedRun] = []

    def started(variant: str) -> WatchedRun:
        runs.append(WatchedRun(command(batches, variant, tmp_path / "plan.json", *LONG)))
        assert runs[-1].searching.wait(START)
        assert runs[-1].process.poll() is None, runs[-1].said
        return runs[-1]

    yield started
    for run in runs:
        run.close()


@pytest.mark.parametrize(("number", "seconds"), list(enumerate(MOMENTS)))
def test_ctrl_c_ends_a_run_with_its_plan(
    number: int, seconds: float, start: Callable[[str], WatchedRun], tmp_path: Path
) -> None:
    run = start(list(VARIANTS)[number % len(VARIANTS)])
    threading.Event().wait(seconds)
    run.press()
    assert run.ended() == 0, run.said
    assert sorted(read_plan(tmp_path / "plan.json").layers) == [0]


def test_ctrl_c_twice_ends_a_run_at_once(start: Callable[[str], WatchedRun], tmp_path: Path) -> None:
    """It has no plan then, unless a whole one was written before the second time, which may come while it prints."""
    run = start("annealing")
    run.press()
    threading.Event().wait(0.05)  # so that the first is heard before the second
    run.press()
    ended, plan = run.ended(), tmp_path / "plan.json"
    assert ended == 0 or (ended == 1 and "Aborted!" in run.said), run.said
    assert plan.exists() or ended == 1, run.said
    assert not plan.exists() or sorted(read_plan(plan).layers) == [0]


class AskedAfter(Cancel):
    """A token that counts how often somebody looks at it, and is asked after some times."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.left = looks

    @property
    def asked(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("looks", [0, 1, 5, 30])
@pytest.mark.parametrize("search", ["descent", "tabu", "annealing", "lns", "latency"])
def test_every_search_ends_once_its_token_is_asked(
    search: EvenSearch | SplitSearch | Literal["latency"], looks: int
) -> None:
    """Nothing else would end it."""
    problem, sets = small_problem(11, rows=4, cols=2, slots=3, routed=14, top_k=4)
    found = list(seeds(problem, 0))
    spell = SearchShare(SearchBudget(Deadline(1e9, cancel=AskedAfter(looks)), 1e9), 0, 2, silent)
    if search == "latency":
        demand = RingDemand.of(sets.train, problem.network, problem.model.experts)
        prices = LatencyPrices(np.array([1.0, 1.0, 1.0]), 1.0)
        passed = shorten(problem, found[0].placement, demand, prices, spell, lambda placement: True, SolveOptions())
    elif search == "descent" or search == "tabu":
        passed = list(split_evenly(problem, latency_goal(problem, sets.train), found, search, spell))
    else:
        passed = split_at_best(problem, found[0].placement, True, None, search, spell, SolveOptions())
    assert all(problem.violations(placement) == [] for placement in passed)
