"""Bounds on the time of links and on latency: no placement with any routing goes below them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from random_layers import TOKENS_AT, WIRINGS, TokensAt, case, wired
from random_problems import WORMHOLE, cost, random_batches, random_placement
from reference_traffic import Wires, all_holders, carry

from formulations.bounds.message_splits import GroupPrices, GroupSplit, Split
from formulations.bounds.sharing import Sharing
from formulations.kit.arrays import Floats, Ints
from optimizer.domain.arrays import frozen
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.domain.presets import load_hardware
from optimizer.planning.bounds import COMBINE, DISPATCH, LATENCY, TIME, Bound, bound_any
from optimizer.planning.compute_bounds import least_compute_us
from optimizer.planning.link_bounds import Links, SplitMessages
from optimizer.routing.context import LearnedShares
from optimizer.routing.policies import POLICIES
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import simulate
from optimizer.simulation.timing import Clock
from optimizer.traces.batches import Batches

SMALL = 1 + 1e-9
NO_LINK = np.zeros(1, dtype=np.bool_)
KINDS = [(wiring, *kind) for wiring in WIRINGS for kind in product(("device", "expert"), repeat=2)]


def every_placement(experts: int, mesh: Mesh) -> list[Placement]:
    """All placements of the experts with all counts."""
    found = []
    for count in reference.count_vectors(experts, mesh.slots, mesh.devices):
        for holders in reference.all_placements(count, mesh.devices, mesh.slots_per_device):
            slots = np.full((mesh.devices, mesh.slots_per_device), -1)
            for device in range(mesh.devices):
                here = [expert for expert, held in enumerate(holders) if device in held]
                slots[device, : len(here)] = here
            found.append(Placement(slots))
    return found


def every_routing(placement: Placement, experts: Ints) -> Ints:
    """All choices of replicas for the tokens of one batch, experts `[token, k]`: flat slots `[choice, token, k]`."""
    where = [np.flatnonzero(placement.slots.ravel() == expert) for expert in experts.ravel()]
    return np.array(list(product(*where)), dtype=np.int32).reshape(-1, *experts.shape)


def least_times(placement: Placement, batches: Batches, mesh: Mesh, hardware: Cost) -> dict[str, Floats]:
    """The least time of each stage and of all three, `[batch]`, over all routings of each batch."""
    network = Network.of(mesh, hardware.preset.network)
    clock = Clock(hardware, network, placement.slots >= 0, np.ones(mesh.devices))
    found: dict[str, list[float]] = {DISPATCH: [], TIME: [], COMBINE: [], LATENCY: []}
    for batch in range(batches.count):
        chosen = every_routing(placement, batches.experts[batch])
        source, row = (
            frozen(np.repeat(of[batch : batch + 1], len(chosen), axis=0))
            for of in (batches.source_on(network), batches.source_row)
        )
        times = clock.in_turn(clock.count(chosen, source, row))
        for name, values in zip(found, (*times, sum(times)), strict=True):
            found[name].append(float(np.min(values)))
    return {name: np.array(values) for name, values in found.items()}


@st.composite
def tiny(draw: st.DrawFn, slots: int = 5) -> tuple[Batches, Model, Mesh]:
    """Up to three batches of up to four tokens on a mesh with so few slots that all placements can be tried."""
    shapes = [(2, 1, 1), (2, 1, 2), (3, 1, 1), (1, 3, 1), (2, 2, 1), (4, 1, 1), (5, 1, 1)]
    rows, cols, depth = draw(st.sampled_from([each for each in shapes if each[0] * each[1] * each[2] <= slots]))
    mesh = Mesh(rows, cols, depth)
    shared = draw(st.integers(0, 1))
    routed = draw(st.integers(1, min(3, mesh.slots) - shared))
    model = Model("tiny", routed, shared, draw(st.integers(1, routed)))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    tokens = draw(st.integers(1, 4 if model.top_k + shared < 3 else 2))
    return random_batches(rng, draw(st.integers(1, 3)), tokens, model, rows), model, mesh


def below(bound: Bound, least: list[Floats]) -> None:
    """Assert that the bound is below what the best placement reaches of mean, p50 and p99 over batches."""
    assert bound.mean <= min(values.mean() for values in least) * SMALL
    for share, value in ((50, bound.p50), (99, bound.p99)):
        assert value is None or value <= min(np.percentile(values, share) for values in least) * SMALL


@given(tiny(), st.sampled_from(KINDS))
def test_no_placement_with_its_best_routing_beats_a_bound(drawn: tuple[Batches, Model, Mesh], kind: Any) -> None:
    (batches, model, mesh), hardware = drawn, wired(kind[0], *kind[1:])
    found = [least_times(each, batches, mesh, hardware) for each in every_placement(model.experts, mesh)]
    bounds = {each.unit: each for each in bound_any(batches, model, mesh, hardware) if not each.only_for}
    for unit in (DISPATCH, TIME, COMBINE, LATENCY):
        below(bounds[unit], [times[unit] for times in found])


@st.composite
def on_rings(draw: st.DrawFn) -> tuple[Batches, Model, Mesh]:
    """A batch on rings in which the same few sets of experts are chosen in every row, so that much can be shared; every
    slot is needed, or three experts share some more slots."""
    every = [(3, 1, 1), (4, 1, 1), (5, 1, 1), (6, 1, 1), (3, 1, 2), (2, 2, 1), (3, 2, 1), (2, 1, 3)]
    mesh = Mesh(*draw(st.sampled_from([*every, (4, 1, 2), (2, 2, 2), (3, 1, 3)])))
    experts = mesh.slots if mesh.slots <= 6 and draw(st.booleans()) else 3
    model = Model("small", experts, 0, draw(st.integers(2, experts)))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    sets = np.argsort(rng.random((draw(st.integers(1, 3)), experts)), axis=1)[:, : model.top_k]
    rows = np.repeat(np.arange(mesh.rows), len(sets))
    return Batches(np.tile(sets, (mesh.rows, 1))[None], rows[None]), model, mesh


def token_costs(wires: Wires, hardware: Cost, links: int) -> Callable[[int, tuple[int, ...]], Floats]:
    """What a token of a source costs in dispatch and in combine, `[2]` microseconds of the mean link, by the devices
    that serve its experts."""
    message_us = hardware.dispatch_message_us(NO_LINK), hardware.combine_message_us(NO_LINK)
    prices = [float(of[0]) / links for of in message_us]

    @cache
    def costs(source: int, devices: tuple[int, ...]) -> Floats:
        found = carry(wires, [all_holders(wires)[source]], [list(devices)], False, hardware.combine_per_expert)
        messages = sum(found.out.values()), sum(found.back.values())
        return np.array([float(of) * price for of, price in zip(messages, prices, strict=True)])

    return costs


def random_split(links: Links, together: Ints, rng: np.random.Generator) -> SplitMessages:
    """A split as good as none: random slopes, and shifts up to many times what pairs of experts would be charged; or
    groups that pay for random gains."""
    found = links.split(together)

    def anyhow(split: Split, stage: Sharing) -> Split:
        experts = split.slopes.shape[1]
        shift = rng.normal(0, rng.choice([0.01, 0.1, 1]), (experts, experts))
        by_hop = [random_groups(experts, int(company) + 1, rng) for company in stage.company]
        slopes = rng.uniform(0, 0.5, (rng.integers(1, 3), experts))
        return Split(slopes, shift - shift.T, tuple(by_hop) if rng.random() < 0.5 else ())

    drawn = [list(map(anyhow, *each)) for each in zip(found.of_stages, (of.both for of in found.stages), strict=True)]
    return replace(found, of_stages=drawn)


def random_groups(experts: int, size: int, rng: np.random.Generator) -> GroupSplit:
    """Groups up to this size that pay for any gains of pairs, with prices near to the least that they can have."""
    within, row = rng.exponential(rng.choice([0.1, 0.3, 1]), (experts, experts)), rng.exponential(0.1, experts)
    prices = GroupPrices.of(within, rng.normal(0, 1, experts), rng.integers(0, 2) * row, size)
    return GroupSplit(rng.uniform(0, 0.5, experts), prices)


@given(on_rings(), st.sampled_from(TOKENS_AT), st.sampled_from(("device", "expert")), st.integers(0, 10**6))
def test_no_placement_sends_tokens_fewer_hops_on_rings_however_messages_are_split(
    drawn: tuple[Batches, Model, Mesh], at: TokensAt, back: str, seed: int
) -> None:
    (batches, model, mesh), hardware, rng = drawn, wired((at, "rings"), back), np.random.default_rng(seed)
    links = Links(batches, model, mesh, hardware)
    costs = token_costs(Wires(mesh.rows, mesh.cols, at), hardware, len(links.network.remote))
    tokens = list(zip(links.source[0].tolist(), batches.experts[0].tolist(), strict=True))
    fewest = np.full(3, np.inf)
    for count in reference.count_vectors(model.experts, mesh.slots, mesh.devices):
        for holders in reference.all_placements(count, mesh.devices, mesh.slots_per_device):
            found = np.zeros(3)
            for source, experts in tokens:
                ways = np.array([costs(source, way) for way in product(*(sorted(holders[e]) for e in experts))])
                found += [*ways.min(axis=0), ways.sum(axis=1).min()]
            fewest = np.minimum(fewest, found)
    together = links.together(slice(None))
    for split in (links.split(together), random_split(links, together, rng)):
        least = links.least_us(together, split)
        bounds = [least.dispatch, least.combine, links.least_together_us(together, split)]
        assert np.all(np.array(bounds) <= fewest * SMALL + 1e-9)
    assert links.per_batch_us[0] <= fewest[2] * SMALL + 1e-9


def every_table(placement: Placement, sources: int, experts: int) -> Iterator[Ints]:
    """All dispatch tables of flat slots `[source, expert]`."""
    where = [np.flatnonzero(placement.slots.ravel() == expert) for expert in range(experts)] * sources
    for chosen in product(*where):
        yield np.array(chosen, dtype=np.int32).reshape(sources, experts)


@given(tiny(slots=3), st.sampled_from(KINDS))
def test_no_table_on_any_placement_beats_the_bound_of_tables(drawn: tuple[Batches, Model, Mesh], kind: Any) -> None:
    (batches, model, mesh), hardware = drawn, wired(kind[0], *kind[1:])
    network = Network.of(mesh, hardware.preset.network)
    source, found = batches.source_on(network), []
    for placement in every_placement(model.experts, mesh):
        clock = Clock(hardware, network, placement.slots >= 0, np.ones(mesh.devices))
        for table in every_table(placement, network.sources, model.experts):
            chosen = table[source[:, :, None], batches.experts]
            found.append(np.sum(clock.in_turn(clock.count(chosen, source, batches.source_row)), axis=0))
    free, of_tables = (each for each in bound_any(batches, model, mesh, hardware) if each.unit == LATENCY)
    assert free.mean <= of_tables.mean
    below(of_tables, found)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_no_policy_beats_the_bound_of_a_batch(kind: Any) -> None:
    shapes = [(2, 2), (3, 2), (4, 3), (1, 4), (5, 2), (8, 1)]
    for seed in range(6):
        drawn, hardware = case(seed, shapes[seed], 1 + seed % 3, shared=seed % 3), wired(kind[0], *kind[1:])
        about = drawn.batches, drawn.model, drawn.mesh, hardware
        links = Links(*about)
        least = links.fixed_us + links.per_batch_us + least_compute_us(*about)
        placement = random_placement(np.random.default_rng(seed), drawn.model.experts, drawn.mesh)
        taught = LearnedShares.nothing(placement, drawn.model.experts)
        for policy in POLICIES:
            report = simulate(placement, *about, Conditions(policy), taught)
            assert np.all(least + report.price_us <= report.latency_us * SMALL), policy


def test_the_bound_is_met_where_nothing_travels() -> None:
    model, mesh = Model("one", 1, 0, 1), Mesh(1, 1, 1)
    batches = random_batches(np.random.default_rng(1), 9, 40, model, 1)
    least = next(each for each in bound_any(batches, model, mesh, cost()) if each.unit == LATENCY)
    latency = simulate(Placement(np.zeros((1, 1), dtype=int)), batches, model, mesh, cost(), Conditions()).latency_us
    assert (least.mean, least.p50, least.p99) == pytest.approx((latency.mean(), *np.percentile(latency, [50, 99])))


def test_the_bound_is_met_where_tokens_travel_as_little_as_they_must() -> None:
    """Half of each row's tokens go to the other row, wherever experts are, and as many one way round as the other."""
    model, mesh = Model("two", 2, 0, 1), Mesh(2, 1, 1)
    batches = Batches((np.arange(80) % 2).reshape(1, 80, 1), np.repeat([0, 1], 40)[None])
    bounds = {each.unit: each for each in bound_any(batches, model, mesh, cost()) if not each.only_for}
    report = simulate(Placement(np.array([[0], [1]])), batches, model, mesh, cost(), Conditions())
    for unit in (DISPATCH, TIME, COMBINE, LATENCY):
        assert bounds[unit].mean == pytest.approx(getattr(report, unit).mean())


