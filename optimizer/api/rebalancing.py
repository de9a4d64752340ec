"""The function that rebalances a plan: from what is in force to what is better, within a budget of moves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from optimizer.api.judging import load_cost
from optimizer.api.traces import Traces, opened
from optimizer.domain.cost import Cost
from optimizer.errors import InputError
from optimizer.interrupts import Cancel
from optimizer.planning.judge_plan import as_planned
from optimizer.planning.many_layers.reading import LayerReader
from optimizer.planning.options import Progress, SolveOptions, silent
from optimizer.planning.plan_file import Plan
from optimizer.planning.rebalancing.budgets import MoveLimits
from optimizer.planning.rebalancing.counted_work import CountedWork
from optimizer.planning.rebalancing.layer_work import LayerWork, SimulatedWork
from optimizer.planning.rebalancing.plan import RebalancedPlan, rebalance_plan
from optimizer.report import figures
from optimizer.report import rebalancing as report
from optimizer.report.printable import Printable
from optimizer.report.tables import Part
from optimizer.statistics.checked import checked_counts, checked_source
from optimizer.traces.formats.counts import Counts
from optimizer.traces.source import Source, TraceInput

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True, eq=False)
class Rebalanced(Printable):
    """A plan that was rebalanced; it prints as tables.

    found: the plan, the gain against moves, and the moves in rounds. notes: sentences that a user should read.
    """

    found: RebalancedPlan
    notes: tuple[str, ...]

    @property
    def plan(self) -> Plan:
        """The new plan, or the one that was given where moves do not pay."""
        return self.found.plan

    def parts(self) -> list[Part]:
        """The verdict, the table of gain against moves, and the table of moves by link."""
        return report.parts(self.found)

    def figures(self) -> "list[Figure]":
        """A picture of what each budget of moves gains; none where a single budget was looked at."""
        return figures.of_rebalancing(self.found)

    def as_json(self) -> dict[str, Any]:
        """The figures of the tables and all moves as a dictionary in a stable JSON form."""
        return report.as_json(self.found)


def rebalance(
    current: Plan,
    traces: Traces = (),
    limits: MoveLimits | None = None,
    layers: Sequence[int] | None = None,
    options: SolveOptions | None = None,
    cost: Cost | None = None,
    progress: Progress = silent,
    cancel: Cancel | None = None,
) -> Rebalanced:
    """Find the best plan that devices reach from the one in force by loading at most so many expert weights.

    Requests are split as by `plan_layer`: placements are searched on train requests and chosen on selection requests,
    and gains are of test requests. With counts alone, gains are of the peak of the expected load under even split, on
    every fifth step; with fewer than five steps, on those that were planned on.

    Parameters
    ----------
    current
        The plan in force.
    traces
        What `open_traces` gives, or what it takes, such as paths, counts included; nothing for the built-in trace.
    limits
        The budget in moves or bytes, and what moves must save; None for no limit.
    layers
        The ids of the layers to rebalance, which share the budget; None for all of the plan. The others stay.
    options
        Time limit in seconds, seed, search, constraints, and the routing policy, of which there must be one; None for
        the defaults and the plan's own policy.
    cost
        Costs that replace those of the plan's hardware; None for these.
    progress
        A callable that is told the stage and the share of it that is done, 0 to 1.
    cancel
        A token that ends the search with what it has, once it is asked; None for a search to the end.

    Returns
    -------
    Rebalanced
        The plan, the curve of gain against moves, and the moves in rounds.

    Raises
    ------
    InputError
        For traces that do not fit the plan, for layers that it lacks, for options that cannot be used, and of counts
        for a policy that is learned from tokens.

    Examples
    --------
    >>> import numpy as np
    >>> from optimizer import Hardware, Mesh, Model, Placement
    >>> own = Placement(np.array([[0, 1], [2, 3]]))
    >>> plan = Plan.of(own, 0, Model("tiny", 4, 0, 1), Hardware.of(mesh=Mesh(1, 2, 2)))
    >>> chosen = np.random.default_rng(0).integers(0, 4, (40, 32, 1))
    >>> wanted = SolveOptions(time_limit=20, iterations=200, routings=("even-source",))
    >>> rebalance(plan, chosen, MoveLimits(most_moves=0), options=wanted).found.moves
    0
    """
    wanted = options or SolveOptions(routings=(current.policy,), unit=current.unit)
    if len(wanted.routings) != 1:
        raise InputError("a plan is rebalanced for one routing policy; name one", "routings")
    effort = wanted.effort(cancel)
    costs = (cost or load_cost(current)).for_model(current.model)
    chosen = _layers(current, layers)
    made = current.layers[chosen[0]].provenance
    given = replace(as_planned(opened(traces), made), seed=wanted.seed)
    work, notes = _work(current, given, chosen, wanted, costs, progress)
    found = rebalance_plan(work, chosen, limits or MoveLimits(), effort, progress)
    return Rebalanced(found, (*notes, *costs.notes(current.model)))


def _work(
    current: Plan, given: TraceInput, layers: Sequence[int], options: SolveOptions, cost: Cost, progress: Progress
) -> tuple[LayerWork, list[str]]:
    """What finds the layers' points in these traces, and sentences on the traces and on what figures leave out."""
    counted = checked_counts(given, current.model)
    if counted is not None:
        counts, _ = counted
        return CountedWork.of(current, cost, options, counts, layers), [*counts.notes, counts_said(counts, options)]
    sources = _Sources.of(given, current, layers, cost, progress)
    work = SimulatedWork(current, cost, options, sources.of_layer)
    return work, [*sources.notes(), *_unjudged(current, options, layers)]


