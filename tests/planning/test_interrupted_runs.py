"""Ctrl-C during planning: a real run ends soon and writes its plan, at whatever moment it is pressed; pressed twice it
ends at once; and every search ends by itself once its token is asked."""

import multiprocessing
import os
import pty
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from random_problems import request_experts, small_problem
from running_commands import run, run_on_terminal

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

MOMENTS = np.random.default_rng(20).uniform(0, 1.5, 10).round(3).tolist()
"""Seconds from the first of these stages to Ctrl-C."""

Begin = SpawnContext | ForkServerContext
NEW, FORKED = multiprocessing.get_context("spawn"), multiprocessing.get_context("forkserver")
IMPORTED = ["cli", "optimizer.api.results", "optimizer.report.rendering", "rich.progress"]
"""What a forked process finds imported, which is the larger part of a second of work; it loads its kernels itself."""


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of ninety batches of 32 tokens, for which every kernel is compiled."""
    file = tmp_path_factory.mktemp("interrupted") / "batches.npz"
    rng = np.random.default_rng(4)
    np.savez(file, experts=request_experts(rng, 90 * 32, 1, 16, 4).reshape(90, 32, 4))
    for variant in ("all searches", "neighbourhoods", "tabu"):
        compiled = run(*command(file, variant, file.parent / "warm.json", "--iterations", "2000"))
        assert compiled.exit_code == 0, compiled.output
    FORKED.set_forkserver_preload(IMPORTED)
    return file


def command(batches: Path, variant: str, plan: Path, *more: str) -> list[str]:
    """The arguments of a run that plans these batches for eight devices."""
    asked = ("--layer", "0", "--mesh", "4x2", "--slots", "4", *VARIANTS[variant], "-o", str(plan), *more)
    return ["solve", "--batches", str(batches), *asked]


class WatchedRun:
    """A run in a process of its own, whose progress is read from the terminal that it believes to write to."""

    def __init__(self, begin: Begin, arguments: list[str]) -> None:
        self._ours, theirs = pty.openpty()
        self._held = ExitStack()
        self._held.callback(os.close, theirs)  # not before the process has opened it too
        known = (os.ttyname(theirs), arguments)
        self.process = begin.Process(target=run_on_terminal, args=known)
        self.process.start()
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

    def wait_for_search(self) -> None:
        """Return once it has a complete plan and is searching."""
        until = time.monotonic() + START
        while not self.searching.wait(0.1):
            assert self.process.is_alive(), self.said
            assert time.monotonic() < until, self.said

    def press(self) -> None:
        """Press Ctrl-C, which a run no longer hears that has proven its plan the best, and ended."""
        assert self.process.pid is not None
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGINT)

    def ended(self) -> int | None:
        """The exit code, after which all is read that was said; None where the run goes on."""
        self.process.join(PATIENCE)
        if self.process.exitcode is not None:
            self._held.close()
            self._reader.join()
        return self.process.exitcode

    def close(self) -> None:
        """End it, however it is."""
        self.process.kill()
        self.process.join()
        self._held.close()
        self._reader.join()
        os.close(self._ours)


@pytest.fixture
def start(batches: Path, tmp_path: Path) -> Iterator[Callable[[str, Begin], WatchedRun]]:
    """Starts a run that writes plan.json, and returns it once it has a complete plan and is searching."""
    runs: list[WatchedRun] = []

    def started(variant: str, begin: Begin) -> WatchedRun:
        runs.append(WatchedRun(begin, command(batches, variant, tmp_path / "plan.json", *LONG)))
        runs[-1].wait_for_search()
        assert runs[-1].process.is_alive(), runs[-1].said
        return runs[-1]

    yield started
    for each in runs:
        each.close()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "seconds"), list(enumerate(MOMENTS)))
def test_ctrl_c_ends_a_run_with_its_plan(
    number: int, seconds: float, start: Callable[[str, Begin], WatchedRun], tmp_path: Path
) -> None:
    """The first run has a new interpreter, as a user's has; the others are forked after the imports."""
    watched = start(list(VARIANTS)[number % len(VARIANTS)], NEW if number == 0 else FORKED)
    threading.Event().wait(seconds)
    watched.press()
    assert watched.ended() == 0, watched.said
    assert sorted(read_plan(tmp_path / "plan.json").layers) == [0]


@pytest.mark.slow
def test_ctrl_c_twice_ends_a_run_at_once(start: Callable[[str, Begin], WatchedRun], tmp_path: Path) -> None:
    """It has no plan then, unless a whole one was written before the second time, which may come while it prints."""
    watched = start("annealing", NEW)
    watched.press()
    threading.Event().wait(0.05)  # so that the first is heard before the second
    watched.press()
    ended, plan = watched.ended(), tmp_path / "plan.json"
    assert ended == 0 or (ended == 1 and "Aborted!" in watched.said), watched.said
    assert plan.exists() or ended == 1, watched.said
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
        units = problem.cost.tiles(problem.load)
        passed = split_at_best(problem, found[0].placement, units, None, search, spell, SolveOptions())
    assert all(problem.violations(placement) == [] for placement in passed)
