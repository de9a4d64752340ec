"""Solves that their caller can leave behind, as HiGHS and other libraries cannot be stopped once they run."""

import threading
from collections.abc import Callable
from typing import TypeVar

from formulations.kit.solver import LOOK_SECONDS, Limits

Found = TypeVar("Found")


def unless_cancelled(solve: Callable[[], Found], limits: Limits) -> Found | None:
    """What `solve` returns, or None as soon as the caller of these limits cancels; what `solve` raises is raised.

    A solve that is left behind goes on in its thread until its own time limit, and what it finds is lost. It must
    release Python's lock while it computes, as HiGHS does, so that cancelling is noticed.
    """
    found: list[Found] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            found.append(solve())
        except BaseException as error:  # handed on to the caller's thread, compilations that are given up too
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(LOOK_SECONDS)
        if limits.cancelled():
            return None
    if failed:
        raise failed[0]
    return found[0]
