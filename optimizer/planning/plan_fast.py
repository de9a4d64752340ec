"""All layers planned at once on expected load alone: for a first plan of a whole model, or one every few minutes."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer import __version__
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem, check, make_problem
from optimizer.errors import InputError
from optimizer.planning.options import JOBS, Progress, SolveOptions, silent
from optimizer.planning.plan_expected_load import ROUTING, expected_imbalance
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.routing.policies import price_us
from optimizer.search.seeds.quick import quick
from optimizer.streams import Purpose, random_stream
from optimizer.traces.batches import split_requests
from optimizer.traces.fingerprints import fingerprints
from optimizer.traces.order import spans
from optimizer.traces.source import TraceSource
from optimizer.traces.trace import RoutingTrace

TOKENS = 1 << 20  # loads are scaled to this number of tokens, so that rounding to whole pairs loses little
TRAIN, TEST = range(2)


@dataclass(frozen=True, eq=False)
class FastLayer:
    """One layer: its placement, peak / mean expected device load of its train and test requests, seconds it took."""

    layer: int
    placement: Placement
    train_imbalance: float
    test_imbalance: float
    seconds: float


@dataclass(frozen=True, eq=False)
class FastResult:
    """The plan of all layers, the figures of each, and sentences that the user should read."""

    plan: Plan
    layers: list[FastLayer]
    notes: list[str]


def fast_plan(
    source: TraceSource,
    layers: Sequence[int],
    mesh: Mesh,
    cost: Cost,
    options: SolveOptions,
    progress: Progress = silent,
) -> FastResult:
    """Plan every layer on the loads of the train requests, and judge it on those of the test requests.

    The plan is for even routing. Of the options, constraints, seed and jobs (threads) apply. The seed and a layer's
    loads decide about it, whatever other layers there are. Raises InputError for a limit to traffic between rows, and
    where experts or requests do not suffice.
    """
    if options.constraints.row_traffic is not None:
        raise InputError(
            "a limit to the traffic between rows cannot be kept by a fast plan, which routes no token; leave one out",
            field="max_row_traffic",
        )
    load = loads_of(source, layers, options.jobs)
    problems = [make_problem(source.model, mesh, cost, of[None], options.constraints) for of in load[TRAIN]]
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = []
        for row in pool.map(partial(_planned, options.seed), layers, problems, load[TEST]):
            rows.append(row)
            progress("planning", len(rows) / len(layers))
    made = map(partial(_part, source, options.seed), rows, fingerprints(source.trace, layers))
    parts = dict(zip(layers, made, strict=True))
    plan = Plan(source.model, mesh, cost.name, ROUTING, parts, price_us=price_us(cost, ROUTING))
    note = "planned on expected load alone, without batches; `moeplan simulate` says what that comes to"
    return FastResult(plan, rows, [source.origin, *source.notes, note])


def _planned(seed: int, layer: int, problem: Problem, test: Ints) -> FastLayer:
    """The quick seed of one layer, with its figures on its own loads and on test `[expert]`."""
    started = time.perf_counter()
    placement = quick(problem, random_stream(Purpose.QUICK_PLACEMENT, seed, layer))
    seconds = time.perf_counter() - started
    check(problem, placement)
    before, after = (float(expected_imbalance(placement, load)[0]) for load in (problem.load, test[None]))
    return FastLayer(layer, placement, before, after, seconds)


def _part(source: TraceSource, seed: int, row: FastLayer, fingerprint: str) -> LayerPlan:
    quality = {"expected_imbalance": {"mean": row.test_imbalance, "max": row.test_imbalance}}
    provenance: dict[str, Any] = {
        "moeplan": __version__,
        "method": "fast",
        "seed": seed,
        "origin": source.origin,
        "traces": fingerprint,
        "phase": source.composition.phase,
        "row_users": list(source.composition.row_users),
    }
    return LayerPlan(row.placement, quality, {}, provenance)


def loads_of(source: TraceSource, layers: Sequence[int], jobs: int = JOBS) -> Ints:
    """Expected pairs of each expert in `TOKENS` tokens, `[set, layer, expert]` int32, shared experts included; the sets
    are `TRAIN` and `TEST`; jobs: threads that count.

    Tokens of the phases that batches are made of count, in the shares that they have in a batch.
    """
    train, _, test = split_requests(source.trace.requests, source.seed)
    found = group_loads(source, layers, (train, test), jobs)
    shared = np.ones((2, len(layers), source.model.shared_experts))
    whole: Ints = np.rint(TOKENS * np.concatenate([found, shared], axis=2)).astype(np.int32)
    return whole


def group_loads(source: TraceSource, layers: Sequence[int], groups: Sequence[Ints], jobs: int = JOBS) -> Floats:
    """Expected pairs of each routed expert per token, `[group, layer, expert]`, in groups of requests `[request]`.

    There are at most 127 groups, of which none shares a request with another. Tokens count as in `loads_of`.
    """
    trace, model = source.trace, source.model
    decodes = float(source.composition.decodes().mean())
    places = np.array([trace.place(layer) for layer in layers])
    found = np.zeros((len(groups), len(layers), model.routed_experts))
    for output, share in ((True, decodes), (False, 1 - decodes)):
        if share:
            turns = _turns(trace, [spans(trace, requests, output) for requests in groups])
            pairs = _pairs(trace.experts, places, turns, found.shape, jobs)
            found += share * pairs / (pairs.sum(axis=2, keepdims=True) / model.top_k)
    return found


def _turns(trace: RoutingTrace, parts: Sequence[Ints]) -> Ints:
    """For each token the number of the part to which it belongs, -1 for none, `[token]` int8. Each part is given by the
    stretches of tokens of its requests, `[request, 2]`."""
    change = np.zeros(trace.tokens + 1, dtype=np.int8)
    for number, part in enumerate(parts):
        np.add.at(change, part[:, 0], number + 1)
        np.add.at(change, part[:, 1], -number - 1)
    turns: Ints = np.cumsum(change[:-1], dtype=np.int8) - np.int8(1)
    return turns


def _pairs(experts: Ints, places: Ints, turns: Ints, shape: tuple[int, ...], jobs: int) -> Ints:
    """Pairs of each expert in each of the parts, of shape `[part, layer, expert]`, counted in `jobs` threads."""

    def counted(stretch: Ints) -> Ints:
        found = np.zeros(shape, dtype=np.int32)
        _count(experts, places, turns, int(stretch[0]), int(stretch[1]), found)
        return found

    ends = np.linspace(0, len(turns), jobs + 1).astype(np.int64)
    with ThreadPoolExecutor(jobs) as pool:
        total: Ints = np.sum(list(pool.map(counted, np.stack([ends[:-1], ends[1:]], axis=1))), axis=0, dtype=np.int64)
    return total


@kernel
def _count(experts: Ints, places: Ints, turns: Ints, first: int, last: int, found: Ints) -> None:
    for token in range(first, last):
        turn = turns[token]
        if turn >= 0:
            for number, place in enumerate(places):
                for expert in experts[token, place]:
                    found[turn, number, expert] += 1
