"""A plan rebalanced: one budget of expert weights for all of its layers, spent where it wins most."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from formulations.choice.slot_budget import share_budget
from formulations.kit.arrays import Floats
from optimizer.domain.cost import Cost
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem, make_problem
from optimizer.errors import InputError
from optimizer.planning.bounds import Gap, bound_any, gaps, reached_by
from optimizer.planning.options import Effort, Progress, SolveOptions
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.planning.plan_layer import part_of, provenance_of
from optimizer.planning.rebalancing.budgets import MoveLimits, budgets_of_layers, totals
from optimizer.planning.rebalancing.expected import ExpectedBound
from optimizer.planning.rebalancing.layer import LayerCurve, Rebalanced, curve_of
from optimizer.planning.rebalancing.rounds import Chunk, chunks
from optimizer.planning.rebalancing.transfer import TransferTime, WeightLinks
from optimizer.routing.hints import HintSettings
from optimizer.routing.policies import REMEMBERING, price_us
from optimizer.search.stop import Deadline
from optimizer.statistics.loads import PairedGain, paired_gain
from optimizer.traces.batches import Sets
from optimizer.traces.source import Source


@dataclass(frozen=True, eq=False)
class LayerPoint:
    """What one layer has within a budget of moves, None for no limit: its part of a plan, with figures on test batches;
    moves: those that it takes; selection_us: as of `Rebalanced`; latency_us `[batch]`:
    on test batches; imbalance: mean on test batches; expected: as of `Rebalanced`."""

    most: int | None
    moves: int
    part: LayerPlan
    selection_us: float
    latency_us: Floats
    imbalance: float
    expected: ExpectedBound | None


@dataclass(frozen=True, eq=False)
class CurvePoint:
    """What all layers together have within a budget, None for no limit; layers: the point of each. before_us and
    latency_us `[batch]`: of all layers one after another on the same test batches, as they are now and then."""

    most: int | None
    layers: Mapping[int, LayerPoint]
    before_us: Floats
    latency_us: Floats

    @property
    def moves(self) -> int:
        """The expert weights that devices load."""
        return sum(point.moves for point in self.layers.values())

    @property
    def selection_us(self) -> float:
        """The sum over layers of what decided between placements, on selection batches."""
        return sum(point.selection_us for point in self.layers.values())

    @property
    def imbalance(self) -> float:
        """The mean over layers of the mean imbalance on test batches."""
        return float(np.mean([point.imbalance for point in self.layers.values()]))

    @cached_property
    def gain(self) -> PairedGain:
        """The share of the mean latency that is saved, with its 95 % interval."""
        return paired_gain(self.before_us, self.latency_us)


@dataclass(frozen=True, eq=False)
class RebalancedPlan:
    """What rebalancing a plan came to.

    current: the plan in force. plan: the new one, or the one in force where moves do not pay. policy: under which all
    was judged. curve: points from no move to no limit; asked: the one that was asked for. expert_bytes: of the weights
    of one expert, None where they are not known; transfer: how long the moves take, None where that is not known.
    min_gain: as it was asked.
    """

    current: Plan
    plan: Plan
    policy: str
    curve: tuple[CurvePoint, ...]
    asked: CurvePoint
    chunks: tuple[Chunk, ...]
    expert_bytes: float | None
    transfer: TransferTime | None
    min_gain: float | None

    @property
    def left_as_it_is(self) -> bool:
        """Whether the plan in force stays, as moves do not pay."""
        return self.plan is self.current

    @property
    def moves(self) -> int:
        """The expert weights that devices load for the plan."""
        return 0 if self.left_as_it_is else self.asked.moves


Sources = Callable[[int], Source]
"""Gives the source that has a layer's batches."""


def rebalance_plan(
    current: Plan,
    sources: Sources,
    layers: Sequence[int],
    cost: Cost,
    options: SolveOptions,
    limits: MoveLimits,
    effort: Effort,
    progress: Progress,
) -> RebalancedPlan:
    """Rebalance these layers of a plan, under the one routing policy of the options; the others stay as they are.

    cost: for the plan's model. Where the cancel token is asked, layers that have not had their turn stay as they are.
    Raises InputError where a layer's placement breaks a constraint of the options.
    """
    expert_bytes = cost.expert_bytes(current.model)
    budget = limits.moves(expert_bytes)
    work = _Work(current, cost, options, budgets_of_layers(budget, len(layers), current.mesh.slots), budget is not None)
    points: dict[int, list[LayerPoint]] = {}
    hints: HintSettings | None = None
    for number, layer in enumerate(layers):
        told = partial(_told, progress, layer, number, len(layers))
        points[layer], hints = work.points(sources(layer), layer, _part(effort, len(layers) - number), told, hints)
    curve = tuple(_shared(points, work.grid, most) for most in totals(budget, len(layers) * current.mesh.slots))
    asked = next(point for point in curve if point.most == budget)
    pays = limits.min_gain is None or (asked.gain.mean >= limits.min_gain and asked.gain.low > 0)
    made = _made(current, asked, cost, options, hints)
    moved = _moved(current, made if pays else current, cost, limits.layers_each)
    transfer = None if expert_bytes is None else WeightLinks.of(current.mesh, cost, expert_bytes).time(moved)
    known = expert_bytes, transfer, limits.min_gain
    return RebalancedPlan(current, made if pays else current, options.routings[0], curve, asked, moved, *known)


