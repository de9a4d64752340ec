"""What no placement of a layer can beat: every bound with its unit, and in words what it bounds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from formulations.batches.replica_routing import holders_of, least_peaks
from formulations.bounds.communication import copies_bound, hops_bound
from formulations.bounds.load import any_placement_bound, slot_budget_bound, static_counts_bound
from formulations.kit.arrays import Floats, Ints
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.placement import Placement
from optimizer.errors import InputError
from optimizer.planning.compute_bounds import beside_us, compute_us, least_compute_us, least_shared_replicas
from optimizer.planning.latency_bounds import least_latency, slowest_batches
from optimizer.planning.link_bounds import LeastTimes, Links, SplitMessages
from optimizer.routing.policies import ONE_REPLICA
from optimizer.search.split_state import exact_peaks
from optimizer.simulation.report import SimulationReport
from optimizer.traces.batches import Batches

IMBALANCE, TILES, COPIES, HOPS, TIME = "imbalance", "tiles", "copies_per_token", "hops_per_token", "compute_us"
DISPATCH, COMBINE, LATENCY = "dispatch_us", "combine_us", "latency_us"
ALONE = "the mean load, or replicas that hot experts need; even with a placement for each batch alone"
STATIC = "replicas that one batch needs take slots that another needs"
BUSIEST = "fixed times, and links that share evenly what tokens must travel"
EVENLY = "a device with the least peak, and devices that share all work evenly"
STAGES = "fixed times, compute, and what links carry, each at its least"


@dataclass(frozen=True)
class Bound:
    """A lower bound on the mean over batches of a figure of the simulator, in this unit, and on its p50 and p99, None
    where it is one on the mean alone; says: what is bounded and why. given: it holds for the placement given, and
    otherwise for any. only_for: the routing policies for which it holds; empty for all."""

    name: str
    unit: str
    says: str
    mean: float
    p50: float | None = None
    p99: float | None = None
    given: bool = False
    only_for: tuple[str, ...] = ()

    def holds_for(self, routing: str) -> bool:
        """Whether it holds for plans of this routing policy."""
        return not self.only_for or routing in self.only_for


@dataclass(frozen=True)
class Gap:
    """What a plan reaches of one unit, and the strongest bounds: for any placement, and for its own, if there is one.

    reached is a mean over batches; tails: p50 and p99 over batches by these names, where any placement's are bounded
    and the plan's are of interest. Ratios are relative to the bound: .1 is a tenth above it; None above a bound of
    nothing at all.
    """

    unit: str
    reached: float
    any_placement: Bound
    this_placement: Bound | None
    tails: Mapping[str, "Tail"] = field(default_factory=dict)

    @property
    def to_any(self) -> float | None:
        """How far the reached value is above the bound for any placement, as a share of that bound."""
        return self._above(self.any_placement)

    @property
    def to_this(self) -> float | None:
        """How far the reached value is above the bound for this placement, as a share of that bound."""
        return None if self.this_placement is None else self._above(self.this_placement)

    def _above(self, bound: Bound) -> float | None:
        return self.reached / bound.mean - 1 if bound.mean > 0 else None

    def summary(self) -> dict[str, Any]:
        """The stable JSON form, as in plan files."""
        free = self.any_placement
        found = {
            "reached": self.reached,
            "any_placement": free.mean,
            "by": free.name,
            "gap_to_any_placement": self.to_any,
        }
        if self.this_placement is not None:
            found |= {"this_placement": self.this_placement.mean, "gap_to_this_placement": self.to_this}
        for name, tail in self.tails.items():
            found[name] = {"reached": tail.reached, "any_placement": tail.bound, "gap_to_any_placement": tail.gap}
        return found


@dataclass(frozen=True)
class Tail:
    """What a plan reaches of a quantile over batches, and what no plan goes below."""

    reached: float
    bound: float

    @property
    def gap(self) -> float | None:
        """How far the plan is above the bound, as a share of that bound."""
        return self.reached / self.bound - 1 if self.bound > 0 else None


def bound_any(batches: Batches, model: Model, mesh: Mesh, cost: Cost, grouped: bool = True) -> list[Bound]:
    """Bounds of one layer on these batches, for any one placement of all of them; grouped: whether it is worth the
    double time to prove up to half a per cent more of the latency.

    They hold for every routing that serves each pair by a replica of its expert: not where pairs are dropped or
    rerouted to other experts. Those on the time of compute need the op that packs tokens per expert, and devices that
    are not slowed down; there are none for the functional op, whose time follows from blocks of tokens.
    Raises InputError where the experts do not fit in the slots.
    """
    _check_fit(model.experts, mesh)
    load = batches.load(model.experts)
    tiles = cost.tiles(load)
    found = list(_peaks(load, mesh, IMBALANCE, load.sum(axis=1) / mesh.devices))
    if cost.unit == "tiles":
        found += _peaks(tiles, mesh, TILES, np.ones(len(load)))
    links = Links(batches, model, mesh, cost, grouped)
    together = links.together(slice(None))
    found += _communication(links, together)
    if cost.moe_op == "functional":
        return found + list(_transfers(links, links.least_us(together, links.split(together))))
    time = least_compute_us(batches, model, mesh, cost)
    shared = least_shared_replicas(time + links.most_us, batches, model, mesh, cost)
    split = links.split(together, shared_replicas=shared)
    found += _transfers(links, links.least_us(together, split))
    found.append(_of("compute", TIME, EVENLY, time))
    found += _latency(links, time + links.fixed_us, together, split)
    return found


def bound_compute(batches: Batches, model: Model, mesh: Mesh, cost: Cost) -> Bound | None:
    """The bound on the time of compute alone, of those of `bound_any`; None where there is none."""
    if cost.moe_op == "functional":
        return None
    return _of("compute", TIME, EVENLY, least_compute_us(batches, model, mesh, cost))


def bound_given(batches: Batches, model: Model, mesh: Mesh, cost: Cost, placement: Placement) -> list[Bound]:
    """What the best routing of each batch reaches with this placement, under the conditions of `bound_any`, and what
    forces the peak of the worst batch."""
    load = batches.load(model.experts)
    beside = beside_us(batches, mesh, cost)
    return list(_for_placement(load, cost.tiles(load), beside, mesh, cost, placement))


def bound_steps(load: Ints, mesh: Mesh) -> list[Bound]:
    """Bounds on peak / mean expected load for any one placement: load `[step, expert]`, shared out in parts of pairs.

    The bounds of `formulations.bounds.load` are on whole peaks; less one pair they hold for parts.
    Raises InputError where the experts do not fit in the slots.
    """
    _check_fit(load.shape[1], mesh)
    mean = load.sum(axis=1) / mesh.devices
    budget = np.maximum(mean, slot_budget_bound(load, mesh.slots) - 1)
    static = (static_counts_bound(load, mesh.devices, mesh.slots) - 1) / float(mean.max())
    return [
        _of("any_placement", IMBALANCE, ALONE, budget / mean),
        Bound("static_counts", IMBALANCE, STATIC, static),
    ]


def gaps(bounds: Sequence[Bound], reached: Mapping[str, float]) -> list[Gap]:
    """How far what is reached, a mean over the same batches for each unit, is from the strongest bounds."""
    found = []
    for unit, value in reached.items():
        free = max((each for each in bounds if each.unit == unit and not each.given), key=by_mean, default=None)
        given = max((each for each in bounds if each.unit == unit and each.given), key=by_mean, default=None)
        if free is not None:
            found.append(Gap(unit, value, free, given))
    return found


def gaps_of(bounds: Sequence[Bound], report: SimulationReport) -> list[Gap]:
    """How far a simulation on the same batches is from the strongest bounds that hold for its policy. The price of the
    policy is part of the bounds on latency."""
    price, quantiles = report.price_us, np.percentile(report.latency_us, [50, 99])
    held = [each for each in bounds if each.holds_for(report.routing)]
    found = gaps([_priced(each, price) if each.unit == LATENCY else each for each in held], reached_by(report))
    return [_with_tails(gap, *map(float, quantiles)) if gap.unit == LATENCY else gap for gap in found]


def _priced(bound: Bound, price_us: float) -> Bound:
    """The bound on the latency under a policy that takes so long to decide."""
    if price_us == 0:
        return bound
    p50, p99 = (None if each is None else each + price_us for each in (bound.p50, bound.p99))
    says = f"{bound.says}, and the {price_us:g} us that the policy takes"
    return replace(bound, mean=bound.mean + price_us, p50=p50, p99=p99, says=says)


def _with_tails(gap: Gap, p50: float, p99: float) -> Gap:
    """The gap with these quantiles, where they are bounded."""
    free = gap.any_placement
    bounded = {"p50": (p50, free.p50), "p99": (p99, free.p99)}
    return replace(
        gap, tails={name: Tail(reached, least) for name, (reached, least) in bounded.items() if least is not None}
    )


def reached_by(report: SimulationReport) -> dict[str, float]:
    """What a simulation reached of everything that is bounded, mean over batches."""
    values = {
        LATENCY: report.latency_us,
        IMBALANCE: report.imbalance,
        TILES: report.tiles,
        COPIES: report.per_token("copies"),
        HOPS: report.hops,
        DISPATCH: report.dispatch_us,
        TIME: report.compute_us,
        COMBINE: report.combine_us,
    }
    return {unit: float(value.mean()) for unit, value in values.items()}


def by_mean(bound: Bound) -> float:
    """The mean of a bound: the largest mean is the strongest bound."""
    return bound.mean


def _check_fit(experts: int, mesh: Mesh) -> None:
    if experts > mesh.slots:
        said = f"{experts} experts do not fit in {mesh.slots} slots; take more slots per device, or a larger mesh"
        raise InputError(said, field="slots_per_device")


def _of(name: str, unit: str, says: str, values: Floats | Ints, given: bool = False) -> Bound:
    """A bound for each batch: values `[batch]`."""
    p50, p99 = np.percentile(values, [50, 99])
    return Bound(name, unit, says, float(values.mean()), float(p50), float(p99), given)


def _peaks(units: Ints, mesh: Mesh, unit: str, scale: Floats) -> Iterator[Bound]:
    """Bounds on the peak device load, units `[batch, expert]` in tokens or tiles, divided by scale `[batch]`."""
    suffix = "_tiles" if unit == TILES else ""
    static = static_counts_bound(units, mesh.devices, mesh.slots)
    yield _of(f"any_placement{suffix}", unit, ALONE, any_placement_bound(units, mesh.devices, mesh.slots) / scale)
    yield Bound(f"static_counts{suffix}", unit, STATIC, static / float(scale.max()))


def _communication(links: Links, together: Ints) -> Iterator[Bound]:
    """Bounds on copies and hops, of the routed experts alone: shared experts go with every token, which weakens the
    bound of all."""
    mesh, routed = links.mesh, links.model.routed_experts
    tokens, distance, alone = links.batches.source_row.size, links.network.distance, together[:, :routed, :routed]
    copies = copies_bound(alone.sum(axis=0), mesh.devices, mesh.slots_per_device)
    yield Bound("copies", COPIES, "a device has few slots, so few of a token's experts can be on one", copies / tokens)
    hops = hops_bound(alone, distance, mesh.slots_per_device, mesh.slots - links.model.shared_experts)
    yield Bound("hops", HOPS, "an expert has few replicas, and few sources are near to each", hops / tokens)


def _transfers(links: Links, least: LeastTimes) -> Iterator[Bound]:
    """Bounds on the times of dispatch and of combine; least: what links take at least in all batches."""
    fixed, count = links.alternatives[0], links.batches.count
    yield Bound("dispatch", DISPATCH, BUSIEST, fixed.dispatch_fixed_us + least.dispatch / count)
    yield Bound("combine", COMBINE, BUSIEST, fixed.combine_fixed_us + least.combine / count)


def _latency(links: Links, rest_us: Floats, together: Ints, split: SplitMessages) -> Iterator[Bound]:
    """Bounds on the latency under any policy, and under those that are a dispatch table; rest_us `[batch]`: what a
    batch takes at least besides what its links carry; together: `Links.together` of all batches; split: of messages
    under any policy."""
    slowest = slowest_batches(links, rest_us)
    least = least_latency(links, rest_us, slowest, split)
    yield Bound("latency", LATENCY, STAGES, least.mean, least.p50, least.p99)
    least, says = (
        least_latency(
            links, rest_us, slowest, links.split(together, tables=True, shared_replicas=split.shared_replicas)
        ),
        f"{STAGES}; sources use one replica of an expert",
    )
    yield Bound("latency_by_table", LATENCY, says, least.mean, least.p50, least.p99, only_for=ONE_REPLICA)


def _for_placement(
    load: Ints, tiles: Ints, beside: Floats, mesh: Mesh, cost: Cost, placement: Placement
) -> Iterator[Bound]:
    """The bounds that `bound_given` returns; beside `[batch]`: what every device computes besides its slots, in us."""
    mean = load.sum(axis=1) / mesh.devices
    peaks, worst = _peaks_of(placement, load, "tokens", mean)
    yield _of("this_placement", IMBALANCE, f"the best routing; at worst {worst}", peaks / mean, given=True)
    peaks, worst = _peaks_of(placement, tiles, cost.unit, np.ones(len(load)))
    if cost.unit == "tiles":
        yield _of("this_placement_tiles", TILES, f"the best routing; at worst {worst}", peaks, given=True)
    if cost.moe_op == "optimized":
        time = compute_us(tiles, peaks, mesh, cost) + beside
        yield _of("this_placement_compute", TIME, "a device with the least peak of this placement", time, given=True)


def _peaks_of(placement: Placement, units: Ints, unit: str, scale: Floats) -> tuple[Ints, str]:
    """The least peak of each batch `[batch]`, and in words what forces that of the batch where it is most times scale
    `[batch]`; units `[batch, expert]`."""
    peaks = exact_peaks(placement, units)
    worst, holders = int((peaks / scale).argmax()), holders_of(placement.slots, units.shape[1])
    return peaks, least_peaks(units[worst : worst + 1], holders, unit).critical[0].in_words()
