"""The router beside a server: what the simulator predicts, consistent for many threads, without allocating."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_layers import WIRINGS, Case, Links, TokensAt, case, learned, wired
from random_problems import random_batches, random_placement
from serving import SERVERS, Server

from formulations.kit.arrays import Ints
from optimizer import open_router
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.errors import InputError
from optimizer.planning.plan_file import LayerPlan, Plan, write_plan
from optimizer.routing.context import LearnedShares, RoutingContext
from optimizer.routing.hints import ENTRIES, HintSettings
from optimizer.routing.policies import POLICIES, REMEMBERING
from optimizer.runtime.router import Router
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import Simulation
from optimizer.traces.batches import Batches

LAYER = 5
wirings = st.sampled_from(WIRINGS)
ways = st.builds(HintSettings, st.sampled_from([0.5, 2.0, 4.0]), st.integers(1, 3), st.integers(1, 3))


def drawn_run(seed: int) -> Case:
    """A case with batches enough for hints to change several times."""
    shape, rng = (2 + seed % 3, 1 + seed % 2), np.random.default_rng(seed)
    drawn = case(seed, shape, 2, replicas=3)
    return replace(drawn, batches=random_batches(rng, 9, 24, drawn.model, shape[0]))


def served(server: Server, batches: Batches, network: Network) -> Ints:
    """The flat slots `[batch, token, k]` that a server chooses, batch by batch."""
    chosen = []
    for experts, source in zip(batches.experts, network.source(batches.source_row), strict=True):
        chosen.append(server.route(experts, source))
        server.tell(experts, source, chosen[-1])
    return np.array(chosen)


@pytest.mark.parametrize("policy", REMEMBERING)
@given(seed=st.integers(0, 10**6), wiring=wirings, how=ways)
def test_a_server_that_follows_the_router_does_what_the_simulator_predicts(
    policy: str, seed: int, wiring: tuple[TokensAt, Links], how: HintSettings
) -> None:
    """Slot for slot as the policy, and so with the device loads of a simulation that knows nothing of the router."""
    drawn = drawn_run(seed)
    network, context = drawn.network(wiring), drawn.context(wiring, 1, 9, how)
    chosen = served(SERVERS[policy](Router({LAYER: context}), LAYER, context), drawn.batches, network)
    fresh = drawn.context(wiring, 1, 9, how)
    assert (chosen == POLICIES[policy](drawn.batches.experts, network.source(drawn.batches.source_row), fresh)).all()
    conditions = Conditions(policy, "tokens", hints=how)
    simulation = Simulation(drawn.placement, drawn.model, drawn.mesh, wired(wiring), conditions, drawn.learned)
    simulation.feed(drawn.batches)
    loads = [np.bincount(each.ravel() // drawn.mesh.slots_per_device, minlength=drawn.mesh.devices) for each in chosen]
    assert simulation.report().device_load.tolist() == np.array(loads).tolist()


def small_plan(hardware: str = "tt-wormhole-galaxy") -> Plan:
    """A plan of two layers, of which one has learned loads."""
    rng, mesh, model = np.random.default_rng(7), Mesh(2, 2, 3), Model("small", 6, 1, 2)
    placements = [random_placement(rng, model.experts, mesh) for _ in range(2)]
    parts = {3: LayerPlan(placements[0]), 4: LayerPlan(placements[1], learned=learned(rng, placements[1], 7))}
    return Plan(model, mesh, hardware, "hint-table", parts)


@pytest.mark.parametrize("hardware", ["tt-wormhole-galaxy", "h800"])
@pytest.mark.parametrize("policy", REMEMBERING)
def test_a_router_of_a_plan_file_routes_as_a_simulation_of_the_plan(tmp_path: Path, policy: str, hardware: str) -> None:
    """Sources, distances and learned loads all come from the file: rows on Wormhole, ranks on GPUs."""
    plan, how = small_plan(hardware), HintSettings(2.0, 1, 2)
    write_plan(tmp_path / "plan.json", plan)
    router = open_router(tmp_path / "plan.json", how)
    assert router.layers == (3, 4)
    batches = random_batches(np.random.default_rng(8), 6, 30, plan.model, 2)
    for layer, part in plan.layers.items():
        context = RoutingContext.of(part.placement, plan.model, plan.network, 1, 0, part.learned)
        context = replace(context, hints=how)
        chosen = served(SERVERS[policy](router, layer, context), batches, plan.network)
        source = plan.network.source(batches.source_row)
        assert (chosen == POLICIES[policy](batches.experts, source, context)).all()


def test_a_router_of_a_plan_and_of_its_file_are_the_same(tmp_path: Path) -> None:
    plan, counts = small_plan(), np.arange(14).reshape(2, 7)
    write_plan(tmp_path / "plan.json", plan)
    routers = [Router.from_plan(plan), open_router(plan), open_router(str(tmp_path / "plan.json"))]
    for router in routers:
        router.observe(4, counts)
    assert len({router.shares(4).tobytes() + router.table(4).tobytes() for router in routers}) == 1


def test_hints_are_made_as_the_plan_says_unless_the_caller_says_how() -> None:
    plan, counts = small_plan(), np.arange(14).reshape(2, 7)

    def taught(of: Plan, hints: HintSettings | None = None) -> list[list[float]]:
        router = Router.from_plan(of, hints)
        router.shares(4)
        router.observe(4, counts)
        found: list[list[float]] = router.shares(4).tolist()
        return found

    quick = HintSettings(half_life=0.25)
    assert taught(plan) == taught(plan, HintSettings()) == taught(replace(plan, hints=quick), HintSettings())
    assert taught(replace(plan, hints=quick)) == taught(plan, quick) != taught(plan)


def test_layers_know_nothing_of_each_other() -> None:
    router = Router.from_plan(small_plan())
    before = router.shares(3)
    router.shares(4)
    router.observe(4, np.arange(14).reshape(2, 7))
    assert (router.shares(3) == before).all()
    assert router.shares(4).tolist() != Router.from_plan(small_plan()).shares(4).tolist()


@given(st.integers(0, 10**6))
def test_answers_name_slots_of_the_right_experts(seed: int) -> None:
    """Whatever was observed: a table and entries name slots that hold the expert, and shares of an expert sum to 1."""
    drawn = drawn_run(seed)
    context = drawn.context(("row", "rings"), 1, 9)
    router, rng = Router({LAYER: context}), np.random.default_rng(seed)
    for _ in range(3):
        router.observe(LAYER, rng.integers(0, 50, (drawn.mesh.rows, drawn.model.experts)))
        held = drawn.placement.slots.ravel()
        table, entries, share = router.table(LAYER), router.log2phy(LAYER), router.shares(LAYER)
        assert [str(each.dtype) for each in (table, entries, share)] == ["uint16", "int32", "float64"]
        assert (held[table] == np.arange(drawn.model.experts)).all()
        assert (held[entries] == np.arange(drawn.model.experts)[:, None]).all()
        of = np.bincount(held[held >= 0], share.ravel()[held >= 0], drawn.model.experts)
        assert of == pytest.approx(np.ones(drawn.model.experts))
        assert not share.ravel()[held < 0].any()


BIG = Mesh(16, 8, 3)


def big_router(layers: int = 1) -> Router:
    """A router for layers of the size of DeepSeek-V3's, with replicas of half of the experts."""
    slots = (np.arange(128)[:, None] + 128 * np.arange(3)) % 257
    model, network = Model("big", 257, 0, 8), Network(BIG)
    return Router({layer: RoutingContext.of(Placement(slots), model, network, 1, 0, None) for layer in range(layers)})


