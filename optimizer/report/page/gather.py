"""Gathering what a page shows of a plan: batches are read once, and every run is fed with all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.cost import Cost
from optimizer.domain.problem import make_problem
from optimizer.errors import InputError
from optimizer.planning.judge_plan import as_planned, next_experts, wanted_layers
from optimizer.planning.options import Progress, silent
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.planning.replica_curves import ROUTINGS, ReplicaCurve, curve_of, task_of
from optimizer.report.page.facts import GREEDY, PLAN, JudgedRun, LayerFacts, PlanFacts
from optimizer.routing.capacity import Coactivation
from optimizer.routing.forecast import Forecast, recall
from optimizer.routing.hints import USUAL_HINTS, HintSettings
from optimizer.search.seeds.greedy import greedy
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import Simulation
from optimizer.statistics.checked import checked_source, suspicions_of
from optimizer.statistics.coactivation import pair_counts
from optimizer.traces.batches import Batches
from optimizer.traces.source import BATCHES_PER_SET, Source, TraceInput

GREEDY_ROUTING = "even-source"
"""How EPLB's placements are routed: round robin among the replicas of an expert, as in its own code."""

SCALE = 10_000
"""What a plan's mean loads are multiplied by, to make whole numbers of them for EPLB's scheme, which divides them: four
decimals, of the six that a plan file has, tell experts apart and fit into the integers of loads."""


CAPACITIES = (inf, 2.0, 1.5, 1.25, 1.1, 1.0)
"""Capacity factors of the curve: no limit, and from twice a replica's equal part to that part alone, closer together
where it bends. Not tuned."""


@dataclass(frozen=True)
class PageRequest:
    """What a page is to show.

    plan, cost: the plan, and what its work costs. named: the traces. routings: policies under which both placements are
    judged besides their own. before: a plan to compare with, under the name that pages give it; None for EPLB's scheme.
    layers: ids, None for all of the plan. batch_count: None for as many as a plan is judged on when it is made.
    command: the line that was typed. curves: whether one layer is judged with capacities and with fewer replicas, too.
    """

    plan: Plan
    cost: Cost
    named: TraceInput
    routings: tuple[str, ...] = ()
    before: tuple[str, Plan] | None = None
    layers: Sequence[int] | None = None
    batch_count: int | None = None
    command: str = ""
    curves: bool = False

    @property
    def before_name(self) -> str:
        """What the page calls the placement before."""
        return GREEDY if self.before is None else self.before[0]


@dataclass(frozen=True)
class Placed:
    """A layer of a plan, under the name that the page gives it."""

    name: str
    plan: Plan
    layer: int


class SlotSimulation(Simulation):
    """The simulator, which also keeps what slots serve: the pairs and the tiles of all batches, `[device, slot]`."""

    def __init__(self, placed: Placed, asked: PageRequest, conditions: Conditions, guess: Coactivation | None) -> None:
        plan = placed.plan
        part, before = plan.layers[placed.layer], plan.before(placed.layer)
        super().__init__(
            part.placement, asked.plan.model, plan.mesh, asked.cost, conditions, part.learned, guess, before
        )
        self.owner = placed.name
        self.slot_load = np.zeros(self.placement.slots.shape)
        self.slot_tiles = np.zeros(self.placement.slots.shape)

    def _chosen(self, batches: Batches, source: Ints) -> Ints:
        chosen = super()._chosen(batches, source)
        slots = self.placement.slots.size
        place = chosen + np.arange(batches.count)[:, None, None] * slots
        load = np.bincount(place[chosen >= 0], minlength=batches.count * slots).reshape(batches.count, slots)
        self.slot_load += load.sum(axis=0).reshape(self.slot_load.shape)
        self.slot_tiles += self.cost.tiles(load).sum(axis=0).reshape(self.slot_load.shape)
        return chosen

    def run(self) -> JudgedRun:
        """What came of all batches."""
        load, tiles = self.slot_load / self.batches, self.slot_tiles / self.batches
        return JudgedRun(self.owner, self.placement, self.report(), load, tiles)


