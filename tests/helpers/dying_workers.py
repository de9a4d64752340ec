"""Work with accidents, in a module of its own, so that worker processes can import it, quickly."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from optimizer.search.stop import Deadline

MARKS = "MOEPLAN_TEST_MARKS"  # in the environment: a folder
PATIENCE = 120.0  # seconds, on a machine that has much else to do; reached only where something is wrong


def wait_for(what: Callable[[], bool]) -> None:
    """Return when it is true. Raises TimeoutError where that takes too long."""
    until = time.monotonic() + PATIENCE
    while not what():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.005)


@dataclass(frozen=True)
class Job:
    """A task that leaves a file for each time that it is begun."""

    number: int
    folder: Path

    def begin(self) -> int:
        """Count the times so far, this one included."""
        (self.folder / f"{self.number}-{time.monotonic_ns()}").touch()
        return self.begun()

    def begun(self) -> int:
        """How often the job was begun."""
        return len(list(self.folder.glob(f"{self.number}-*")))


def square(job: Job, deadline: Deadline) -> int:
    """The job as it should be done."""
    job.begin()
    return job.number**2


def square_or_die_once(job: Job, deadline: Deadline) -> int:
    """Job 3 takes its process with it the first time."""
    if job.begin() == 1 and job.number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return job.number**2


def square_or_die(job: Job, deadline: Deadline) -> int:
    """Job 3 takes its process with it, whenever it is begun, after all others have come to an end."""
    job.begin()
    if job.number == 3:
        wait_for(lambda: (job.folder / "others are kept").exists())
        os.kill(os.getpid(), signal.SIGKILL)
    return job.number**2


def square_or_fail(job: Job, deadline: Deadline) -> int:
    """Job 3 cannot be done."""
    job.begin()
    if job.number == 3:
        raise ArithmeticError("three")
    return job.number**2


def square_or_be_interrupted(job: Job, deadline: Deadline) -> int:
    """Job 3 hears Ctrl-C."""
    if job.begin() and job.number == 3:
        raise KeyboardInterrupt
    return job.number**2


def square_once_asked_to_stop(job: Job, deadline: Deadline) -> int:
    """Job 0 waits for job 1 to begin, all others until a stop was asked for."""
    job.begin()
    if job.number == 0:
        _wait_for_the_other_worker(job)
    else:
        wait_for(lambda: (job.folder / "asked").exists())
    return job.number**2


def work_on_deafly(job: Job, deadline: Deadline) -> int:
    """Job 0 waits for job 1 to begin, all others hear no Ctrl-C, and take longer than anybody waits."""
    job.begin()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if job.number == 0:
        _wait_for_the_other_worker(job)
    else:
        time.sleep(10 * PATIENCE)
    return job.number**2


def _wait_for_the_other_worker(job: Job) -> None:
    """Wait until job 1 has begun. joblib hands nothing to a second worker where the first is ready before all have
    something, until that one is ready again."""
    wait_for(lambda: Job(1, job.folder).begun() > 0)
