"""Small problems drawn at random, and the real traces where they are present."""

import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent / "helpers"))  # tests import their oracles and builders by name

from random_problems import write_traces
from running_commands import solve
from small_model import with_few_batches

settings.register_profile("moeplan", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("moeplan"), max_examples=30, derandomize=True)
settings.register_profile("thorough", settings.get_profile("moeplan"), max_examples=1000)
settings.load_profile("quick")  # the same examples in every run; `--hypothesis-profile thorough` draws many others

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
"""Containers often set it. Each process that tests start would then compile its modules anew, in a quarter of a second,
and each worker of pytest-xdist all tests."""

LIGHT = {Path(__file__).resolve().parent / room for room in ("formulations", "statistics", "traces")}
"""Folders of tests that need few kernels of machine code."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What `-n auto` means: two workers more than there are cores, as tests wait for processes and for kernels that
    another worker compiles, a sixth of the time."""
    return (os.cpu_count() or 1) + 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the light tests where all workers of pytest-xdist but one begin, each of which is first given a quarter of
    its share of the tests. So one compiles the kernels, which takes a minute, while the others have tests that need
    few, and find them compiled later; in the order of the files they would wait for them."""
    light = [item for item in items if LIGHT & {*item.path.parents}]
    others = [item for item in items if not LIGHT & {*item.path.parents}]
    first = len(items) // (4 * int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    items[:] = others[:first] + light + others[first:]


@pytest.fixture
def another_process() -> Iterator[Executor]:
    """A Python that was started anew, which knows nothing of what this one has done."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        yield process


@pytest.fixture(autouse=True)
def _width_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables and sentences are as wide as where nobody gives a width, whatever terminal the tests run on."""
    monkeypatch.delenv("COLUMNS", raising=False)


REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def real_traces() -> Path:
    """The folder of real routing data, which the project does not ship."""
    if not REAL.is_dir():
        pytest.skip("the real routing traces (shared/data beside the checkout) are absent")
    return REAL


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(7)


@pytest.fixture
def traces(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A folder with twelve small requests."""
    return write_traces(tmp_path / "traces", rng)


@pytest.fixture(scope="session")
def plan_of_traces(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of the plan that `solve` makes from `traces`, made once."""
    with pytest.MonkeyPatch.context() as patch:
        with_few_batches(patch)
        plan, result = solve(write_traces(tmp_path_factory.mktemp("solved") / "traces", np.random.default_rng(7)))
    assert result.exit_code == 0, result.output
    return plan.read_text()


@pytest.fixture
def plan(traces: Path, plan_of_traces: str) -> Path:
    """A file with the plan that `solve` makes from `traces`, beside them."""
    file = traces.parent / "plan.json"
    file.write_text(plan_of_traces)
    return file


@pytest.fixture
def few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace sources make few batches, so that a command takes a second."""
    with_few_batches(monkeypatch)