def gather(asked: PageRequest, progress: Progress = silent) -> PlanFacts:
    """Simulate the plan and the placement before it, under the policies that are asked for, on the same batches.

    All requests count, unless the plan was made from these very traces: then its test requests alone do. EPLB's scheme
    places by the loads of the train batches that the plan was made from. Where other traces are given and the plan does
    not hold those loads, it places by the train requests of these, and both are judged on their test requests alone.
    Raises InputError as `judge` does, and for a placement before that does not fit the plan.
    """
    plan, layers = asked.plan, wanted_layers(asked.plan, asked.layers, asked.named)
    _check_before(asked, layers)
    named = as_planned(asked.named, plan.layers[layers[0]].provenance)
    named = replace(named, extras=plan.capacity_factor is not None)
    at, reading = asked.cost.preset.network.tokens, partial(progress, "reading traces")
    source = checked_source(named, layers, plan.model, plan.mesh, reading, at)
    facts: dict[int, LayerFacts] = {}
    looked_at = closest_look(plan, layers)
    for done, layer in enumerate(layers):
        share = partial(_part_of, progress, layer, done, len(layers))
        factors = CAPACITIES if asked.curves and layer == looked_at else ()
        facts[layer] = _layer(asked, source, layer, factors, share)
    if asked.curves:
        progress("replicas", 1.0)
        curve = _replica_curve(asked, source, looked_at, named.seed)
        facts[looked_at] = replace(facts[looked_at], replicas=curve)
    notes = (source.origin, *source.notes, *asked.cost.notes(plan.model))
    wrong = suspicions_of(source, named)
    generated = not (named.traces or named.batches or named.memory)
    return PlanFacts(plan, asked.cost, facts, asked.before_name, notes, asked.command, tuple(wrong), generated)


def _part_of(progress: Progress, layer: int, done: int, layers: int, share: float) -> None:
    progress(f"layer {layer}", (done + share) / layers)


def _check_before(asked: PageRequest, layers: Sequence[int]) -> None:
    """Raise InputError where the placement before is not one of the plan's experts on the plan's devices."""
    if asked.before is None:
        return
    name, before = asked.before
    model, mesh = asked.plan.model, asked.plan.mesh
    if (before.mesh.rows, before.mesh.cols) != (mesh.rows, mesh.cols):
        raise InputError(f"{name} is for {before.mesh}, but the plan for {mesh}", "before")
    if before.model.experts != model.experts:
        raise InputError(f"{name} places {before.model.experts} experts, but the plan {model.experts}", "before")
    if lacking := sorted(set(layers) - set(before.layers)):
        raise InputError(f"{name} has no layer {lacking[0]}; name the layers that both have", "before")


def _layer(
    asked: PageRequest, source: Source, layer: int, factors: Sequence[float], share: "partial[None]"
) -> LayerFacts:
    """One layer: all runs, those of the plan with these capacity factors, and what is counted of the batches."""
    plan, part = asked.plan, asked.plan.layers[layer]
    unseen = part.provenance.get("traces") == source.fingerprint(layer)
    own_loads = part.learned is not None and not unseen
    test_only = unseen or (asked.before is None and not own_loads)
    placed = _before(asked, source, layer, own_loads), Placed(PLAN, plan, layer)
    runs: list[SlotSimulation] = []
    routed = plan.model.routed_experts
    pairs, loads = np.zeros((routed, routed), dtype=np.int64), []
    for chunk in source.stream(layer, test_only, asked.batch_count):
        if not runs:
            limited = (bool(factors) or plan.capacity_factor is not None) and chunk.candidates is None
            guess = next_experts(source, layer, test_only) if limited else None
            trials = [*_trials(asked, placed), *_limited(asked, placed[1], factors)]
            runs = [SlotSimulation(each, asked, how, guess) for each, how in trials]
        for run in runs:
            run.feed(chunk)
        pairs += pair_counts(chunk.experts[..., : plan.model.top_k], routed)
        loads.append(chunk.load(plan.model.experts))
        share(runs[0].batches / (asked.batch_count or BATCHES_PER_SET))
    load = np.concatenate(loads)
    before, planned, *others = (run.run() for run in runs)
    capacities = tuple(run.report for run in others[len(others) - len(factors) :])
    others = others[: len(others) - len(factors)]
    known = hint_knowledge(load, _first_load(part, load), plan.hints or USUAL_HINTS)
    tokens = len(load) * planned.report.tokens
    return LayerFacts(layer, before, planned, tuple(others), load, pairs, tokens, known, test_only, capacities)


