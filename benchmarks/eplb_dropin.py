"""How the drop-in for EPLB does on random loads, beside EPLB and bounds.

Usage: python benchmarks/eplb_dropin.py [--cases 10000] [--seed 0] [--json]. A case is a deployment of 8 to 144 devices
and random loads of one layer. Lost is a case in which the drop-in's peak is above that of the greedy, which is EPLB's
with the replicas of an expert on distinct devices. EPLB itself may put them on one device, which the drop-in does not;
where that gives it a lower peak, the case is counted on its own. Bounds hold for any counts and placement: the mean
load of a device, and the heaviest replica under the best counts, for the best grouping where groups stay on nodes; and
where the drop-in is more than .3 % above these and there is one way to share groups out over nodes, what prices of
`formulations.expected_load.slot_pairs` refute for two slots on a device, and `formulations.bounds.even_split` for more:
both know that a heavy replica shares its device with others. The share of slots that change after loads have changed by
a fifth (log-normal) is shown with the old placement given, and beside it EPLB's with vLLM's order of slots.
"""

import json
import math
import statistics
import time
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from typing import Any, NamedTuple

import click
import numpy as np
from plain_eplb import plain_eplb

from formulations.bounds.even_split import even_split_bound
from formulations.expected_load.greedy_packing import greedy_counts
from formulations.expected_load.replication import ReplicaBudget
from formulations.expected_load.slot_pairs import SLOTS, PairInstance, least_paired_peak
from formulations.kit.arrays import Floats, Ints
from formulations.kit.clock import Clock
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.presets import load_hardware
from optimizer.domain.problem import Problem
from optimizer.eplb import rebalance_experts
from optimizer.experiments.rivals.eplb import eplb
from optimizer.planning.kept_slots import reordered

GROUPS = 8  # as DeepSeek-V3 has
SHAPES = (  # experts, devices, slots of a device, nodes
    (64, 8, 9, 1), (64, 16, 5, 2), (128, 16, 9, 2), (128, 32, 5, 4), (160, 8, 22, 1), (256, 16, 18, 2), (256, 32, 9, 4),
    (256, 64, 5, 8), (256, 72, 4, 1), (256, 128, 3, 1), (256, 128, 3, 8), (256, 144, 2, 1), (384, 144, 3, 1),
    (256, 32, 8, 1), (128, 64, 2, 1), (384, 128, 4, 8),
)  # fmt: skip
KINDS = ("log-normal", "power law", "counts")
TIMED = (256, 128, 3, 1)
DRIFT = 0.2  # standard deviation of the logarithm by which loads change
SCALE = 1e5  # loads are whole numbers, as counts are; so large that rounding does not matter


class Case(NamedTuple):
    """load `[expert]`; devices with depth slots each; nodes that whole groups are on, or 1; kind: of loads."""

    load: Floats
    devices: int
    depth: int
    nodes: int
    kind: str = "log-normal"


def drawn(cases: int, rng: np.random.Generator) -> Iterator[Case]:
    """Cases of all shapes in turn, with loads of three kinds: log-normal, by a power of the rank, few counts."""
    for number in range(cases):
        experts, devices, depth, nodes = SHAPES[number % len(SHAPES)]
        kind = KINDS[rng.integers(len(KINDS))]
        if kind == "log-normal":
            load = rng.lognormal(0, rng.uniform(0.1, 1.2), experts) * SCALE
        elif kind == "power law":
            load = rng.permutation(np.arange(1, experts + 1) ** -rng.uniform(0.1, 1.2)) * SCALE
        else:
            load = rng.poisson(rng.gamma(rng.uniform(0.5, 4), rng.uniform(1, 20), experts)).astype(np.float64)
        whole = np.rint(load).astype(np.float64)
        yield Case(whole + (whole.sum() == 0), devices, depth, nodes, kind)


def planned(case: Case, old: Ints | None = None) -> Ints:
    """The drop-in's placement, `[device, slot]`."""
    slots = case.devices * case.depth
    before = None if old is None else old.reshape(1, -1)
    found: Ints = rebalance_experts(case.load[None], slots, groups_of(case), case.nodes, case.devices, before)[0]
    return found.reshape(case.devices, -1)


def groups_of(case: Case) -> int:
    """The number of groups that matter."""
    return GROUPS if case.nodes > 1 else 1


