"""The command `watch`, which keeps a plan near its traffic while new traces appear."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import click

from optimizer.commands.declare import Argument, Option, command
from optimizer.commands.failures import FailedRun
from optimizer.commands.output import say, warn
from optimizer.commands.progress import progress
from optimizer.commands.rebalance_options import LimitOptions, RebalanceSearch, RebalanceSettings
from optimizer.commands.session import session
from optimizer.commands.trace_options import BatchTokens, FirstLayer, Phase

if TYPE_CHECKING:
    from optimizer.api.watching import Watched
    from optimizer.planning.options import Progress


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
    batch_tokens: BatchTokens = None
    phase: Phase = None
    first_moe_layer: FirstLayer = None


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


@dataclass(frozen=True)
class WatchSettings(RebalanceSettings):
    """The same as of `rebalance`, for each decision."""

    search: WatchSearch


@command(example="moeplan watch traces/ --plan plan.json --every 600 --max-moves 24 --metrics moeplan.prom")
def watch(watched: WatchOptions, traces: WatchedTraces, limits: WatchLimits, how: WatchSettings) -> None:
    """Rebalance a plan again and again, as traces appear in DIR.

    A file counts once nobody writes it any more; a log that grows counts with what was added. Each decision rebalances
    the plan in force on recent requests, and writes it only where the newest requests, which nothing was chosen by, say
    that its moves pay: plan.json, and its moves into plan.moves.json. Counts without tokens are judged by the expected
    load of their newest steps. What was counted is kept in plan.watch.json, so that a watch that was killed goes on
    where it was. Each decision is a line of JSON on standard output.
    """
    from optimizer.api import watching
    from optimizer.commands.arguments import layer_ids
    from optimizer.files import check_writable
    from optimizer.planning.plan_file import read_plan
    from optimizer.planning.watching.watcher import watch as looking
    from optimizer.traces.source import TraceInput

    if watched.metrics is not None:
        check_writable(watched.metrics, "metrics")
    cancel, plan, wanted = session().cancel, read_plan(watched.plan), limits.limits()
    options, costs = how.options(plan), how.costs(plan).for_model(plan.model)
    batches = TraceInput(phase=traces.phase, batch_tokens=traces.batch_tokens, first_moe_layer=traces.first_moe_layer)
    settings = watching.WatchSettings(layer_ids(limits.layer), options, costs, batches)
    with watching.open_watch(watched.folder, watched.plan, wanted, settings, cancel) as look:
        say(costs.notes(plan.model))
        warn(how.warnings(replace(plan, policy=how.policy(plan))))
        cancel.heed()
        if watched.once:
            found = _told(watched, look)
            if found.decision == "failed":
                raise FailedRun(f"the run failed: {found.look.why}")
            return
        pause = watching.pausing(cancel)
        for _ in looking(partial(_told, watched, look), watched.every, cancel, time.monotonic, pause):
            continue


def _told(watched: WatchOptions, look: "Callable[[Progress], Watched]") -> "Watched":
    """One look, with its progress and faults on standard error, a decision on standard output, and figures in the file
    of metrics."""
    from optimizer.files import write_whole

    with progress() as tell:
        found = look(tell)
    warn([*(f"{name}: {fault}" for name, fault in found.look.bad.items()), *found.look.wrong])
    if found.decision != "idle":
        click.echo(str(found))
    if watched.metrics is not None:
        write_whole(watched.metrics, found.metrics())
    return found
