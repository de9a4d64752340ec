"""How many replicas a layer needs: what it costs with more and more of them, and a budget shared out over layers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from formulations.choice.slot_budget import share_budget
from formulations.kit.arrays import Floats, Ints
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem, check
from optimizer.search.seeds.flexibility import flexibility
from optimizer.search.seeds.quick import quick
from optimizer.search.seeds.risk import risk
from optimizer.search.split_state import exact_peaks
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import simulate
from optimizer.streams import Purpose, random_stream
from optimizer.traces.batches import Batches, Sets

ROUTINGS = ("even-source", "optimal")
JUDGED = 256  # batches of each set, spread over it, as neighbours share most of their requests
POINTS = 8  # at least, at even distances on a curve where there is room, and fewer than twice as many; not tuned
LATENCY = 2  # the place of latency in `Figures`


class Figures(NamedTuple):
    """Means over batches at each point of a curve, each `[point]`: peak / mean device load, tiles (or tokens, see
    `Cost.unit`) on the fullest device, latency in microseconds."""

    imbalance: Floats
    tiles: Floats
    latency_us: Floats


@dataclass(frozen=True, eq=False)
class ReplicaCurve:
    """What a layer costs with at most so many extra replicas, extra `[point]`, ascending from 0, on selection batches
    and on test batches; batches, tokens: how many test batches, and tokens in each."""

    layer: int
    extra: Ints
    selection: Figures
    test: Figures
    batches: int
    tokens: int


@dataclass(frozen=True, eq=False)
class CurveTask:
    """One layer whose curve is wanted at `extra [point]`; problem: with as many replicas as it may have; conditions:
    with one of `ROUTINGS`."""

    layer: int
    problem: Problem
    selection: Batches
    test: Batches
    extra: Ints
    conditions: Conditions
    seed: int


@dataclass(frozen=True, eq=False)
class SlotShares:
    """A budget of extra replicas for all layers of some curves together. Points of the curves, `[layer]`: equal, where
    all layers have as many, and shared, where they have them where they help most."""

    budget: int
    curves: Sequence[ReplicaCurve]
    equal: Ints
    shared: Ints

    @property
    def extra(self) -> dict[int, int]:
        """The extra replicas of each layer where they are shared out."""
        chosen = zip(self.curves, self.shared, strict=True)
        return {curve.layer: int(curve.extra[point]) for curve, point in chosen}

    def test(self, places: Ints) -> Figures:
        """Means over layers of the test figures at these points `[layer]`, each a single number."""
        of = [np.array(curve.test)[:, point] for curve, point in zip(self.curves, places, strict=True)]
        return Figures(*np.mean(of, axis=0))


def task_of(
    layer: int, problem: Problem, sets: Sets, conditions: Conditions, seed: int, wanted: Sequence[int] = ()
) -> CurveTask:
    """The task for a layer with its batches; wanted: numbers of extra replicas that the curve is to have a point for,
    if there is room, besides those that fill one, two or more slots of every device."""
    extra = points(most_extra(problem), (*wanted, *filling(problem)))
    return CurveTask(layer, problem, _thinned(sets.selection), _thinned(sets.test), extra, conditions, seed)


def most_extra(problem: Problem) -> int:
    """How many replicas beyond one each there may be of the experts whose count is not fixed."""
    free = int((~problem.spread).sum())
    return min(problem.most_free_replicas, free * problem.mesh.devices) - free


def filling(problem: Problem) -> list[int]:
    """The numbers of extra replicas that fill the same number of slots on every device, where tiles are paid for and
    a further slot so may take a further tile."""
    if problem.cost.unit != "tiles":
        return []
    depths = range(problem.least_slots, problem.mesh.slots_per_device)
    return [number for depth in depths if (number := most_extra(problem.on_slots(depth))) >= 0]


def points(most: int, wanted: Sequence[int] = ()) -> Ints:
    """Numbers of extra replicas from 0 to the most, by steps of a power of two, and where the curve is steep by smaller
    powers; and the wanted ones, no larger than the most. Ascending."""
    step = 1 << max(most // POINTS, 1).bit_length() - 1
    first = [1 << power for power in range(step.bit_length())]
    return np.unique([min(number, most) for number in (*range(0, most + 1, step), most, *first, *wanted)])


def curve_of(task: CurveTask) -> ReplicaCurve:
    """Plan the layer with each number of extra replicas, and judge it.

    Of the candidates the one of least latency on selection batches stands. That of fewer replicas is a candidate too,
    as slots may be left empty: so with more slots latency is never higher there.
    """
    judged: list[tuple[Floats, Floats]] = []
    best: tuple[Placement, Floats] | None = None
    for number in task.extra.tolist():
        problem, before = replace(task.problem, extra_replicas=number), best
        for placement in _candidates(problem, task):
            check(problem, placement)
            figures = _judged(task, placement, task.selection)
            if best is None or figures[LATENCY] < best[1][LATENCY]:
                best = placement, figures
        assert best is not None
        judged.append(judged[-1] if best is before else (best[1], _judged(task, best[0], task.test)))
    selection, test = np.array(judged).transpose(1, 2, 0)
    return ReplicaCurve(task.layer, task.extra, Figures(*selection), Figures(*test), task.test.count, task.test.tokens)


def _candidates(problem: Problem, task: CurveTask) -> Iterator[Placement]:
    """For even routing one that levels the expected load and one that reckons with bursts; which has fewer tiles
    depends on the loads. Where tiles are paid for and replicas fit in fewer slots of each device than there are, those
    in as few as they need, too, as levelling loads does not tell how many experts a device works on."""
    wanted, depth = [problem], -(-problem.most_replicas // problem.mesh.devices)
    if problem.cost.unit == "tiles" and depth < problem.mesh.slots_per_device:
        wanted.append(problem.on_slots(depth))
    for on_slots in wanted:
        if task.conditions.routing == "optimal":
            made = [flexibility(on_slots)]
        else:
            rng = random_stream(Purpose.REPLICA_CURVES, task.seed, task.layer)
            made = [quick(on_slots, rng), risk(on_slots)]
        yield from (placement.with_slots(problem.mesh.slots_per_device) for placement in made)


def _judged(task: CurveTask, placement: Placement, batches: Batches) -> Floats:
    """The `Figures` of a placement, `[figure]`.

    With optimal routing imbalance and tiles are the least that any split has, each on its own; latency is that of the
    policy, which levels what compute is paid by or what it is told to.
    """
    model, mesh, cost = task.problem.model, task.problem.mesh, task.problem.cost
    report = simulate(placement, batches, model, mesh, cost, task.conditions)
    imbalance, tiles = report.imbalance, report.tiles
    if task.conditions.routing == "optimal":
        load = batches.load(model.experts)
        imbalance = exact_peaks(placement, load) * mesh.devices / load.sum(axis=1)
        tiles = exact_peaks(placement, cost.tiles(load))
    return np.array([imbalance.mean(), tiles.mean(), report.latency_us.mean()])


def _thinned(batches: Batches) -> Batches:
    """At most `JUDGED` of the batches, at even distances."""
    step = -(-batches.count // JUDGED)
    source = None if batches.source is None else batches.source[::step]
    return Batches(batches.experts[::step], batches.source_row[::step], source=source)


def share_slots(curves: Sequence[ReplicaCurve], budget: int) -> SlotShares:
    """Share a budget out over layers whose curves have the same points, so that the sum of their latencies on selection
    batches, which a token spends in one after another, is least. Raises ValueError where points differ."""
    extra = curves[0].extra
    if any(curve.extra.tolist() != extra.tolist() for curve in curves):
        raise ValueError("curves of layers with different numbers of extra replicas")
    shared = share_budget(np.array([curve.selection.latency_us for curve in curves]), extra, budget).value
    assert shared is not None  # no extra replicas are within any budget
    equal = np.full(len(curves), np.flatnonzero(extra <= budget // len(curves))[-1])
    return SlotShares(budget, curves, equal, shared)
