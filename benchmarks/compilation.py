"""Which kernels a command compiles when its cache is empty, when, and how long each takes.

Usage: python benchmarks/compilation.py COMMAND... such as `solve --layer 12 --time-limit 60`. The command runs in this
process with a cache folder of its own, which is removed afterwards. Seconds are of processor time of the thread that
compiles, without what it compiles meanwhile for kernels that it calls; so they vary little on a machine in use.
"""

import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numba
from numba.core.event import Listener, register

SHOWN = 25  # kernels that take longest, in the table


@dataclass
class Compiled:
    """What one kernel took: seconds for each signature, and when the first began."""

    first: float
    seconds: list[float] = field(default_factory=list)


class Recorder(Listener):  # type: ignore[misc]  # numba has no types
    """Adds up what the compiler does, by kernel."""

    def __init__(self) -> None:
        self.began, self.found = time.monotonic(), dict[str, Compiled]()
        self._open: dict[int, list[list[float]]] = defaultdict(list)

    def on_start(self, event: Any) -> None:
        """A kernel's compilation begins; what the thread was compiling waits for it."""
        self._open[threading.get_ident()].append([time.thread_time(), 0.0, time.monotonic() - self.began])

    def on_end(self, event: Any) -> None:
        """It ends."""
        waiting = self._open[threading.get_ident()]
        started, inside, began = waiting.pop()
        spent = time.thread_time() - started
        if waiting:
            waiting[-1][1] += spent
        function = event.data["dispatcher"].py_func
        name = f"{function.__module__}.{function.__name__}"
        self.found.setdefault(name, Compiled(began)).seconds.append(spent - inside)


def show(found: dict[str, Compiled]) -> None:
    """Print the kernels that take longest, and the sums by module."""
    print(f"{'kernel':72}{'from, s':>9}{'kinds':>7}{'s':>8}")
    for name, each in sorted(found.items(), key=lambda item: -sum(item[1].seconds))[:SHOWN]:
        print(f"{name:72}{each.first:9.1f}{len(each.seconds):7}{sum(each.seconds):8.2f}")
    modules = defaultdict[str, list[float]](list)
    for name, each in found.items():
        modules[name.rpartition(".")[0]] += each.seconds
    print(f"\n{'module':72}{'':9}{'kinds':>7}{'s':>8}")
    for name, seconds in sorted(modules.items(), key=lambda item: -sum(item[1])):
        print(f"{name:72}{'':9}{len(seconds):7}{sum(seconds):8.2f}")
    everything = [second for each in found.values() for second in each.seconds]
    print(f"{'all':72}{'':9}{len(everything):7}{sum(everything):8.2f}")


def main() -> None:
    """Run the command and print what it compiled."""
    with tempfile.TemporaryDirectory() as folder:
        numba.config.CACHE_DIR = folder
        import cli  # its kernels look for their folder while they are imported

        recorder = Recorder()
        register("numba:compile", recorder)
        try:
            cli.main(sys.argv[1:])
        except SystemExit:
            show(recorder.found)


if __name__ == "__main__":
    main()