def _before(asked: PageRequest, source: Source, layer: int, own_loads: bool) -> "Placed":
    """The placement before: the one that was named, or EPLB's."""
    plan, part = asked.plan, asked.plan.layers[layer]
    if asked.before is not None:
        return Placed(asked.before[0], asked.before[1], layer)
    load: Ints
    if own_loads and part.learned is not None:
        load = np.rint(part.learned.load * SCALE).astype(np.int64)[None]
    else:
        load = source.sets(layer).train.load(plan.model.experts)
    problem = make_problem(plan.model, plan.mesh, asked.cost, load, layer=layer)
    made = Plan(plan.model, plan.mesh, plan.hardware, GREEDY_ROUTING, {layer: LayerPlan(greedy(problem))})
    return Placed(GREEDY, made, layer)


def _trials(asked: PageRequest, placed: tuple["Placed", "Placed"]) -> list[tuple["Placed", Conditions]]:
    """What is simulated: the placement before and the plan, each under its own policy, and then both under all others
    that are asked for. The capacity of the plan, if it has one, holds for its own run alone."""
    unit, hints = asked.plan.unit, asked.plan.hints or USUAL_HINTS
    found = [
        (each, Conditions(each.plan.policy, unit, capacity_factor=each.plan.capacity_factor, hints=hints))
        for each in placed
    ]
    for routing in dict.fromkeys((asked.plan.policy, *asked.routings)):
        found += [(each, Conditions(routing, unit, hints=hints)) for each in placed if each.plan.policy != routing]
    return found


def _limited(asked: PageRequest, placed: "Placed", factors: Sequence[float]) -> list[tuple["Placed", Conditions]]:
    """The plan under its own policy with each of the capacity factors; infinity stands for no limit."""
    plan, hints = asked.plan, asked.plan.hints or USUAL_HINTS
    return [
        (placed, Conditions(plan.policy, plan.unit, capacity_factor=None if factor == inf else factor, hints=hints))
        for factor in factors
    ]


def closest_look(plan: Plan, layers: Sequence[int]) -> int:
    """The layer that is looked at closest: the slowest by the plan file, or the first where it does not say."""
    slow = {layer: plan.layers[layer].quality.get("latency_us", {}).get("p99", 0.0) for layer in layers}
    return max(layers, key=lambda layer: slow[layer])


def _replica_curve(asked: PageRequest, source: Source, layer: int, seed: int) -> ReplicaCurve:
    """What further replicas win in one layer: placed by quick seeds on train batches, judged on test batches."""
    plan, sets = asked.plan, source.sets(layer)
    problem = make_problem(plan.model, plan.mesh, asked.cost, sets.train.load(plan.model.experts), layer=layer)
    routing = plan.policy if plan.policy in ROUTINGS else GREEDY_ROUTING
    return curve_of(task_of(layer, problem, sets, Conditions(routing, plan.unit), seed))


def _first_load(part: LayerPlan, load: Ints) -> Floats:
    """What hints expect before any batch was seen: the mean loads of the train batches, where the plan holds them, else
    equal ones, `[expert]`."""
    if part.learned is not None:
        return part.learned.load
    return np.full(load.shape[1], load[0].sum() / load.shape[1])


def hint_knowledge(load: Ints, first: Floats, settings: HintSettings) -> Floats:
    """The loads that a load hint expects before each batch, `[batch, expert]`.

    load `[batch, expert]` of consecutive batches; first `[expert]` is what it expects before it has seen any. It is an
    average that forgets, which learns of a batch `lag` batches later, and is looked at every `refresh` batches.
    """
    forecast = Forecast.of(first.astype(np.float64), settings.lag)
    known = np.empty(load.shape)
    shown = forecast.average.copy()
    for batch, seen in enumerate(np.ascontiguousarray(load, dtype=np.int32)):
        if batch % settings.refresh == 0:
            shown = forecast.average.copy()
        known[batch] = shown
        recall(*forecast, settings.kept, seen)
    return known
