"""Helpers of a first run: who is given what, when there are any, and that none outlives the run."""

from pathlib import Path
from subprocess import Popen

import pytest

from formulations.kit import kernels
from optimizer.domain.cost import Cost
from optimizer.domain.hardware import Hardware
from optimizer.domain.model import Model
from optimizer.planning import compile_ahead
from optimizer.planning.compile_ahead import LEAST_SECONDS, WARM, Little, compiled_ahead, is_first_run
from optimizer.planning.options import SolveOptions

MODEL = Model("small", 8, 1, 2)
MACHINE = Hardware.of(mesh="2x2")
COST: Cost = MACHINE.cost
SLEEP = "import time; time.sleep(600)"


def little(*routings: str) -> Little:
    """What a helper does for these policies."""
    return Little(MODEL, MACHINE.mesh, COST, SolveOptions(routings=routings))


@pytest.fixture
def first_run(monkeypatch: pytest.MonkeyPatch) -> list[Popen[bytes]]:
    """As if nothing were compiled yet, on three cores; the helpers, which sleep."""
    started: list[Popen[bytes]] = []
    start = compile_ahead._started

    def remembered(part: Little) -> Popen[bytes]:
        started.append(start(part))
        return started[-1]

    monkeypatch.setattr(compile_ahead, "CODE", SLEEP)
    monkeypatch.setattr(compile_ahead, "_started", remembered)
    monkeypatch.setattr(compile_ahead, "is_first_run", lambda: True)
    monkeypatch.setattr(compile_ahead, "cpu_count", lambda: 3)
    return started


def test_helpers_share_the_policies_out_and_begin_with_the_last() -> None:
    parts = little("even-source", "nearest", "optimal").parts(2)
    assert [part.options.routings for part in parts] == [("optimal", "even-source"), ("nearest",)]


@pytest.mark.slow
def test_a_helper_does_its_work_and_ends() -> None:
    """A fault in it would go unseen, as nobody reads what it says."""
    helper = compile_ahead._started(little("even-source"))
    assert helper.wait(timeout=600) == 0


def test_helpers_run_beside_a_first_run_and_end_with_it(
    first_run: list[Popen[bytes]],
) -> None:
    with compiled_ahead(MODEL, MACHINE.mesh, COST, SolveOptions()):
        assert [helper.poll() for helper in first_run] == [None, None]
    assert all(helper.poll() is not None for helper in first_run)


def test_a_helper_that_cannot_be_told_its_work_is_done_without(
    first_run: list[Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_ahead, "CODE", "import os; os.close(0)")
    monkeypatch.setattr("pickle.dumps", lambda part: bytes(1 << 20))  # more than a pipe takes at once
    with compiled_ahead(MODEL, MACHINE.mesh, COST, SolveOptions()):
        assert len(first_run) == 2


@pytest.mark.parametrize(
    "options", [SolveOptions(iterations=100), SolveOptions(time_limit=LEAST_SECONDS - 1)], ids=["iterations", "short"]
)
def test_runs_that_would_gain_nothing_have_no_helpers(options: SolveOptions, first_run: list[Popen[bytes]]) -> None:
    with compiled_ahead(MODEL, MACHINE.mesh, COST, options):
        assert first_run == []


def test_a_run_is_a_first_one_until_kernels_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "FOLDER", tmp_path)
    (tmp_path / "planning").mkdir()
    for number in range(WARM):
        assert is_first_run()
        (tmp_path / "planning" / f"{number}.nbc").touch()
    assert not is_first_run()
    monkeypatch.setattr(kernels, "FOLDER", None)
    assert not is_first_run()
