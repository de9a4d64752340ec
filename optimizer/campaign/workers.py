"""Where tasks run: processes of this machine or of a dask cluster, by way of joblib; and how they are stopped."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Generic, TypeVar
from warnings import catch_warnings, simplefilter

from joblib import Parallel, delayed, parallel_config

from optimizer.errors import InputError, LostWorkerError

Task = TypeVar("Task")
Result = TypeVar("Result")
CLUSTER_SECONDS = 10  # for the scheduler to answer


@dataclass
class Stop:
    """Whether Ctrl-C was pressed. Then no more tasks begin. waits: those that run are waited for, as they hear of it,
    too, and end with what they have; whoever presses again does not wait."""

    waits: bool = False
    asked: bool = field(default=False, init=False)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signal."""
        again, self.asked = self.asked, True
        if again or not self.waits:
            raise KeyboardInterrupt

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signal, where this thread may."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class Workers:
    """So many processes of this machine; or with `cluster`, the address of a dask scheduler, all that it has."""

    jobs: int = 1
    cluster: str | None = None

    @contextmanager
    def ready(self) -> Iterator["Crew"]:
        """Connect, if there is a cluster. Raises InputError where it cannot be reached or has no workers."""
        if self.cluster is None:
            yield Crew(self.jobs, processes=self.jobs > 1)
            return
        with _client(self.cluster) as client, parallel_config(backend="dask", client=client), catch_warnings():
            simplefilter("ignore", UserWarning)  # a layer's batches are large for dask, and few
            yield Crew(sum(client.nthreads().values()), processes=False)


@dataclass(frozen=True)
class Crew:
    """What is ready to work, `size` tasks at once; processes: of this machine, which Ctrl-C reaches as well as us."""

    size: int
    processes: bool = False

    def results(self, work: Callable[[Task], Result], tasks: Iterator[Task], stop: Stop) -> Iterator[Result]:
        """Of all tasks, in the order in which they end. A task is made when a worker is free for it, and none once a
        stop was asked for. Raises LostWorkerError where a process dies; a cluster begins its tasks again."""
        stop.waits = self.processes
        run = Parallel(
            self.size, return_as="generator_unordered", pre_dispatch=self.size, batch_size=1, max_nbytes=None
        )
        function = delayed(_Interruptible(work) if self.processes else work)
        try:
            with stop.listening():
                yield from run(function(task) for task in _until(tasks, stop))
        except BrokenProcessPool:
            if not stop.asked:
                raise LostWorkerError("a worker process died; if memory ran out, take fewer --jobs") from None


def _until(tasks: Iterator[Task], stop: Stop) -> Iterator[Task]:
    while not stop.asked:
        try:
            yield next(tasks)
        except StopIteration:
            return


@dataclass(frozen=True)
class _Interruptible(Generic[Task, Result]):
    """In a worker process Ctrl-C interrupts tasks alone: a process that waits for one would die of it."""

    work: Callable[[Task], Result]

    def __call__(self, task: Task) -> Result:
        """Run the task."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return self.work(task)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _client(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise InputError(
            "--cluster needs dask: install moeplan with its extra, pip install 'moeplan[cluster]'"
        ) from None
    try:
        client: Any = Client(address, timeout=CLUSTER_SECONDS)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise InputError(f"--cluster {address}: no dask scheduler answers there ({error}); start one") from None
    if not client.nthreads():
        client.close()
        raise InputError(f"--cluster {address}: the scheduler has no workers; start some with dask worker {address}")
    return client