def test_the_loop_allocates_nothing() -> None:
    """What a step needs for a moment is less than two kilobytes, where the arrays by source and expert have eight and
    more, and nothing of it is left after a thousand steps."""
    router, counts = big_router(), np.random.default_rng(2).integers(0, 9, (16, 257)).astype(np.int32)
    table, shares, log2phy, held, weights, loads = (
        router.table(0), router.shares(0), router.log2phy(0), router.held(0), router.weights(0),
        np.arange(128, dtype=np.int32),
    )  # fmt: skip

    def step() -> None:
        router.observe(0, counts)
        router.observe_devices(0, loads)
        router.table(0, table)
        router.shares(0, shares)
        router.log2phy(0, log2phy)
        router.held(0, held)
        router.weights(0, weights)

    step()
    tracemalloc.start()
    try:
        step()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(1000):
            step()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 2048
    assert after - before < 256


def test_a_reader_never_sees_a_half_made_answer() -> None:
    """While one thread feeds batches, another reads shares: those of each expert sum to 1 in every answer, which they
    do not while `level` is at work."""
    router, rng = big_router(), np.random.default_rng(3)
    counts = [rng.poisson(rng.lognormal(1, 1, 257), (16, 257)).astype(np.int32) for _ in range(8)]
    router.shares(0)

    def feed() -> None:
        for step in range(4000):
            router.observe(0, counts[step % 8])

    feeding = Thread(target=feed)
    worst, out = 0.0, router.shares(0)
    feeding.start()
    while feeding.is_alive():
        worst = max(worst, abs(router.shares(0, out).sum() - 257))
    assert worst < 1e-9


