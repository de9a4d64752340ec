"""Ctrl-C, raised where it does no harm."""

import _thread
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

UNSAFE = ("numba.", "llvmlite.", "ctypes")  # numba calls the last one, too, where a kernel takes a random generator
RETRY_SECONDS = 0.05


def interrupt(number: int, frame: FrameType | None) -> None:
    """A handler of SIGINT: raises KeyboardInterrupt, but not while numba is at work, where it tries again in a moment.

    The compiler's callbacks lose what is raised in them, and numba goes on with kernels that are half loaded, or with
    arguments that it could not read, and so ends the process.
    """
    if not _unsafe(frame):
        raise KeyboardInterrupt
    again = threading.Timer(RETRY_SECONDS, _thread.interrupt_main)
    again.daemon = True
    again.start()


def _unsafe(frame: FrameType | None) -> bool:
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith(UNSAFE):
            return True
        frame = frame.f_back
    return False


@contextmanager
def heard_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle SIGINT so, where this thread may say how."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
