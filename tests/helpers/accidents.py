"""The command line with an accident, as a script: `python accidents.py ACCIDENT ARGUMENT...`."""

import os
import resource
import signal
import sys
from collections.abc import Callable
from itertools import count
from threading import Thread, Timer
from typing import Any

import pytest
from dying_planners import plan_layer_with_mark
from dying_workers import MARKS, wait_for
from small_model import with_few_batches

from cli import main
from optimizer.interrupts import Cancel
from optimizer.planning.many_layers import plan_model
from optimizer.planning.many_layers.work import WorkFolder

MOST_BYTES = 12_000  # of a file: less than the plan of all layers, more than that of one


def at(owner: Any, name: str, number: int, happens: Callable[[], object]) -> None:
    """Let it happen before the call of this number, counted from 1."""
    call, calls = getattr(owner, name), count(1)

    def called(*arguments: Any) -> Any:
        if next(calls) == number:
            happens()
        return call(*arguments)

    setattr(owner, name, called)


def everybody(number: int) -> Callable[[], None]:
    """An accident: all processes of the group hear this signal, as after Ctrl-C."""
    return lambda: os.killpg(0, number)


def soon(happens: Callable[[], None]) -> Callable[[], None]:
    """The same accident half a second later."""
    return lambda: Timer(0.5, happens).start()


def once_two_layers_have_begun(happens: Callable[[], None]) -> None:
    """Let it happen once two workers have begun to plan a layer each."""
    vars(plan_model)["plan_layer"] = plan_layer_with_mark

    def watch() -> None:
        wait_for(lambda: len(os.listdir(os.environ[MARKS])) == 2)
        happens()

    Thread(target=watch, daemon=True).start()


def me() -> None:
    """Press Ctrl-C for this process alone, so that workers go on."""
    os.kill(os.getpid(), signal.SIGINT)


def killed_after_a_layer() -> None:
    """Killed when the second layer is to be kept."""
    at(WorkFolder, "keep", 2, everybody(signal.SIGKILL))


def killed_in_a_write() -> None:
    """The fifth, after settings, survey, a layer and its clock: a temporary file is full and not yet renamed."""
    at(os, "fsync", 5, everybody(signal.SIGKILL))


def interrupted() -> None:
    """While two layers are planned."""
    once_two_layers_have_begun(soon(everybody(signal.SIGINT)))


def interrupted_twice() -> None:
    """The second time while workers go on."""
    once_two_layers_have_begun(me)
    at(Cancel, "ask", 1, soon(me))


def short_of_room() -> None:
    """No file may become large."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, MOST_BYTES))


if __name__ == "__main__":
    with_few_batches(pytest.MonkeyPatch())
    globals()[sys.argv[1]]()
    main(sys.argv[2:])