def _told(progress: Progress, layer: int, number: int, layers: int, stage: str, share: float) -> None:
    """Tell the progress of a layer as that of all layers."""
    progress(f"layer {layer}: {stage}", (number + share) / layers)


def _part(effort: Effort, layers_left: int) -> Effort:
    """What one of the layers that are left may spend: an equal part of the time that is left."""
    seconds = effort.deadline.remaining() / layers_left
    return replace(effort, deadline=Deadline(seconds, cancel=effort.deadline.cancel))


@dataclass(frozen=True, eq=False)
class _Work:
    """What all layers of a run have in common. grid: the budgets for which each is searched; limited: whether a budget
    is what is wanted in the end."""

    current: Plan
    cost: Cost
    options: SolveOptions
    grid: tuple[int, ...]
    limited: bool

    def points(
        self, source: Source, layer: int, effort: Effort, progress: Progress, hints: HintSettings | None
    ) -> tuple[list[LayerPoint], HintSettings]:
        """A layer's points at no move, at each budget of the grid and without a limit; and how hints are made for it,
        where `hints` does not say."""
        sets = source.sets(layer)
        problem, placement = self._problem(layer, sets), self.current.layers[layer].placement
        asked = self.options, effort, progress, hints, self.limited
        curve = curve_of(problem, sets, placement, self.grid, *asked)
        progress("judging", 1.0)
        provenance = provenance_of(source, layer, sets, self.options.seed) | {"method": "rebalance"}
        bounds = [] if effort.cancel.asked else bound_any(sets.test, problem.model, problem.mesh, self.cost)
        parts: dict[bytes, LayerPoint] = {}
        found = []
        for point in curve.points():
            key = point.placement.slots.tobytes()
            if key not in parts:
                parts[key] = _point(curve, point, gaps(bounds, reached_by(point.after)), provenance)
            found.append(replace(parts[key], most=point.most, expected=point.expected))
        return found, curve.hints

    def _problem(self, layer: int, sets: Sets) -> Problem:
        """The layer to be placed. Raises InputError where the placement in force breaks a constraint."""
        current, load = self.current, sets.train.load(self.current.model.experts)
        problem = make_problem(current.model, current.mesh, self.cost, load, self.options.constraints, layer)
        if faults := problem.violations(current.layers[layer].placement):
            said = f"the current plan breaks what is asked for: layer {layer} has {'; '.join(faults)}"
            raise InputError(said, "current")
        return replace(problem, layers_before=current.before(layer))


def _point(curve: LayerCurve, point: Rebalanced, found: Sequence[Gap], provenance: dict[str, object]) -> LayerPoint:
    """What a budget wins, without the arrays that only its figures are drawn from."""
    part = part_of(curve.judge, point.placement, point.after, found, provenance)
    figures = point.selection_us, point.after.latency_us, float(point.after.imbalance.mean())
    return LayerPoint(point.most, point.moves, part, *figures, point.expected)


def _shared(points: Mapping[int, Sequence[LayerPoint]], grid: Sequence[int], most: int | None) -> CurvePoint:
    """A budget for all layers shared out so that the sum of their latencies on selection batches is least."""
    if most is None:
        chosen = {layer: of[-1] for layer, of in points.items()}
    else:
        value = np.array([[point.selection_us for point in of[:-1]] for of in points.values()])
        taken = share_budget(value, np.array([0, *grid]), most).value
        assert taken is not None  # no move at all is within any budget
        chosen = {layer: of[option] for (layer, of), option in zip(points.items(), taken, strict=True)}
    before = np.sum([of[0].latency_us for of in points.values()], axis=0)
    after = np.sum([point.latency_us for point in chosen.values()], axis=0)
    return CurvePoint(most, chosen, before, after)


def _made(current: Plan, asked: CurvePoint, cost: Cost, options: SolveOptions, hints: HintSettings | None) -> Plan:
    """The plan with the layers of a point."""
    (policy,), parts = options.routings, {layer: point.part for layer, point in asked.layers.items()}
    return replace(
        current,
        policy=policy,
        layers=current.layers | parts,
        unit=options.unit,
        price_us=price_us(cost, policy),
        hints=hints if policy in REMEMBERING else None,
    )


def _moved(current: Plan, made: Plan, cost: Cost, layers_each: int) -> tuple[Chunk, ...]:
    """The moves from one plan to the other, a few layers at a time."""

    def placements(plan: Plan) -> dict[int, Placement]:
        return {layer: part.placement for layer, part in plan.layers.items()}

    distance = replace(current.network, tokens="device").distance
    return chunks(placements(current), placements(made), distance, layers_each)
