"""Moves in rounds, checked from the placements alone."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import WORMHOLE, random_placement

from formulations.kit.arrays import Ints
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.presets import load_hardware
from optimizer.planning.rebalancing.relabelling import with_slots_kept
from optimizer.planning.rebalancing.rounds import Chunk, WeightMove, chunks, in_rounds, senders
from optimizer.planning.rebalancing.transfer import WeightLinks


def carried_out(before: dict[int, Placement], found: tuple[Chunk, ...]) -> dict[int, Ints]:
    """Carry the moves out one by one, and check each: the oracle. A layer's arrivals are written at its end."""
    slots = {layer: placement.slots.copy() for layer, placement in before.items()}
    for chunk in found:
        arrived = []
        for moves in chunk.rounds:
            assert moves
            assert max(Counter(move.source for move in moves).values()) == 1
            assert max(Counter(move.target for move in moves).values()) == 1
            for move in moves:
                assert move.layer in chunk.layers
                assert move.expert in before[move.layer].slots[move.source]
                assert move.expert not in before[move.layer].slots[move.target]
                arrived.append(move)
        for move in arrived:
            slots[move.layer][move.target, move.slot] = move.expert
    return slots


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3))
def test_moves_make_one_placement_of_another_in_the_fewest_rounds(seed: int, layers: int, each: int) -> None:
    rng, mesh = np.random.default_rng(seed), Mesh(2, 3, 2)
    before = {layer: random_placement(rng, 8, mesh) for layer in range(layers)}
    after = {layer: with_slots_kept(placement, random_placement(rng, 8, mesh)) for layer, placement in before.items()}
    distance = rng.integers(0, 3, (6, 6))
    found = chunks(before, after, distance, each)
    slots = carried_out(before, found)
    for layer, placement in after.items():
        filled = placement.slots != EMPTY
        assert slots[layer][filled].tolist() == placement.slots[filled].tolist()
        loads = sum(move.layer == layer for chunk in found for moves in chunk.rounds for move in moves)
        assert loads == placement.weights_to_load(before[layer])
    for chunk in found:
        moves = [move for moves in chunk.rounds for move in moves]
        sent, received = Counter(move.source for move in moves), Counter(move.target for move in moves)
        busiest = max(*sent.values(), *received.values())
        assert len(chunk.rounds) == busiest
        assert chunk.most_arriving == max(Counter(move.target for move in moves).values())
        assert len(chunk.layers) <= each


def test_nothing_moves_where_nothing_changes() -> None:
    placement = {0: random_placement(np.random.default_rng(0), 8, Mesh(2, 3, 2))}
    assert chunks(placement, placement, np.zeros((6, 6), dtype=np.int64)) == ()
    assert in_rounds([], 6) == ()


@pytest.mark.parametrize("seed", range(20))
def test_senders_are_balanced_first_and_near_then(seed: int) -> None:
    """Against all ways to choose them."""
    rng = np.random.default_rng(seed)
    moves, devices = 4, 3
    holders = rng.random((moves, devices)) < 0.6
    holders[np.arange(moves), rng.integers(devices, size=moves)] = True
    distance, sent, free = rng.integers(0, 3, (moves, devices)), rng.integers(0, 2, devices), int(rng.integers(1, 3))

    def value(chosen: tuple[int, ...]) -> tuple[int, int, int]:
        total = np.bincount(chosen, minlength=devices) + sent
        sends = [n for d in range(devices) for n in range(int(sent[d]) + 1, int(total[d]) + 1)]
        beyond = sum(max(n - free, 0) for n in sends)
        return beyond, int(distance[np.arange(moves), list(chosen)].sum()), max(int(total.max()), free)

    every = [value(way) for way in product(range(devices), repeat=moves) if holders[np.arange(moves), list(way)].all()]
    found = value(tuple(senders(holders, distance, sent, free).tolist()))
    assert found[:2] == min(every)[:2]
    assert found[2] == min(way[2] for way in every)


def test_a_round_lasts_as_long_as_its_busiest_link() -> None:
    """Four Wormhole devices in a ring of a column: an expert takes its bytes over 27.9 GB/s per hop."""
    cost, mesh = Cost(WORMHOLE, load_hardware(WORMHOLE)), Mesh(4, 1, 2)
    links = WeightLinks.of(mesh, cost, 27.9e9)
    one, two = WeightMove(0, 0, 0, 1, 0), WeightMove(0, 1, 1, 2, 0)
    far = WeightMove(0, 2, 0, 2, 0)
    assert links.time([Chunk((0,), ((one,),))]).total_us == pytest.approx(1e6)
    assert links.time([Chunk((0,), ((one, two),))]).total_us == pytest.approx(1e6)
    assert links.time([Chunk((0,), ((one,), (two,)))]).total_us == pytest.approx(2e6)
    assert links.time([Chunk((0,), ((far,),))]).total_us == pytest.approx(0.5e6)  # half goes either way
    use = links.time([Chunk((0,), ((one, two),))]).by_link
    assert [*use] == ["along columns"]
    assert use["along columns"].moves == 2
    assert use["along columns"].busiest_us == pytest.approx(1e6)
    assert links.time([]).by_link == {}


def test_nodes_have_slow_links_between_them() -> None:
    cost, mesh = Cost("h800", load_hardware("h800")), Mesh(2, 2, 2)
    links = WeightLinks.of(mesh, cost, 50e9)
    inside, between = WeightMove(0, 0, 0, 1, 0), WeightMove(0, 0, 0, 2, 0)
    found = links.time([Chunk((0,), ((inside,), (between,)))])
    assert found.total_us == pytest.approx(50 / 160 * 1e6 + 1e6)
    between_us = found.by_link["between nodes"].busiest_us
    inside_us = found.by_link["inside nodes"].busiest_us
    assert (between_us, inside_us) == pytest.approx((1e6, 50 / 160 * 1e6))
    assert [use.moves for use in found.by_link.values()] == [1, 1]
