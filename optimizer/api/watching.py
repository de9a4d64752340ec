"""The functions that keep a plan near its traffic while new traces appear."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optimizer.api.judging import load_cost
from optimizer.domain.cost import Cost
from optimizer.errors import InputError
from optimizer.files import check_writable
from optimizer.interrupts import Cancel
from optimizer.planning.options import Progress, SolveOptions, silent
from optimizer.planning.plan_file import Plan, read_plan
from optimizer.planning.rebalancing.budgets import MoveLimits
from optimizer.planning.watching import watcher as watching
from optimizer.planning.watching.folder import Folder
from optimizer.planning.watching.replanning import Replanner, WatchFiles
from optimizer.planning.watching.watcher import Look, Watcher
from optimizer.report import watching as report
from optimizer.report.rebalancing import as_json
from optimizer.traces.source import TraceInput

PAUSE = 0.5
"""Seconds between two looks whether the end is asked for: short for somebody who waits."""


@dataclass(frozen=True, eq=False)
class Watched:
    """What one look at the folder came to; it prints as a line of JSON.

    look: all that was found; its `decision` is `written`, `left`, `waiting`, `idle`, `stopped` or `failed`.
    """

    look: Look

    @property
    def decision(self) -> str:
        """What the watch did with the plan in this look, in a word: one of those of `watcher.Decision`."""
        return self.look.decision

    def as_json(self) -> dict[str, Any]:
        """What was decided and why, as a dictionary in a stable JSON form; gains and drift are shares."""
        return report.as_json(self.look)

    def metrics(self) -> str:
        """The figures as text for Prometheus' textfile collector."""
        return report.metrics(self.look)

    def __str__(self) -> str:
        """The dictionary as one line of JSON."""
        return json.dumps(self.as_json())


@dataclass(frozen=True, eq=False)
class WatchSettings:
    """How a watch takes traces and decides.

    layers: ids, None for all of the plan, which share the budget of a decision. options: with the one routing policy,
    None for the plan's own; cost: None for that of the plan's hardware. batches: what batches are made of, and the
    layer that the traces begin with, where neither they nor the model tell.
    """

    layers: Sequence[int] | None = None
    options: SolveOptions | None = None
    cost: Cost | None = None
    batches: TraceInput = field(default_factory=TraceInput)

    def replanner(self, plan: Plan, path: Path, limits: MoveLimits, cancel: Cancel) -> Replanner:
        """What decides. Raises InputError for settings that do not fit the plan."""
        layers = tuple(sorted(set(plan.layers if self.layers is None else self.layers)))
        options = self.options or SolveOptions(routings=(plan.policy,), unit=plan.unit)
        cost = (self.cost or load_cost(plan)).for_model(plan.model)
        found = Replanner(WatchFiles(path), layers, self.batches, cost, options, limits, as_json, cancel)
        found.plan()
        found.composition(plan)
        return found


@contextmanager
def open_watch(
    folder: Path,
    plan: Path,
    limits: MoveLimits,
    settings: WatchSettings | None = None,
    cancel: Cancel | None = None,
) -> Iterator[Callable[[Progress], Watched]]:
    """Inside the block, a function that looks at the folder once and decides; no other watch of the plan may run
    meanwhile. Parameters and errors are those of `watch`."""
    if limits.most_moves is None and limits.most_bytes is None:
        raise InputError("a watch needs a budget for each decision, in moves or in bytes", "most_moves")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the folder in which traces appear", "folder")
    how, read = settings or WatchSettings(), read_plan(plan)
    replanner = how.replanner(read, plan, limits, cancel or Cancel())
    files = replanner.files
    check_writable(files.plan, "plan")
    with files.alone():
        own = frozenset(file.resolve() for file in (files.plan, files.moves, files.state))
        watcher = Watcher.of(replanner, read, Folder(folder, own), how.batches.first_moe_layer)
        yield lambda progress: Watched(watcher.look(time.time(), progress))


def watch(
    folder: Path,
    plan: Path,
    limits: MoveLimits,
    every: float | None = 600.0,
    settings: WatchSettings | None = None,
    progress: Progress = silent,
    cancel: Cancel | None = None,
) -> Iterator[Watched]:
    """Rebalance a plan again and again, as traces appear in a folder; yield what each look came to.

    The plan's file is replaced only where the newest requests, or steps of counts, which nothing was chosen by, say
    that the moves pay. What was counted is kept beside it, so that a watch that ended goes on where it was.

    Parameters
    ----------
    folder
        The folder in which traces appear.
    plan
        The file of the plan in force. Its moves and the state of the watch are written beside it.
    limits
        The budget of each decision in moves or bytes, of which one is needed, and what moves must save, such as 0.02.
    every
        Seconds from one look to the next; None to look once.
    settings
        Layers, options and cost, and how traces are read; None for the plan's own.
    progress
        A callable that is told the stage and the share of it that is done, 0 to 1.
    cancel
        A token that ends the watch, once it is asked; None for a watch without an end.

    Returns
    -------
    Iterator[Watched]
        What each look came to, `idle` ones included.

    Raises
    ------
    InputError
        With the first look: for a folder that is not there, a plan that cannot be used or is watched already, and
        limits without a budget. What goes wrong later is said in what the look came to.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from optimizer import Hardware, Mesh, Model, Placement, write_plan
    >>> model, machine = Model("tiny", 4, 0, 1, layers=1, first_moe_layer=0), Hardware.of(mesh=Mesh(1, 2, 2))
    >>> place = Path(tempfile.mkdtemp())
    >>> own = Plan.of(Placement(np.array([[0, 1], [2, 3]])), 0, model, machine)
    >>> write_plan(place / "plan.json", own)
    >>> (place / "traces").mkdir()
    >>> [found.decision for found in watch(place / "traces", place / "plan.json", MoveLimits(1), every=None)]
    ['idle']
    """
    ended = cancel or Cancel()
    with open_watch(folder, plan, limits, settings, ended) as look:
        if every is None:
            yield look(progress)
            return
        yield from watching.watch(lambda: look(progress), every, ended, time.monotonic, pausing(ended))


def pausing(cancel: Cancel) -> Callable[[float], None]:
    """A function that waits so many seconds, but not on once the token is asked."""

    def pause(seconds: float) -> None:
        end = time.monotonic() + seconds
        while not cancel.asked and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, PAUSE))

    return pause
