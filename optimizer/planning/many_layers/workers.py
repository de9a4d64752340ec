"""Where tasks run: processes of this machine or of a dask cluster, by way of joblib; and how they are stopped."""

import gc
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from warnings import catch_warnings, simplefilter

from joblib import Parallel, delayed, parallel_config

from optimizer.errors import InputError, LostWorkerError
from optimizer.interrupts import Cancel, asking

Task = TypeVar("Task")
Result = TypeVar("Result")
Call = TypeVar("Call")
CLUSTER_SECONDS = 10  # for the scheduler to answer; long for a network, short for a person


@dataclass(frozen=True)
class Workers:
    """Where tasks are to run: `jobs` processes of this machine, or the workers of the dask scheduler at the address
    `cluster`."""

    jobs: int = 1
    cluster: str | None = None

    @contextmanager
    def ready(self) -> Iterator["Crew"]:
        """Connect, if there is a cluster. Raises InputError where it cannot be reached or has no workers."""
        with catch_warnings():
            simplefilter("ignore", UserWarning)  # of batches that are large for dask, of results that nobody took
            if self.cluster is None:
                yield Crew(self.jobs, processes=self.jobs > 1)
                return
            with _client(self.cluster) as client, parallel_config(backend="dask", client=client):
                yield Crew(sum(client.nthreads().values()), cluster=True)


@dataclass(frozen=True)
class Crew:
    """Workers that are ready for `size` tasks at once: this process, or processes of this machine, which Ctrl-C reaches
    as it reaches this one, or a cluster."""

    size: int
    processes: bool = False
    cluster: bool = False

    def results(
        self, work: Callable[[Task], Result], tasks: Iterator[Task], cancel: Cancel, patience: float | None = None
    ) -> Generator[Result]:
        """What `work` makes of all tasks, in the order in which they end. A task is made when a worker is free for it,
        and none once the token is asked.

        Processes of this machine hear Ctrl-C themselves: then their copies of the token are asked, those that run end
        with what they have, and they are waited for. A cluster hears nothing.

        Raises LostWorkerError where a process dies. A cluster begins its tasks again, and does not say when it gives
        up, or has no workers left: there it is raised where a task takes longer than `patience` seconds.
        """
        if self.processes:
            cancel.heed()
        run = Parallel(
            self.size, return_as="generator_unordered", pre_dispatch=self.size, batch_size=1, max_nbytes=None,
            timeout=patience if self.cluster else None,
        )  # fmt: skip
        function = delayed(_Interruptible(work, cancel) if self.processes else work)
        singly = _OneByOne((function(task) for task in tasks), self.size, cancel)
        try:
            while not singly.ended:
                yield from run(singly)
        except BrokenProcessPool:
            if not cancel.asked:
                raise LostWorkerError("a worker process died; if memory ran out, take fewer jobs") from None
        except (TimeoutError, multiprocessing.TimeoutError, CancelledError):
            raise LostWorkerError("workers of the cluster died or cannot be reached; see what they logged") from None


@dataclass
class _OneByOne(Generic[Call]):
    """joblib takes as many calls as there are workers whenever one of these is free, and what it took begins whatever
    happens. Once all workers have one it finds an end after each, and looks again when the next worker is free."""

    calls: Iterator[Call]
    workers: int
    cancel: Cancel
    ended: bool = False
    taken: int = 0
    pausing: bool = False

    def __iter__(self) -> Iterator[Call]:
        return self

    def __next__(self) -> Call:
        if self.pausing:
            self.pausing = False
            raise StopIteration
        call = None if self.cancel.asked else next(self.calls, None)
        if call is None:
            self.ended = True
            raise StopIteration
        self.taken += 1
        self.pausing = 1 < self.workers < self.taken
        return call


@dataclass(frozen=True)
class _Interruptible(Generic[Task, Result]):
    """Work for a worker process, in which Ctrl-C asks the process's own copy of the token.

    Ctrl-C is heard while a task runs alone: a process that waits for one would die of it. The copy is the one that the
    work looks at, as both are sent together.
    """

    work: Callable[[Task], Result]
    cancel: Cancel

    def __call__(self, task: Task) -> Result:
        """Run the task."""
        signal.signal(signal.SIGINT, asking(self.cancel))
        try:
            return self.work(task)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _client(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise InputError(
            "a cluster needs dask: install moeplan with its extra, pip install 'moeplan[cluster]'", field="cluster"
        ) from None
    try:
        client: Any = Client(address, timeout=CLUSTER_SECONDS)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        client, said = None, str(error)
    if client is None:
        # A client that was made in part closes itself when it is collected. That waits for ever where it happens by
        # chance while distributed makes the next client, so it is collected here.
        gc.collect()
        raise InputError(f"no dask scheduler answers at {address} ({said}); start one", field="cluster")
    if not client.nthreads():
        client.close()
        told = f"start some with dask worker {address}"
        raise InputError(f"{address}: the scheduler has no workers; {told}", field="cluster")
    return client
