"""One decision: the plan in force is rebalanced on recent requests, and replaced where the newest say that it pays."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from formulations.kit.arrays import Floats
from optimizer.domain.cost import Cost
from optimizer.errors import InputError
from optimizer.files import UNFINISHED_SUFFIX, write_whole
from optimizer.interrupts import Cancel
from optimizer.planning.judge_plan import as_planned
from optimizer.planning.options import Progress, SolveOptions, silent
from optimizer.planning.plan_file import Plan, read_plan, write_plan
from optimizer.planning.rebalancing.budgets import MoveLimits
from optimizer.planning.rebalancing.counted_work import CountedWork
from optimizer.planning.rebalancing.layer_work import LayerWork, SimulatedWork
from optimizer.planning.rebalancing.plan import RebalancedPlan, rebalance_plan
from optimizer.planning.watching.window import RecentSource, Window
from optimizer.statistics.checked import checked_counts, with_warnings
from optimizer.traces.composition import Composition
from optimizer.traces.source import TraceInput
from optimizer.traces.trace import digest


@dataclass(frozen=True)
class WatchFiles:
    """The plan, and what a watch writes beside it: the moves that led to the plan, and the watch's state."""

    plan: Path

    @property
    def moves(self) -> Path:
        """For `plan.json` it is `plan.moves.json`."""
        return self.plan.with_name(f"{self.plan.stem}.moves.json")

    @property
    def state(self) -> Path:
        """For `plan.json` it is `plan.watch.json`."""
        return self.plan.with_name(f"{self.plan.stem}.watch.json")

    @property
    def lock(self) -> Path:
        """An empty file, which the system keeps locked while a watch of the plan runs."""
        return self.plan.with_name(f".{self.plan.stem}.watch.lock")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other watch of the plan run inside the block. Raises InputError where one is running."""
        lock = FileLock(self.lock)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"{self.plan} is watched already; end that watch, or wait for its end", "plan") from None
        except (OSError, NotImplementedError) as error:  # the latter where the system itself has no locks
            raise InputError(f"{self.lock} cannot be locked ({error})", "plan") from None
        try:
            yield
        finally:
            lock.release()

    def write(self, found: RebalancedPlan, moves: dict[str, Any]) -> None:
        """Write the moves and then the plan, so that whoever sees the new plan finds its moves. Both say by digests
        from which placements to which the moves lead."""
        named = {"from": digest_of(found.current), "to": digest_of(found.plan)}
        write_whole(self.moves, json.dumps(named | moves, indent=1) + "\n")
        write_plan(self.plan, found.plan)

    def drop_unfinished(self) -> None:
        """Remove what a killed run has left: temporary files, and moves that lead from the plan in force to one that
        was not written. Moves that cannot be read are left."""
        for file in (self.moves, self.state):
            for temporary in file.parent.glob(f".{escape(file.name)}.{UNFINISHED_SUFFIX}"):
                temporary.unlink(missing_ok=True)
        with suppress(OSError, ValueError, AttributeError):
            if json.loads(self.moves.read_bytes()).get("from") == digest_of(read_plan(self.plan)):
                self.moves.unlink()


def digest_of(plan: Plan) -> str:
    """A digest of the placements of a plan."""
    return digest(*(part.placement.slots for _, part in sorted(plan.layers.items())))


@dataclass(frozen=True, eq=False)
class Replanner:
    """Rebalances the plan in force. describe: makes the content of the file of moves, but for the digests."""

    files: WatchFiles
    layers: tuple[int, ...]
    batches: TraceInput
    cost: Cost
    options: SolveOptions
    limits: MoveLimits
    describe: Callable[[RebalancedPlan], dict[str, Any]]
    cancel: Cancel

    def plan(self) -> Plan:
        """The plan in force, read anew, as others may have replaced it. Raises InputError where it cannot be used, and
        where it lacks a layer."""
        plan = read_plan(self.files.plan)
        if lacking := sorted(set(self.layers) - set(plan.layers)):
            raise InputError(f"{self.files.plan}: the plan has no layer {lacking[0]}", "layer")
        return plan

    def composition(self, plan: Plan) -> Composition:
        """What batches are made of: what was asked for, or else as the plan was made."""
        made = plan.layers[self.layers[0]].provenance
        return as_planned(self.batches, made).composition(plan.mesh)

    def wrong(self, plan: Plan, window: Window) -> tuple[str, ...]:
        """What looks wrong in the recording of the requests in the window, by the first layer, in one sentence; none
        where nothing does. Raises InputError for what cannot be."""
        if window.kind == "steps":
            counted = checked_counts(replace(self.batches, memory=window.counts(self.layers)), plan.model)
            assert counted is not None
            return counted[0].notes
        source = self._source(plan, window, self.layers[0])
        return with_warnings(source, replace(self.batches, memory=source.trace)).trace.warnings

    def _source(self, plan: Plan, window: Window, layer: int) -> RecentSource:
        place, composition = self.layers.index(layer), self.composition(plan)
        return window.source(place, layer, plan.model, composition, self.options.seed)

    def decide(self, plan: Plan, window: Window, progress: Progress = silent) -> RebalancedPlan:
        """Rebalance the plan on the window, and write it where that pays. Raises InputError and OSError where it cannot
        be done; the plan in force is then as it was."""
        found = rebalance_plan(
            self._work(plan, window), self.layers, self.limits, self.options.effort(self.cancel), progress
        )
        if found.moves:
            if digest_of(self.plan()) != digest_of(plan):
                raise InputError(
                    f"{self.files.plan}: was replaced while it was rebalanced; the next look begins from it"
                )
            self.files.write(found, self.describe(found))
        return found

    def _work(self, plan: Plan, window: Window) -> LayerWork:
        """What finds the layers' points in the window."""
        if window.kind == "steps":
            work = CountedWork.of(plan, self.cost, self.options, window.counts(self.layers), self.layers)
            return replace(work, tested=window.newest)
        return SimulatedWork(plan, self.cost, self.options, lambda layer: self._source(plan, window, layer))


def planned_loads(plan: Plan, layers: tuple[int, ...]) -> Floats | None:
    """The loads that a plan was made for, `[layer, expert]` of routed experts; None where it does not say, as where it
    was made from a server's file."""
    learned = [plan.layers[layer].learned for layer in layers]
    if any(each is None for each in learned):
        return None
    found: Floats = np.array([each.load[: plan.model.routed_experts] for each in learned if each is not None])
    return found
