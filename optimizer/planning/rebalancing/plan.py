"""A plan rebalanced: one budget of expert weights for all of its layers, spent where it wins most."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from optimizer.domain.cost import Cost
from optimizer.domain.placement import Placement
from optimizer.planning.choose_for_datasets import LATENCY, Measure
from optimizer.planning.options import Effort, Progress
from optimizer.planning.plan_file import Plan
from optimizer.planning.rebalancing.budgets import MoveLimits, budgets_of_layers, totals
from optimizer.planning.rebalancing.layer_work import LayerWork
from optimizer.planning.rebalancing.points import CurvePoint, LayerPoint, shared
from optimizer.planning.rebalancing.rounds import Chunk, chunks
from optimizer.planning.rebalancing.transfer import TransferTime, WeightLinks
from optimizer.routing.policies import REMEMBERING, price_us


@dataclass(frozen=True, eq=False)
class RebalancedPlan:
    """What rebalancing a plan came to.

    current: the plan in force. plan: the new one, or the one in force where moves do not pay. policy: under which all
    was judged. curve: points from no move to no limit; asked: the one that was asked for. expert_bytes: of the weights
    of one expert, None where they are not known; transfer: how long the moves take, None where that is not known.
    min_gain: as it was asked. measure: what all was judged by.
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
    measure: Measure = LATENCY

    @property
    def left_as_it_is(self) -> bool:
        """Whether the plan in force stays, as moves do not pay."""
        return self.plan is self.current

    @property
    def moves(self) -> int:
        """The expert weights that devices load for the plan."""
        return 0 if self.left_as_it_is else self.asked.moves


def rebalance_plan(
    work: LayerWork, layers: Sequence[int], limits: MoveLimits, effort: Effort, progress: Progress
) -> RebalancedPlan:
    """Rebalance these layers of the plan in force, under its work's one routing policy; the others stay as they are.

    Where the cancel token is asked, layers that have not had their turn stay as they are. Raises InputError where a
    layer's placement breaks a constraint of the work's options.
    """
    current, cost = work.current, work.cost
    expert_bytes = cost.expert_bytes(current.model)
    budget, slots = limits.moves(expert_bytes), current.mesh.slots
    grid = budgets_of_layers(budget, len(layers), slots)
    points: dict[int, list[LayerPoint]] = {}
    for number, layer in enumerate(layers):
        told = partial(_told, progress, layer, number, len(layers))
        points[layer] = work.points(layer, grid, budget is not None, _part(effort, len(layers) - number), told)
    curve = tuple(shared(points, grid, most) for most in totals(budget, len(layers) * slots))
    asked = next(point for point in curve if point.most == budget)
    pays = limits.min_gain is None or (asked.gain.mean >= limits.min_gain and asked.gain.low > 0)
    made = _made(work, asked) if pays else current
    moved = _moved(current, made, cost, limits.layers_each)
    transfer = None if expert_bytes is None else WeightLinks.of(current.mesh, cost, expert_bytes).time(moved)
    known = expert_bytes, transfer, limits.min_gain, work.measure
    return RebalancedPlan(current, made, work.options.routings[0], curve, asked, moved, *known)


def _told(progress: Progress, layer: int, number: int, layers: int, stage: str, share: float) -> None:
    """Tell the progress of a layer as that of all layers."""
    progress(f"layer {layer}: {stage}", (number + share) / layers)


def _part(effort: Effort, layers_left: int) -> Effort:
    """What one of the layers that are left may spend: an equal part of the time that is left."""
    return effort.within(effort.deadline.remaining() / layers_left)


def _made(work: LayerWork, asked: CurvePoint) -> Plan:
    """The plan with the layers of a point."""
    (policy,), parts = work.options.routings, {layer: point.part for layer, point in asked.layers.items()}
    return replace(
        work.current,
        policy=policy,
        layers=work.current.layers | parts,
        unit=work.options.unit,
        price_us=price_us(work.cost, policy),
        hints=work.hints if policy in REMEMBERING else None,
    )


def _moved(current: Plan, made: Plan, cost: Cost, layers_each: int) -> tuple[Chunk, ...]:
    """The moves from one plan to the other, a few layers at a time."""

    def placements(plan: Plan) -> dict[int, Placement]:
        return {layer: part.placement for layer, part in plan.layers.items()}

    distance = replace(current.network, tokens="device").distance
    return chunks(placements(current), placements(made), distance, layers_each)
