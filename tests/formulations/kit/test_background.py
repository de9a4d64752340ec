"""A solve in the background gives its answer and its errors, and is left behind once the caller cancels."""

import threading

import pytest
from cancelling import CancelledAfter

from formulations.kit.background import unless_cancelled
from formulations.kit.solver import Limits


def test_what_is_found_comes_back() -> None:
    assert unless_cancelled(lambda: 7, Limits(seconds=60)) == 7


def test_what_is_raised_is_raised_in_the_thread_of_the_caller() -> None:
    def fails() -> None:
        raise ValueError("malformed")

    with pytest.raises(ValueError, match="malformed"):
        unless_cancelled(fails, Limits(seconds=60))


def test_a_solve_that_hears_nothing_is_left_behind() -> None:
    released = threading.Event()
    cancelled = CancelledAfter(2)
    assert unless_cancelled(released.wait, Limits(seconds=60, cancelled=cancelled)) is None
    assert cancelled.looks_after == 1
    released.set()
