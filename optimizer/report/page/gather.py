"""Gathering what a page shows of a plan: batches are read once, and every run is fed with all of them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.problem import make_problem
from optimizer.errors import InputError
from optimizer.planning.judge_plan import as_planned, next_experts, wanted_layers
from optimizer.planning.options import Progress, silent
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.planning.replica_curves import ROUTINGS, ReplicaCurve, curve_of, task_of
from optimizer.report.page.facts import GREEDY, PLAN, LayerFacts, PlanFacts
from optimizer.report.page.hint_knowledge import hint_knowledge
from optimizer.report.page.request import CAPACITIES, GREEDY_ROUTING, PageRequest, Placed, closest_look, limited, trials
from optimizer.report.page.slot_simulation import SlotSimulation
from optimizer.routing.hints import USUAL_HINTS
from optimizer.search.seeds.greedy import greedy
from optimizer.simulation.conditions import Conditions
from optimizer.statistics.checked import checked_source, suspicions_of
from optimizer.statistics.coactivation import pair_counts
from optimizer.traces.source import BATCHES_PER_SET, Source

SCALE = 10_000
"""What a plan's mean loads are multiplied by, to make whole numbers of them for EPLB's scheme, which divides them: four
decimals, of the six that a plan file has, tell experts apart and fit into the integers of loads."""


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
            capped = (bool(factors) or plan.capacity_factor is not None) and chunk.candidates is None
            guess = next_experts(source, layer, test_only) if capped else None
            wanted = [*trials(asked, placed), *limited(asked, placed[1], factors)]
            runs = [SlotSimulation(each, asked, how, guess) for each, how in wanted]
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


def _before(asked: PageRequest, source: Source, layer: int, own_loads: bool) -> Placed:
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
    made = Plan(plan.model, plan.mesh, plan.hardware, asked.greedy_routing, {layer: LayerPlan(greedy(problem))})
    return Placed(GREEDY, made, layer)


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