GOOD = np.ones((2, 7), dtype=int)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda router: router.observe(9, GOOD), "layer"),
        (lambda router: router.table(2), "layer"),
        (lambda router: router.observe(3, GOOD.T), "counts"),
        (lambda router: router.observe(3, GOOD * 1.0), "counts"),
        (lambda router: router.observe(3, GOOD > 0), "counts"),
        (lambda router: router.observe(3, -GOOD), "counts"),
        (lambda router: router.observe(3, GOOD << 40), "counts"),
        (lambda router: router.observe_devices(3, np.ones(3, dtype=int)), "loads"),
        (lambda router: router.table(3, np.empty((2, 7), dtype=np.int32)), "out"),
        (lambda router: router.table(3, np.empty((7, 2), dtype=np.uint16).T), "out"),
        (lambda router: router.shares(3, np.broadcast_to(0.0, (4, 3))), "out"),
        (lambda router: router.log2phy(3, np.empty((7, ENTRIES - 1), dtype=np.int32)), "out"),
        (lambda router: router.held(3, [0.0] * 4), "out"),
        (lambda router: router.weights(3, np.empty(4)), "out"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call: Callable[[Router], Any], field: str) -> None:
    """And nothing of it is taken note of: the answers are those of before."""
    router = Router.from_plan(small_plan())
    before = router.shares(3)
    with pytest.raises(InputError) as caught:
        call(router)
    assert caught.value.field == field
    assert (router.shares(3) == before).all()


def test_no_layers_and_too_many_slots_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        Router({})
    assert caught.value.field == "layers"
    slots = np.full((2, 2**15 + 1), -1)
    slots[:, 0] = 0
    context = RoutingContext.of(Placement(slots), Model("m", 1, 0, 1), Network(Mesh(2, 1, 2**15 + 1)), 1, 0, None)
    with pytest.raises(InputError, match="65538 slots") as caught:
        Router({0: context})
    assert caught.value.field == "mesh"


def test_counts_of_any_integer_type_and_layout_teach_the_same() -> None:
    counts = np.arange(14).reshape(2, 7)
    forms: list[Any] = [
        counts,
        counts.tolist(),
        counts.astype(np.uint8),
        np.asfortranarray(counts),
        counts[:, ::-1][:, ::-1],
    ]
    answers = set()
    for form in forms:
        router = Router.from_plan(small_plan())
        router.shares(4)
        router.observe(4, form)
        answers.add(router.shares(4).tobytes())
    assert len(answers) == 1


@pytest.mark.parametrize(("load", "expected"), [([1, 5, 0], [0, 1]), ([1, 0, 5], [1, 0]), ([6, 2, 0], [1 / 3, 2 / 3])])
def test_learned_loads_decide_before_any_batch(load: list[float], expected: list[float]) -> None:
    """Expert 0 goes where the other experts leave room, by the loads that the plan has learned."""
    placement = Placement(np.array([[0, 1], [0, 2]]))
    part = LayerPlan(placement, learned=LearnedShares(np.array(load), LearnedShares.nothing(placement, 3).share))
    plan = Plan(Model("three", 3, 0, 1), Mesh(2, 1, 2), "tt-wormhole-galaxy", "hint", {0: part})
    assert Router.from_plan(plan).shares(0)[:, 0] == pytest.approx(expected)
