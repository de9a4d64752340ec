"""The steps that are tried on one layer, each planned by `solve` and judged beside the present placement."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.problem import Constraints, Problem, make_problem
from optimizer.experiments.advice.levers import Kind, Lever, sufficient
from optimizer.experiments.advice.parts import CostParts
from optimizer.experiments.advice.present import (
    PLAIN,
    Present,
    constrained,
    default_present,
    extra_of,
    read_present,
    room_for,
)
from optimizer.interrupts import Cancel
from optimizer.planning.bounds import LATENCY, bound_any
from optimizer.planning.options import Progress, SolveOptions
from optimizer.planning.plan_layer import MethodResult, solve
from optimizer.planning.pool import LayerJudge
from optimizer.routing.hints import USUAL_HINTS
from optimizer.routing.servers.abilities import Server
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.report import SimulationReport
from optimizer.statistics.paired import Gain, gain_of_mean, gain_of_p99
from optimizer.traces.batches import Sets

EXTRA = (8, 16, 32, 64)
"""The numbers of redundant experts that are tried, as deployments use them; each is rounded up to what fits."""

ROUTINGS: dict[str, Kind] = {"table": "tables", "hint-device": "hints", "optimal": "optimal routing"}
"""The policies that are tried besides the server's own, and what they are called."""

OTHER_ROUTING, SEARCHED = 2.0, 0.6
"""How many times as much time other routing gets as a step, and the part of that in which plans are searched for: what
`solve` does about a capacity comes on top of its limit. Compromises, not tuned."""

MOST_REROUTED = 0.01
"""The share of pairs that a capacity may send to other experts; more is seldom acceptable. Not tuned."""


@dataclass(frozen=True, eq=False)
class LayerBatches:
    """One layer's batches and the machine, before anything is decided about slots."""

    number: int
    model: Model
    mesh: Mesh
    cost: Cost
    sets: Sets

    def problem(self, mesh: Mesh, constraints: Constraints) -> Problem:
        """The problem of placing the layer in the slots of this mesh."""
        load = self.sets.train.load(self.model.experts)
        return make_problem(self.model, mesh, self.cost, load, constraints, self.number)


@dataclass(frozen=True)
class Step:
    """What is planned: the slots, with at most so many replicas beyond one of each expert; or other routing."""

    kind: Kind
    mesh: Mesh
    extra: int

    @property
    def weight(self) -> float:
        """Its part of the time beside other steps: other routing are three policies, and a capacity on top."""
        return OTHER_ROUTING if self.kind == "tables" else 1.0

    @property
    def says(self) -> str:
        """The step in words; tables are tried together with all other routing."""
        if self.kind == "redundant experts":
            return f"{self.extra} redundant experts"
        return "other routing" if self.kind == "tables" else self.kind


@dataclass(frozen=True, eq=False)
class Judged:
    """The present placement, and the recommended step if there is one, at one number of tokens in a batch."""

    tokens: int
    before: SimulationReport
    after: SimulationReport | None

    @cached_property
    def gains(self) -> tuple[Gain, Gain] | None:
        """The gains of mean latency and of its 99th percentile."""
        if self.after is None:
            return None
        pair = self.before.latency_us, self.after.latency_us
        return gain_of_mean(*pair), gain_of_p99(*pair)


@dataclass(frozen=True, eq=False)
class Advice:
    """What was found about one layer.

    extra, slots: replicas of the present placement beyond one of each expert, and its slots on a device. report: of the
    present placement on the test batches. floor: a mean latency that no placement and routing goes below with its
    slots, microseconds, None where none is known. levers: from the cheapest on. sizes: other numbers of tokens in a
    batch. left_out: the steps, in words, for which no time was left.
    """

    layer: int
    server: Server
    present: Present
    extra: int
    slots: int
    parts: CostParts
    report: SimulationReport
    floor: float | None
    levers: list[Lever]
    sizes: list[Judged]
    left_out: tuple[str, ...] = ()

    @property
    def recommended(self) -> Lever | None:
        """The cheapest step that suffices."""
        return sufficient(self.levers)