def counts_said(counts: Counts, options: SolveOptions) -> str:
    """What counts can say of a plan, in a sentence."""
    return (
        f"{counts.source}: counts alone, so gains are of the peak of the expected load with replicas of an expert used "
        f"evenly, whatever {options.routings[0]} does; latency needs token traces"
    )


def _layers(plan: Plan, wanted: Sequence[int] | None) -> list[int]:
    """The layers to rebalance, in ascending order."""
    if lacking := sorted(set(wanted or ()) - set(plan.layers)):
        there = ", ".join(map(str, sorted(plan.layers)))
        raise InputError(f"the plan has no layer {lacking[0]}; it has {there}", field="layer")
    return sorted(plan.layers if wanted is None else set(wanted))


@dataclass(frozen=True, eq=False)
class _Sources:
    """Where the batches of layers come from: one source of a single layer, or a reader that opens some at a time."""

    single: Source | None
    reader: LayerReader | None

    @classmethod
    def of(cls, given: TraceInput, plan: Plan, layers: Sequence[int], cost: Cost, progress: Progress) -> "_Sources":
        reading = partial(progress, "reading traces")
        if len(layers) > 1:
            return cls(None, LayerReader.of(given, plan.model, plan.mesh, layers, reading))
        return cls(checked_source(given, layers, plan.model, plan.mesh, reading, cost.preset.network.tokens), None)

    def of_layer(self, layer: int) -> Source:
        """The source that has a layer."""
        if self.reader is not None:
            return self.reader.source_of(layer)
        assert self.single is not None
        return self.single

    def notes(self) -> tuple[str, ...]:
        """What the user should know of the traces."""
        if self.reader is not None:
            return tuple(self.reader.notes)
        assert self.single is not None
        return self.single.origin, *self.single.notes


def _unjudged(current: Plan, options: SolveOptions, layers: Sequence[int]) -> list[str]:
    """What the figures leave out, in a sentence each."""
    said = []
    if current.capacity_factor is not None:
        said.append("the plan's capacity factor is kept, but figures are without it")
    if options.routings == ("sglang-static",) and len(layers) > 1:
        said.append(
            "SGLang's static table of a layer follows from the layers before it: figures take these as they are"
        )
    return said
