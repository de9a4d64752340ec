"""Relief of busy links: what results put on links, walked path by path, falls, until no single move can help."""

from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_layers import WIRINGS, Case, Links, TokensAt, case
from reference import replicas
from reference_traffic import Load, all_holders, homeward, link_order, sender

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.link_paths import UNITS, LinkPaths
from optimizer.domain.mesh import Mesh
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.routing.least_peak import Graph, graph
from optimizer.routing.link_relief import Ways, relieve

cases_of = st.builds(
    case, st.integers(0, 10**6), st.sampled_from([(2, 2), (3, 2), (4, 3), (5, 2), (1, 4)]), st.integers(1, 3)
)
wirings = st.sampled_from(WIRINGS)


def path(drawn: Case, wiring: tuple[TokensAt, Links], home: int, device: int) -> Load:
    """The links that one result passes, and what share of the message passes each."""
    wires = drawn.wires(wiring)
    return homeward(wires, device, sender(wires, all_holders(wires)[home], device))


def busy(drawn: Case, wiring: tuple[TokensAt, Links], quota: Ints, alone: Ints, speed: Floats) -> list[Fraction]:
    """How busy each link is by the tokens in quota `[source, slot]`, and by those in alone `[expert, source]`.

    Of the latter only tokens of experts with one replica count.
    """
    total: Load = defaultdict(Fraction)
    for home in range(len(quota)):
        served = [(slot // drawn.mesh.slots_per_device, int(n)) for slot, n in enumerate(quota[home])]
        for expert in range(drawn.model.experts):
            there = replicas(drawn.placement.slots.tolist(), expert)
            served += [(there[0][0], int(alone[expert, home]))] if len(there) == 1 else []
        for device, tokens in served:
            for link, share in path(drawn, wiring, home, device).items():
                total[link] += 2 * UNITS * share * tokens
    return [total[link] * int(weight) for link, weight in zip(link_order(drawn.wires(wiring)), speed, strict=True)]


def drawn_quota(drawn: Case, replicated: Graph, sources: int, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Random quota `[source, slot]`, room `[slot]` and alone `[expert, source]`, as `relieve` takes them."""
    slots, experts = drawn.placement.slots.ravel(), drawn.model.experts
    quota = rng.integers(0, 6, (sources, len(slots))) * (replicated.expert_of >= 0)
    alone = rng.integers(0, 6, (experts, sources))
    return quota.astype(np.int32), rng.integers(0, 8, len(slots)), alone.astype(np.int32)


@given(cases_of, wirings, st.integers(0, 10**6))
def test_relief_serves_everyone_and_stops_where_no_token_can_help(
    drawn: Case, wiring: tuple[TokensAt, Links], seed: int
) -> None:
    rng, network, mesh = np.random.default_rng(seed), drawn.network(wiring), drawn.mesh
    start, slot = drawn.placement.replicas(drawn.model.experts)
    replicated = graph(start, slot, mesh.devices, mesh.slots_per_device)
    ways = Ways.of(LinkPaths.of(network))
    quota, room, alone = drawn_quota(drawn, replicated, network.sources, rng)
    before = quota.copy(), room.copy()
    relieve(quota, room, alone, replicated, ways)
    flat, speed = drawn.placement.slots.ravel(), np.ones(len(ways.load))
    for expert in range(drawn.model.experts):
        held = flat == expert
        assert (quota[:, held].sum(axis=1) == before[0][:, held].sum(axis=1)).all()
    assert (quota.sum(axis=0) + room == before[0].sum(axis=0) + before[1]).all()
    assert quota.min() >= 0
    assert room.min() >= 0
    load = busy(drawn, wiring, quota, alone, speed)
    assert ways.load.tolist() == load
    most = max(load, default=0)
    assert most <= max(busy(drawn, wiring, before[0], alone, speed), default=0)
    assert not any(helps(drawn, wiring, quota, room, load, move) for move in moves(drawn, quota, room))


def test_relief_makes_room_for_what_is_on_the_busiest_link() -> None:
    """No token of one expert can leave the busiest link before a token of the other has made room.

    One expert is in columns 0 and 1, the other in columns 1 and 2. All tokens are of row 0, and 40 of each expert are
    served in columns 0 and 1.
    """
    mesh, slots = Mesh(3, 3, 2), np.full((9, 2), -1, dtype=np.int32)
    slots[3:6] = [[0, -1], [0, 1], [1, -1]]
    replicated = graph(*Placement(slots).replicas(2), 9, 2)
    ways = Ways.of(LinkPaths.of(Network(mesh)))
    quota, room = np.zeros((3, 18), dtype=np.int32), np.full(18, 80)
    quota[0, 6] = quota[0, 9] = 40
    relieve(quota, room, np.zeros((2, 3), dtype=np.int32), replicated, ways)
    assert quota[0].sum() == 80
    assert ways.load.max() <= 31 * 2 * UNITS  # 27 at best


def moves(drawn: Case, quota: Ints, room: Ints) -> list[tuple[int, int, int]]:
    """Every move of a token to a replica with room: source, slot, other slot."""
    flat = drawn.placement.slots.ravel().tolist()
    return [
        (home, place, there)
        for home, place in np.argwhere(quota > 0).tolist()
        for there, expert in enumerate(flat)
        if expert == flat[place] and there != place and room[there] > 0
    ]


def helps(
    drawn: Case,
    wiring: tuple[TokensAt, Links],
    quota: Ints,
    room: Ints,
    load: list[Fraction],
    move: tuple[int, int, int],
) -> bool:
    """Whether a move takes load off the first of the busiest links and leaves every link of the new path below it."""
    home, place, there = move
    order = link_order(drawn.wires(wiring))
    index = {link: number for number, link in enumerate(order)}
    new = list(load)
    depth = drawn.mesh.slots_per_device
    for device, sign in ((place // depth, -1), (there // depth, 1)):
        for link, share in path(drawn, wiring, home, device).items():
            new[index[link]] += sign * 2 * UNITS * share
    hottest = load.index(max(load))
    way = [index[link] for link in path(drawn, wiring, home, there // depth)]
    return new[hottest] < load[hottest] and all(new[link] < load[hottest] for link in way)


def test_slow_links_count_by_the_time_they_take() -> None:
    drawn = case(3, (3, 2), 2)
    network = drawn.network(("device", "nodes"))
    message_us = np.where(network.remote, 9.0, 1.0)
    slow, fast = LinkPaths.of(network, message_us), LinkPaths.of(network)
    assert (slow.link == fast.link).all()
    assert (slow.work == np.where(network.remote[slow.link], fast.work, np.rint(fast.work / 9))).all()


@pytest.mark.parametrize("wiring", WIRINGS, ids=str)
def test_link_paths_are_those_that_are_walked_and_are_found_by_link(wiring: tuple[TokensAt, Links]) -> None:
    drawn = case(5, (3, 2), 1)
    network = drawn.network(wiring)
    link_paths, order = LinkPaths.of(network), link_order(drawn.wires(wiring))
    first, passing = link_paths.passing()
    by_link: dict[int, set[int]] = defaultdict(set)
    for home in range(network.sources):
        for device in range(drawn.mesh.devices):
            number = home * drawn.mesh.devices + device
            entries = slice(link_paths.start[number], link_paths.start[number + 1])
            found = dict(zip(link_paths.link[entries].tolist(), link_paths.work[entries].tolist(), strict=True))
            expected = path(drawn, wiring, home, device)
            assert found == {order.index(link): 2 * UNITS * share for link, share in expected.items()}
            for link in found:
                by_link[link].add(number)
    for link in range(link_paths.links):
        assert set(passing[first[link] : first[link + 1]].tolist()) == by_link[link]