def test_the_p99_is_bounded_by_the_slowest_batches() -> None:
    """In 1 of 5 batches all tokens want one expert, which fills two tiles instead of one; tokens travel in all."""
    model, mesh = Model("two", 2, 0, 1), Mesh(2, 1, 1)
    chosen = np.tile(np.arange(40) % 2, (500, 1))
    chosen[::5] = 0
    batches = Batches(chosen[:, :, None], np.broadcast_to(np.arange(40) // 20, (500, 40)))
    bounds = {each.unit: each for each in bound_any(batches, model, mesh, cost()) if not each.only_for}
    latency = simulate(Placement(np.array([[0], [1]])), batches, model, mesh, cost(), Conditions()).latency_us
    found, links = bounds[LATENCY].p99, Links(batches, model, mesh, cost())
    assert found is not None
    assert np.percentile(latency, 50) < found <= np.percentile(latency, 99)
    assert found > links.fixed_us + least_compute_us(batches, model, mesh, cost()).max()


def test_by_the_table_model_dispatch_takes_what_experts_in_a_column_take() -> None:
    drawn = case(4, (3, 2), 2)
    hardware = Cost(WORMHOLE, load_hardware(WORMHOLE), dispatch_model="table")
    about = drawn.batches, drawn.model, drawn.mesh, hardware
    bounds = {each.unit: each for each in bound_any(*about) if not each.only_for}
    report = simulate(drawn.placement, *about, Conditions())
    table = hardware.preset.table
    assert table is not None
    column = -(-(drawn.model.top_k + drawn.model.shared_experts) // 2)
    assert bounds[DISPATCH].mean == pytest.approx(table.base_us + table.per_expert_us * column)
    assert bounds[DISPATCH].mean <= report.dispatch_us.mean()
    assert bounds[LATENCY].mean <= report.latency_us.mean()