@dataclass(frozen=True, eq=False)
class Study:
    """The present placement of a layer with its problem and report, and the options of planning."""

    layer: LayerBatches
    server: Server
    present: Present
    problem: Problem
    report: SimulationReport
    options: SolveOptions

    @classmethod
    def begun(cls, layer: LayerBatches, server: Server, file: Path | None, options: SolveOptions) -> "Study":
        """The study of a layer whose present placement is in a file, None for what the server does by itself. Raises
        InputError as `read_present` does."""
        if file is None:
            present = default_present(layer.problem(layer.mesh, Constraints()), server)
        else:
            present = read_present(file, layer.number, layer.model, layer.mesh, server)
        problem = layer.problem(present.mesh(layer.mesh), Constraints())
        report = _judged(layer, problem, Conditions(present.policy, options.unit, hints=present.hints), present)
        return cls(layer, server, present, problem, report, options)

    @cached_property
    def extra(self) -> int:
        """The present placement's replicas beyond one of each expert."""
        return extra_of(self.present.placement, self.problem)

    @property
    def steps(self) -> list[Step]:
        """What is tried, from the cheapest on."""
        here = Step("placement", self.problem.mesh, self.extra)
        found = {(here.mesh.slots_per_device, here.extra): here}
        for number in EXTRA:
            mesh, extra = room_for(self.server, self.layer.model, self.problem.mesh, number)
            found.setdefault((mesh.slots_per_device, extra), Step("redundant experts", mesh, extra))
        steps = [*sorted(found.values(), key=lambda step: (step is not here, step.extra)), replace(here, kind="tables")]
        return [step for step in steps if self._leaves_a_choice(step)]

    def _leaves_a_choice(self, step: Step) -> bool:
        """Whether an expert can be missing on some device: where all have all there is nothing to plan."""
        experts = self.layer.model.experts
        return step.extra < experts * (step.mesh.devices - 1)

    def tried(
        self, step: Step, before: Sequence[Lever], seconds: float, cancel: Cancel, progress: Progress
    ) -> list[Lever]:
        """The levers of a step, planned in this time; before: those of earlier steps."""
        if step.kind == "tables":
            return self._routed(before, seconds, cancel, progress)
        routings = self.server.policies if self.server.own_rule else (PLAIN,)
        problem = self.layer.problem(step.mesh, constrained(self.server, step.extra))
        if step.kind == "placement" and not problem.violations(self.present.placement):
            problem = replace(problem, start=self.present.placement)
        options = replace(self.options, time_limit=seconds, routings=routings)
        found = solve(problem, self.layer.sets, options, options.effort(cancel), progress).chosen
        return [self._lever(step.kind, step, found, True)]

    def _routed(self, before: Sequence[Lever], seconds: float, cancel: Cancel, progress: Progress) -> list[Lever]:
        """What other routing gains with the replicas of the step that suffices, or else of that which gains most; and
        what a capacity gains on top. Nothing where no expert has a second replica to choose."""
        with_replicas = [lever for lever in before if lever.extra > 0]
        if not with_replicas:
            return []
        chosen = sufficient(before)
        if chosen is None or chosen.extra == 0:
            chosen = max(with_replicas, key=lambda lever: lever.mean.share)
        step = Step("tables", replace(self.problem.mesh, slots_per_device=chosen.slots), chosen.extra)
        own = self.server.policies if self.server.own_rule else ()
        routings = tuple(name for name in ROUTINGS if name not in own)
        problem = self.layer.problem(step.mesh, constrained(self.server, step.extra))
        problem = replace(problem, start=chosen.placement)
        options = replace(self.options, time_limit=SEARCHED * seconds, routings=routings, max_rerouted=MOST_REROUTED)
        found = solve(problem, self.layer.sets, options, options.effort(cancel), progress)
        runs = not self.server.own_rule
        levers = [
            self._lever(ROUTINGS[name], step, found.searched[name], runs) for name in routings if name in found.searched
        ]
        return levers + ([] if found.rerouted is None else [self._lever("capacity", step, found.rerouted, runs)])

    def _lever(self, kind: Kind, step: Step, found: MethodResult, runs: bool) -> Lever:
        return Lever(
            kind,
            step.extra,
            step.mesh.slots_per_device,
            found.report.routing,
            runs,
            found.placement,
            found.report,
            self.report,
        )

    def at(self, other: LayerBatches, lever: Lever | None) -> Judged:
        """The present placement, and a lever's, on other batches of the same layer."""
        problem = other.problem(self.problem.mesh, Constraints())
        conditions = Conditions(self.present.policy, self.options.unit, hints=self.present.hints)
        before, after = LayerJudge(problem, other.sets, conditions).test(self.present.placement), None
        if lever is not None:
            mesh = replace(self.problem.mesh, slots_per_device=lever.slots)
            conditions = Conditions(lever.policy, self.options.unit, hints=lever.report.hints or USUAL_HINTS)
            after = LayerJudge(other.problem(mesh, Constraints()), other.sets, conditions).test(lever.placement)
        return Judged(before.tokens, before, after)

    def advice(self, levers: list[Lever], sizes: list[Judged], left_out: tuple[str, ...]) -> Advice:
        """What all of it comes to, with the bounds of the present slots."""
        problem, test = self.problem, self.layer.sets.test
        bounds = bound_any(test, problem.model, problem.mesh, problem.cost)
        least = next((each for each in bounds if each.unit == LATENCY and not each.only_for), None)
        return Advice(
            layer=self.layer.number,
            server=self.server,
            present=self.present,
            extra=self.extra,
            slots=problem.mesh.slots_per_device,
            parts=CostParts.of(self.report, bounds, problem.cost),
            report=self.report,
            floor=None if least is None else least.mean,
            levers=levers,
            sizes=sizes,
            left_out=left_out,
        )


def _judged(layer: LayerBatches, problem: Problem, conditions: Conditions, present: Present) -> SimulationReport:
    return LayerJudge(problem, layer.sets, conditions).test(present.placement)