def peak(load: Floats, slots: Ints) -> float:
    """The largest device load, each expert's load split evenly over its replicas."""
    weight = load / np.bincount(slots.ravel(), minlength=len(load))
    return float(weight[slots].sum(axis=1).max())


def greedy(case: Case) -> Ints:
    """The greedy's placement `[device, slot]`, node by node, as the rival plans it."""
    members = np.arange(len(case.load)).reshape(groups_of(case), -1)
    sums = case.load.reshape(groups_of(case), -1).sum(axis=1)
    held: list[list[int]] = [[] for _ in range(case.nodes)]
    for group in np.argsort(-sums, kind="stable").tolist():
        room = [node for node in range(case.nodes) if len(held[node]) < len(sums) // case.nodes]
        held[min(room, key=lambda node: sums[held[node]].sum())].append(group)
    cost = Cost("h800", load_hardware("h800"))
    parts = []
    for groups in held:
        ids = members[groups].ravel()
        mesh = Mesh(1, case.devices // case.nodes, case.depth)
        model = Model("drawn", len(ids), 0, 1)
        parts.append(ids[eplb(Problem(model, mesh, cost, case.load[None, ids].astype(np.int32), None)).slots])
    return np.concatenate(parts)


NEAR = 1.003  # peaks so near the simple bound need no other, which takes from tens of milliseconds to seconds
HOTTEST = 3  # nodes that are looked at more closely: the others are hardly where the peak is


def bound(case: Case, reached: float) -> float:
    """A load that no placement goes below, with groups on nodes where there are several; reached: the peak of one."""
    parts, devices = case.load.reshape(groups_of(case), -1), case.devices // case.nodes
    each = groups_of(case) // case.nodes
    of_node = {
        held: node_bound(parts[list(held)].ravel(), devices, case.depth)
        for held in combinations(range(groups_of(case)), each)
    }
    ways = partitions(tuple(range(groups_of(case))), each)
    least = min(max(of_node[held] for held in way) for way in ways)
    if reached <= NEAR * least or len(ways) > 1:
        return least
    if case.depth == SLOTS:
        return max(least, pairs_bound(case))
    hottest = sorted(of_node, key=lambda held: -of_node[held])[:HOTTEST]
    return max(even_split_bound(parts[list(held)].ravel(), devices, case.depth, reached) for held in hottest)


def pairs_bound(case: Case) -> float:
    """A load that no placement on devices of two slots goes below, without groups."""
    budget = ReplicaBudget.of(len(case.load), case.devices * SLOTS, case.devices)
    instance = PairInstance(case.load.astype(np.int64), case.devices, budget)
    return least_paired_peak(instance, Clock.start(math.inf)).lower_bound


@cache
def partitions(items: tuple[int, ...], each: int) -> list[tuple[tuple[int, ...], ...]]:
    """All ways to part items into sets of this size."""
    if not items:
        return [()]
    ways = []
    for others in combinations(items[1:], each - 1):
        rest = tuple(item for item in items[1:] if item not in others)
        ways += [((items[0], *others), *way) for way in partitions(rest, each)]
    return ways


def node_bound(load: Floats, devices: int, depth: int) -> float:
    """The mean load of a device, or the heaviest replica."""
    heaviest = float((load / greedy_counts(load, devices * depth, devices)).max())
    return max(float(load.sum()) / devices, heaviest)


def measured(case: Case) -> dict[str, float]:
    """The figures of one case. Raises AssertionError for a placement that breaks a rule."""
    slots = planned(case)
    check(case, slots)
    ours = peak(case.load, slots)
    least = bound(case, ours)
    by_greedy = peak(case.load, greedy(case))
    plain = plain_eplb(case.load, case.devices * case.depth, groups_of(case), case.nodes, case.devices)
    return {
        "ratio": ours / least,
        "greedy": by_greedy / least,
        "eplb": peak(case.load, plain) / least,
        "lost": float(ours > by_greedy * (1 + 1e-9)),
        "eplb_lower": float(ours > peak(case.load, plain) * (1 + 1e-9)),
    }


def check(case: Case, slots: Ints) -> None:
    """Raise AssertionError where an expert is missing, or twice on a device, or a group on two nodes."""
    assert len(np.unique(slots)) == len(case.load)
    assert all(len(set(device)) == case.depth for device in slots.tolist())
    groups = slots.reshape(case.nodes, -1) * groups_of(case) // len(case.load)
    assert sum(len(np.unique(node)) for node in groups) == groups_of(case)


def moved(case: Case, rng: np.random.Generator) -> tuple[float, float]:
    """The share of slots that change after a drift of the loads: ours, and EPLB's with vLLM's order of slots."""
    later = case._replace(load=np.rint(case.load * rng.lognormal(0, DRIFT, len(case.load))))
    old, slots = planned(case), case.devices * case.depth
    ours = planned(later, old)
    assert peak(later.load, ours) <= peak(later.load, greedy(later)) * (1 + 1e-9)
    first, second = (plain_eplb(load, slots, 1, 1, case.devices) for load in (case.load, later.load))
    theirs = in_place(second, first)
    return float((ours != old).mean()), float((theirs != first).mean())


def in_place(new: Ints, old: Ints) -> Ints:
    """vLLM's order of slots; devices with doubles, which are few, stay in the new order."""
    distinct = np.array([len(set(row)) == len(row) for row in new.tolist()])
    found = new.copy()
    found[distinct] = reordered(new[distinct], old[distinct])
    return found


def milliseconds(rng: np.random.Generator, calls: int = 20) -> dict[str, float]:
    """The median processor time of a layer of 128 devices: planned anew, and from an old placement after a drift. It is
    one thread's, so that on an idle machine as much time passes."""
    experts, devices, depth, nodes = TIMED
    fresh, warm = [], []
    for _ in range(calls + 1):  # the first one loads the kernels
        case = Case(np.rint(rng.lognormal(0, 0.6, experts) * SCALE), devices, depth, nodes)
        started = time.process_time()
        old = planned(case)
        fresh.append(1e3 * (time.process_time() - started))
        later = case._replace(load=case.load * rng.lognormal(0, DRIFT, experts))
        started = time.process_time()
        planned(later, old)
        warm.append(1e3 * (time.process_time() - started))
    return {"ms": statistics.median(fresh[1:]), "ms_from_old": statistics.median(warm[1:])}


@click.command(help=__doc__)
@click.option("--cases", default=10_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(cases: int, seed: int, as_json: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = [(case, measured(case)) for case in drawn(cases, rng)]
    experts, devices, depth, nodes = TIMED
    drifted = [
        moved(Case(np.rint(rng.lognormal(0, 0.6, experts) * SCALE), devices, depth, nodes), rng) for _ in range(20)
    ]
    found: dict[str, Any] = {"cases": cases, **summary([row for _, row in rows])}
    found |= milliseconds(rng)
    found |= {"moved": float(np.mean([a for a, _ in drifted])), "moved_eplb": float(np.mean([b for _, b in drifted]))}
    found["parts"] = {
        label: summary([row for case, row in rows if label in labels_of(case)])
        for label in sorted({label for case, _ in rows for label in labels_of(case)})
    }
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{cases} cases: {found['lost']:.0f} lost to the greedy; EPLB lower in {found['eplb_lower']:.0f}")
    click.echo(f"peak / bound, mean: {found['ratio']:.4f}, greedy {found['greedy']:.4f}, EPLB {found['eplb']:.4f}")
    click.echo(f"ms a layer of 128 devices: {found['ms']:.2f}, from an old placement {found['ms_from_old']:.2f}")
    click.echo(f"slots that change after a drift: {found['moved']:.1%}, EPLB's {found['moved_eplb']:.1%}")
    for label, part in found["parts"].items():
        click.echo(f"  {label}: {part['ratio']:.4f}, greedy {part['greedy']:.4f}, worst {part['worst']:.4f}")


def labels_of(case: Case) -> list[str]:
    """What the bound's tightness depends on: the slots, with the loads where there are three or more."""
    if case.nodes > 1:
        return ["groups on nodes"]
    return ["two slots"] if case.depth == 2 else ["three slots and more", f"three slots and more, {case.kind} loads"]


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Sums of what is counted, means of ratios, and the worst ratio of the drop-in."""
    means = {name: float(np.mean([row[name] for row in rows])) for name in ("ratio", "greedy", "eplb")}
    sums = {name: float(sum(row[name] for row in rows)) for name in ("lost", "eplb_lower")}
    return {**means, **sums, "worst": max(row["ratio"] for row in rows)}


if __name__ == "__main__":
    main()
