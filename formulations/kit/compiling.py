"""Who compiles a kernel, and until when: one process at a time, and only as long as somebody waits for it."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.event import Listener, install_listener

try:
    import fcntl
except ImportError:  # Windows, where each process compiles for itself
    fcntl = None  # type: ignore[assignment]

POLL = 0.02
"""Seconds between two looks at whether another process has finished: a kernel takes from tenths of a second to ten."""


class CompilationEnded(BaseException):
    """Nobody waits any more for the kernel that was to be compiled. It is no Exception, as numba makes other errors of
    those that are raised while it works out types."""


@contextmanager
def compiling_until(cancelled: Callable[[], bool]) -> Iterator[None]:
    """Let no kernel be compiled in this block, by any thread, once `cancelled` is true: CompilationEnded is raised.

    A kernel that calls others is compiled in steps, each of which may take seconds, all of them together ten or more.
    Between two steps nothing is half-done that matters: the kernels whose compilation is given up are compiled again
    when they are called again.
    """
    ending = _Ending(cancelled)
    _ENDINGS.append(ending)
    try:
        with install_listener("numba:compile", ending):
            yield
    finally:
        _ENDINGS.remove(ending)


class _Ending(Listener):  # type: ignore[misc]  # numba has no types
    def __init__(self, cancelled: Callable[[], bool]) -> None:
        self.cancelled = cancelled

    def on_start(self, event: Any) -> None:
        if self.cancelled():
            raise CompilationEnded

    def on_end(self, event: Any) -> None:
        pass


_ENDINGS: list[_Ending] = []  # those of all blocks that are being run


def same_for_integers(compiled: Any) -> Any:
    """Let a kernel be compiled once for integers as arguments, and not again for each width and constant.

    Numba has a type for every constant, and would compile `fill(row, 0)`, `fill(row, 1)` and `fill(row, ids[n])` with
    `ids` of 16 bits apart from `fill(row, n)`, in tenths of a second to two seconds each. They all take 64 bits here.
    Where a call is inlined a constant is known all the same.
    """
    compile_now = compiled.compile

    def compile_for_integers(signature: Any) -> Any:
        return compile_now(tuple(_widened(types.unliteral(each)) for each in signature))

    compiled.compile = compile_for_integers
    return compiled


def _widened(kind: Any) -> Any:
    return types.int64 if isinstance(kind, types.Integer) and kind.bitwidth < 64 else kind


def compiled_by_one(compiled: Any, folder: Path) -> Any:
    """Let one process at a time compile a kernel; the others wait, and read the machine code that it has kept.

    Without this, processes that begin together all compile the same kernels at the same time, for a minute each.
    compiled: numba's kernel, whose machine code is kept; folder: where the locks are. A process that calls a kernel
    compiles what that one calls while it holds its lock; as calls run in no circle, none waits for one that waits for
    it. Numba's own lock comes first, so that of the threads of a process one alone waits. The system's lock is taken
    directly, as servers import kernels, and the library for locks is not among the few that they need.
    """
    line = compiled.py_func.__code__.co_firstlineno  # tells kernels of one name apart
    compile_now, lock = compiled.compile, folder / f"{compiled.__module__}.{compiled.__qualname__}-{line}.lock"

    def compile_alone(signature: Any) -> Any:
        with global_compiler_lock, _held(lock):
            return compile_now(signature)

    compiled.compile = compile_alone
    return compiled


@contextmanager
def _held(file: Path) -> Iterator[None]:
    """Hold the lock in a file, unless this process does already, as where a kernel calls itself. The system takes it
    back from a process that is killed."""
    if file in _HELD:
        yield
        return
    with ExitStack() as stack:
        with suppress(OSError):  # the folder was removed or cannot be written to, or its file system has no locks
            lock = stack.enter_context(open(file, "ab"))
            _wait_for(lock)
        _HELD.add(file)
        stack.callback(_HELD.remove, file)
        yield


_HELD: set[Path] = set()  # of this process; whoever looks at it has numba's lock


def _wait_for(lock: IO[bytes]) -> None:
    """Return when this process has the lock. Raises CompilationEnded where nobody waits for the kernel any more."""
    while not _taken(lock):
        if any(ending.cancelled() for ending in _ENDINGS):
            raise CompilationEnded
        time.sleep(POLL)


def _taken(lock: IO[bytes]) -> bool:
    """Whether this process has the lock now."""
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
