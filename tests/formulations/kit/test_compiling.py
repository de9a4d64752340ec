"""Kernels are compiled by one process at a time, and only as long as somebody waits for them."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numba
import numpy as np
import pytest

from formulations.kit.compiling import CompilationEnded, compiled_by_one, compiling_until, same_for_integers

PROCESSES = multiprocessing.get_context("spawn")


def doubled(x: int) -> int:
    """What the processes compile."""
    return 2 * x


def compiled_when_all_are_ready(folder: Path, ready: Barrier, known: "multiprocessing.Queue[int]") -> None:
    """Compile `doubled` at the same time as another process, and tell how often its machine code was read from disk."""
    numba.config.CACHE_DIR = str(folder)
    function = compiled_by_one(numba.njit(cache=True)(doubled), folder)
    ready.wait()
    assert function(21) == 42
    known.put(sum(function.stats.cache_hits.values()))


@pytest.mark.slow
def test_one_of_two_processes_compiles_and_the_other_reads(tmp_path: Path) -> None:
    ready, known = PROCESSES.Barrier(2), PROCESSES.Queue()
    both = [PROCESSES.Process(target=compiled_when_all_are_ready, args=(tmp_path, ready, known)) for _ in range(2)]
    for process in both:
        process.start()
    hits = sorted(known.get(timeout=60) for _ in both)
    for process in both:
        process.join()
    assert hits == [0, 1]


def test_a_kernel_is_compiled_once_for_integers_of_all_widths_and_constants() -> None:
    function = same_for_integers(numba.njit(doubled))
    calling = numba.njit(lambda ids: function(1) + function(2) + function(len(ids)) + function(ids[0]))
    assert calling(np.array([2**15], dtype=np.uint16)) == 2 * (1 + 2 + 1 + 2**15)
    assert function(np.int32(2**31 - 1)) == 2**32 - 2
    assert function.signatures == [(numba.int64,)]


def hold(file: Path, held: "multiprocessing.Queue[bool]") -> None:
    """Hold a lock until this process is killed."""
    fcntl = pytest.importorskip("fcntl")
    with open(file, "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        held.put(True)
        time.sleep(600)


def test_a_process_that_waits_can_be_cancelled_and_goes_on_when_the_other_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    function = compiled_by_one(numba.njit(doubled), tmp_path)
    held = PROCESSES.Queue()
    other = PROCESSES.Process(
        target=hold, args=(tmp_path / f"{doubled.__module__}.doubled-{doubled.__code__.co_firstlineno}.lock", held)
    )
    other.start()
    assert held.get(timeout=60)
    with pytest.raises(CompilationEnded), compiling_until(lambda: True):
        function(1)
    other.kill()
    assert function(1) == 2
    other.join()


def one_more(before: Callable[[int], int], folder: Path) -> Callable[[int], int]:
    """A kernel that adds one to what another gives."""
    added: Callable[[int], int] = compiled_by_one(numba.njit(lambda x: before(x) + 1), folder)
    return added


def test_a_kernel_that_calls_one_from_its_own_line_does_not_wait_for_itself(tmp_path: Path) -> None:
    inner = one_more(numba.njit(doubled), tmp_path)
    assert one_more(inner, tmp_path)(3) == 8
    assert len(list(tmp_path.iterdir())) == 1, "they share a lock"


def test_without_a_folder_kernels_are_compiled_all_the_same(tmp_path: Path) -> None:
    assert compiled_by_one(numba.njit(doubled), tmp_path / "absent")(4) == 8


@pytest.mark.parametrize("compiled", [0, 1, 2])
def test_a_chain_of_kernels_is_given_up_between_two_of_them_and_compiled_when_it_is_called_again(compiled: int) -> None:
    first = numba.njit(lambda x: x + 1)
    second = numba.njit(lambda x: 2 * first(x))
    third = numba.njit(lambda x: second(x) * second(x))
    looks: list[bool] = []

    def cancelled() -> bool:
        looks.append(len(looks) >= compiled)
        return looks[-1]

    with pytest.raises(CompilationEnded), compiling_until(cancelled):
        third(3)
    assert looks == [False] * compiled + [True]
    with compiling_until(lambda: False):
        assert third(3) == 64
    with compiling_until(lambda: True):
        assert third(4) == 100  # what is compiled needs nobody's patience
