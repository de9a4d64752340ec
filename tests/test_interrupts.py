"""Ctrl-C asks a token first, is raised where it does no harm, and ends a run at once where nothing is to be kept."""

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from dying_workers import wait_for

from optimizer.interrupts import RETRY_SECONDS, Cancel, asking, heard_by, interrupt

WORKING = """
def work(press, wait):
    press()
    wait()
    done.append(True)
"""


def work_of(module: str) -> tuple[Callable[..., None], list[bool]]:
    """A function of a module of this name, that presses Ctrl-C, goes on, and says that it came to its end."""
    names: dict[str, Any] = {"__name__": module, "done": []}
    exec(WORKING, names)
    return names["work"], names["done"]


def press() -> None:
    """Press Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def long_enough_to_try_again() -> None:
    """Wait until the handler has tried again."""
    time.sleep(3 * RETRY_SECONDS)


def for_ever() -> None:
    """Wait for nothing that ever happens."""
    wait_for(lambda: False)


def test_work_is_interrupted_at_once() -> None:
    work, done = work_of("optimizer.search")
    with heard_by(interrupt), pytest.raises(KeyboardInterrupt):
        work(press, for_ever)
    assert done == []


@pytest.mark.parametrize("module", ["numba.core.caching", "llvmlite.binding.executionengine", "ctypes"])
def test_the_compiler_comes_to_its_end_first(module: str) -> None:
    work, done = work_of(module)

    def compile_and_work() -> None:
        work(press, long_enough_to_try_again)
        for_ever()

    with heard_by(interrupt), pytest.raises(KeyboardInterrupt):
        compile_and_work()
    assert done == [True]


def test_what_the_compiler_calls_is_the_compilers() -> None:
    """The frame of the callback is not its own."""
    work, done = work_of("numba.core.compiler")
    called, ended = work_of("optimizer.typing")

    def compile_and_work() -> None:
        work(lambda: called(press, long_enough_to_try_again), lambda: None)
        for_ever()

    with heard_by(interrupt), pytest.raises(KeyboardInterrupt):
        compile_and_work()
    assert (done, ended) == ([True], [True])


def test_ctrl_c_asks_a_token_that_is_heeded_and_the_second_time_interrupts() -> None:
    cancel = Cancel()
    cancel.heed()
    with heard_by(asking(cancel)):
        press()
        wait_for(lambda: cancel.asked)
        with pytest.raises(KeyboardInterrupt):
            work_of("optimizer.search")[0](press, for_ever)


@pytest.mark.parametrize("before", [False, True])
def test_a_token_that_nobody_heeds_does_not_keep_ctrl_c_from_interrupting(before: bool) -> None:
    """Whether nobody heeded it yet, or nobody does any more."""
    cancel = Cancel()
    if before:
        cancel.heed()
        cancel.heed(False)
    with heard_by(asking(cancel)), pytest.raises(KeyboardInterrupt):
        work_of("optimizer.search")[0](press, for_ever)
    assert cancel.asked


def test_a_token_in_another_process_is_one_that_nobody_has_asked_and_the_same_for_all_who_share_it() -> None:
    cancel = Cancel()
    cancel.ask()
    one, same = pickle.loads(pickle.dumps((cancel, cancel)))
    assert one is same
    assert not one.asked
    one.ask()
    assert same.asked


def test_the_handler_before_comes_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with heard_by(interrupt):
        assert signal.getsignal(signal.SIGINT) is interrupt
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_the_handler_alone() -> None:
    seen = []

    def look() -> None:
        with heard_by(interrupt):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
