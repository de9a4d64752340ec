"""How a run is ended early: the token by which it is asked to end, and the handler of Ctrl-C that asks it."""

import _thread
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None]

UNSAFE = ("numba.", "llvmlite.", "ctypes")
"""Modules whose callbacks lose an exception. Numba calls ctypes as well where a kernel takes a random generator."""

RETRY_SECONDS = 0.05  # short for somebody who waits, long for the compiler, most of whose callbacks are over by then


class Cancel:
    """The token by which whoever waits for a plan asks its searches to end as if their time were up.

    What is best so far is kept. Any thread may ask. A copy in another process (by pickle) is a token of its own that
    nobody has asked yet.
    """

    def __init__(self) -> None:
        self._asked = self._heeded = False

    def __reduce__(self) -> "tuple[type[Cancel], tuple[()]]":
        return Cancel, ()

    @property
    def asked(self) -> bool:
        """Whether the end was asked for."""
        return self._asked

    @property
    def heeded(self) -> bool:
        """Whether the work under way looks at this token; otherwise Ctrl-C raises KeyboardInterrupt."""
        return self._heeded

    def ask(self) -> None:
        """Ask for the end: searches stop within some tenths of a second and keep what they have."""
        self._asked = True

    def heed(self, heeded: bool = True) -> None:
        """Say that from now on there is something worth keeping, and that the work under way looks at this token; or
        that it does not any more."""
        self._heeded = heeded


def asking(cancel: Cancel) -> Handler:
    """A handler of SIGINT that asks the token the first time, and raises KeyboardInterrupt the second time.

    Where nothing heeds the token yet, there is nothing to keep: then KeyboardInterrupt is raised the first time too.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        again = cancel.asked
        cancel.ask()
        if again or not cancel.heeded:
            interrupt(number, frame)

    return ask


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
def heard_by(handler: Handler) -> Iterator[None]:
    """Let this handler hear SIGINT inside the block; in threads that may not set handlers, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
