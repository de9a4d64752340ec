"""The command `watch`, which keeps a plan near its traffic while new traces appear."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import click

from optimizer.commands.declare import Argument, Option, command
from optimizer.commands.failures import BadInput, FailedRun
from optimizer.commands.options import NOT_NEGATIVE, POSITIVE, CostOptions, ReplicaOptions, SeedOptions, ServerOptions
from optimizer.commands.output import say, warn
from optimizer.commands.progress import progress
from optimizer.commands.rebalance import LimitOptions, RebalanceSearch, policy_of
from optimizer.commands.run_options import hardware_of
from optimizer.commands.search_options import solve_options
from optimizer.commands.session import session

if TYPE_CHECKING:
    from optimizer.interrupts import Cancel
    from optimizer.planning.plan_file import Plan
    from optimizer.planning.watching.replanning import Replanner
    from optimizer.planning.watching.watcher import Look, Watcher

PAUSE = 0.5
"""Seconds between two looks whether Ctrl-C was pressed: short for somebody who waits."""


@dataclass(frozen=True)
class WatchOptions:
    """The folder, the plan, and when and where a watch looks and tells."""

    SECTION: ClassVar[str] = "Watch"
    folder: Annotated[Path, Argument("DIR")]
    plan: Annotated[
        Path,
        Option(("--plan",), "The plan in force, which is replaced where moves pay; its moves go beside it.",
               essential=True),
    ]  # fmt: skip
    every: Annotated[
        float,
        Option(
            ("--every",),
            "Seconds from one look at the folder to the next.",
            click.FloatRange(min=0, min_open=True),
            "SECONDS",
            essential=True,
        ),
    ] = 600.0
    once: Annotated[bool, Option(("--once",), "Look once, decide and end, as from cron.", essential=True)] = False
    metrics: Annotated[
        Path | None,
        Option(("--metrics",), "Write figures into this file after each look, as text for Prometheus.", essential=True),
    ] = None


@dataclass(frozen=True)
class WatchedTraces:
    """The options that say how traces are read and batches are made of them."""

    SECTION: ClassVar[str] = "Traces"
    batch_tokens: Annotated[
        int | None, Option(("--batch-tokens",), "Tokens in a batch; by default 512, or the plan's.", POSITIVE)
    ] = None
    phase: Annotated[
        str | None,
        Option(
            ("--phase",),
            "What batches are made of; by default decode, or the plan's.",
            metavar="decode|prefill|mixed",
        ),
    ] = None
    first_moe_layer: Annotated[
        int | None,
        Option(
            ("--first-moe-layer",),
            "Model layer of the first entry of the traces' layer axis, where neither zero layers nor the model tell.",
            NOT_NEGATIVE,
        ),
    ] = None


@dataclass(frozen=True)
class WatchLimits(LimitOptions):
    """The limits of each decision."""

    min_gain: Annotated[
        float | None,
        Option(
            ("--min-gain",),
            "Write a plan only where mean latency falls by this share on unseen requests, such as 0.02 for 2 %, and "
            "the interval of the gain is above 0.",
            click.FloatRange(min=0, max=1, max_open=True),
            "SHARE",
            essential=True,
        ),
    ] = 0.02


@dataclass(frozen=True)
class WatchSearch(RebalanceSearch):
    """The search of each decision."""

    time_limit: Annotated[
        float, Option(("--time-limit",), "Seconds for each decision.", click.FloatRange(min=1), essential=True)
    ] = 60.0


@command(example="moeplan watch traces/ --plan plan.json --every 600 --max-moves 24 --metrics moeplan.prom")
def watch(
    watched: WatchOptions,
    traces: WatchedTraces,
    limits: WatchLimits,
    search: WatchSearch,
    server: ServerOptions,
    cost: CostOptions,
    replicas: ReplicaOptions,
    seed: SeedOptions,
) -> None:
    """Rebalance a plan again and again, as traces appear in DIR.

    A file counts once nobody writes it any more; a log that grows counts with what was added. Each decision rebalances
    the plan in force on recent requests, and writes it only where the newest requests, which nothing was chosen by, say
    that its moves pay: plan.json, and its moves into plan.moves.json. What was counted is kept in plan.watch.json, so
    that a watch that was killed goes on where it was. Each decision is a line of JSON on standard output.
    """
    from optimizer.files import check_writable
    from optimizer.planning.watching import watcher as watching
    from optimizer.planning.watching.folder import Folder

    if limits.most_moves is None and limits.most_bytes is None:
        raise BadInput("a watch needs a budget for each decision; give --max-moves or --max-bytes")
    if not watched.folder.is_dir():
        raise BadInput(f"{watched.folder}: no such folder; name the folder in which traces appear")
    if watched.metrics is not None:
        check_writable(watched.metrics, "metrics")
    cancel, told = session().cancel, _teller(watched)
    replanner, plan = _replanner(watched, traces, limits, search, server, cost, replicas, seed)
    files = replanner.files
    check_writable(files.plan, "plan")
    folder = Folder(watched.folder, frozenset(file.resolve() for file in (files.plan, files.moves, files.state)))
    with files.alone():
        watcher = watching.Watcher.of(replanner, plan, folder, traces.first_moe_layer)
        cancel.heed()
        if watched.once:
            look = _look(watcher)
            told(look)
            if look.decision == "failed":
                raise FailedRun(f"the run failed: {look.why}")
            return
        pause = partial(_pause, cancel)
        for look in watching.watch(partial(_look, watcher), watched.every, cancel, time.monotonic, pause):
            told(look)


def _look(watcher: "Watcher") -> "Look":
    """One look, with its progress on standard error."""
    with progress() as tell:
        return watcher.look(time.time(), tell)


def _replanner(
    watched: WatchOptions,
    traces: WatchedTraces,
    limits: WatchLimits,
    search: WatchSearch,
    server: ServerOptions,
    cost: CostOptions,
    replicas: ReplicaOptions,
    seed: SeedOptions,
) -> "tuple[Replanner, Plan]":
    """What decides, and the plan in force now. Raises InputError for options that do not fit the plan."""
    from optimizer.commands.arguments import layer_ids
    from optimizer.planning.plan_file import read_plan
    from optimizer.planning.watching.replanning import Replanner, WatchFiles
    from optimizer.report.rebalancing import as_json
    from optimizer.traces.source import TraceInput

    plan = read_plan(watched.plan)
    layers = tuple(sorted(set(layer_ids(limits.layer) or plan.layers)))
    cost = CostOptions(cost.unit or plan.unit, cost.moe_op, cost.dispatch_model, cost.price)
    policy = policy_of(plan, search.routing, server)
    options = solve_options(search.as_of_solve(policy), seed, cost, replicas.constraints(), server)
    batches = TraceInput(phase=traces.phase, batch_tokens=traces.batch_tokens)
    costs = hardware_of(plan, cost).cost.for_model(plan.model)
    files, cancel = WatchFiles(watched.plan), session().cancel
    replanner = Replanner(files, layers, batches, costs, options, limits.limits(), as_json, cancel)
    replanner.plan()
    replanner.composition(plan)
    placements = [part.placement for part in plan.layers.values()]
    say(costs.notes(plan.model))
    warn(server.to_server().warnings(policy, plan.model, placements))
    return replanner, plan


def _teller(watched: WatchOptions) -> "Callable[[Look], None]":
    """A function that tells what a look came to: faults on standard error, a decision on standard output, and figures
    in the file of metrics."""
    from optimizer.files import write_whole
    from optimizer.report.watching import as_json, metrics

    def told(look: "Look") -> None:
        warn([*(f"{name}: {fault}" for name, fault in look.bad.items()), *look.wrong])
        if look.decision != "idle":
            click.echo(as_json(look))
        if watched.metrics is not None:
            write_whole(watched.metrics, metrics(look))

    return told


def _pause(cancel: "Cancel", seconds: float) -> None:
    """Wait, but not on once the token is asked."""
    end = time.monotonic() + seconds
    while not cancel.asked and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, PAUSE))
