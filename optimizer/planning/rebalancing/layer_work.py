"""How the points of each layer's curve are found: here by simulating batches of tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from optimizer.domain.cost import Cost
from optimizer.domain.problem import Problem, make_problem
from optimizer.errors import InputError
from optimizer.planning.bounds import Gap, bound_any, gaps, reached_by
from optimizer.planning.choose_for_datasets import LATENCY, Measure
from optimizer.planning.options import Effort, Progress, SolveOptions
from optimizer.planning.plan_file import Plan
from optimizer.planning.plan_layer import part_of, provenance_of
from optimizer.planning.rebalancing.layer import LayerCurve, Rebalanced, curve_of
from optimizer.planning.rebalancing.points import LayerPoint
from optimizer.routing.hints import HintSettings
from optimizer.traces.batches import Sets
from optimizer.traces.source import Source


class LayerWork(Protocol):
    """Finds the points of layers' curves.

    current: the plan in force; cost: for its model; options: with the one policy that it is rebalanced for. measure:
    what layers are judged by. hints: how hints are made for what was found, None where the policy makes none.
    """

    @property
    def current(self) -> Plan: ...
    @property
    def cost(self) -> Cost: ...
    @property
    def options(self) -> SolveOptions: ...
    @property
    def measure(self) -> Measure: ...
    @property
    def hints(self) -> HintSettings | None: ...

    def points(
        self, layer: int, grid: Sequence[int], limited: bool, effort: Effort, progress: Progress
    ) -> list[LayerPoint]:
        """The points of a layer at no move, at each budget of the grid and without a limit. limited: whether a budget
        is what is wanted in the end. Raises InputError where the placement in force breaks a constraint."""


@dataclass(eq=False)
class SimulatedWork:
    """The points of layers by simulation. sources: gives the source that has a layer's batches; hints: as the first
    layer chose them, for all layers."""

    current: Plan
    cost: Cost
    options: SolveOptions
    sources: Callable[[int], Source]
    hints: HintSettings | None = None

    @property
    def measure(self) -> Measure:
        """What placements are judged by where tokens are known: their latency."""
        return LATENCY

    def points(
        self, layer: int, grid: Sequence[int], limited: bool, effort: Effort, progress: Progress
    ) -> list[LayerPoint]:
        """The points of one layer for each budget of the grid, as the protocol `LayerWork` asks for them."""
        source = self.sources(layer)
        sets = source.sets(layer)
        problem, placement = self._problem(layer, sets), self.current.layers[layer].placement
        curve = curve_of(problem, sets, placement, grid, self.options, effort, progress, self.hints, limited)
        self.hints = curve.hints
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
        return found

    def _problem(self, layer: int, sets: Sets) -> Problem:
        """The layer to be placed."""
        current, load = self.current, sets.train.load(self.current.model.experts)
        problem = make_problem(current.model, current.mesh, self.cost, load, self.options.constraints, layer)
        check_current(problem, current, layer)
        return replace(problem, layers_before=current.before(layer))


def check_current(problem: Problem, current: Plan, layer: int) -> None:
    """Raise InputError where a layer's placement in force breaks a constraint of the problem."""
    if faults := problem.violations(current.layers[layer].placement):
        raise InputError(f"the current plan breaks what is asked for: layer {layer} has {'; '.join(faults)}", "current")


def _point(curve: LayerCurve, point: Rebalanced, found: Sequence[Gap], provenance: dict[str, object]) -> LayerPoint:
    """What a budget wins, without the arrays that only its figures are drawn from."""
    part = part_of(curve.judge, point.placement, point.after, found, provenance)
    figures = point.selection_us, point.after.latency_us, float(point.after.imbalance.mean())
    return LayerPoint(point.most, point.moves, part, *figures, point.expected)
