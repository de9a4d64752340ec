"""Learned dispatch tables: increments are exact at every step of a walk, and no table is dearer than the nearest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_layers import Case, cases
from reference_table import Counts, total_cost

from formulations.kit.arrays import Ints
from optimizer.domain.placement import Placement
from optimizer.routing import learned_tables
from optimizer.routing.learned_tables import (
    LEADERS,
    SourceLoads,
    TableGoal,
    gain_of,
    learn_table,
    make_move,
    objective,
    state_of,
)
from optimizer.traces.batches import Batches


def counted(chosen: Ints, source: Ints, sources: int, experts: int) -> Counts:
    """The pairs by batch, source and expert, one after the other."""
    found = [[[0] * experts for _ in range(sources)] for _ in chosen]
    for batch, (tokens, homes) in enumerate(zip(chosen.tolist(), source.tolist(), strict=True)):
        for token, home in zip(tokens, homes, strict=True):
            for expert in token:
                found[batch][home][expert] += 1
    return found


def loads_of(drawn: Case) -> tuple[SourceLoads, Counts]:
    """The pairs of a case by mesh row, as the search takes them and one by one."""
    batches, experts, rows = drawn.batches, drawn.model.experts, drawn.mesh.rows
    loads = SourceLoads.of(batches.experts, batches.source_row, rows, experts)
    return loads, counted(batches.experts, batches.source_row, rows, experts)


def staircase(most: int, tile: int) -> Ints:
    """The cost of a slot by its tokens, `[tokens + 1]`: 100 for each tile begun, and 1 for each token."""
    tokens = np.arange(most + 1)
    return np.where(tokens > 0, 100 * -(-tokens // tile) + tokens, 0)


def travel_of(rng: np.random.Generator, drawn: Case) -> Ints:
    """What pairs cost on their way, `[row, device]`."""
    return rng.integers(0, 4, (drawn.mesh.rows, drawn.mesh.devices))


def random_table(rng: np.random.Generator, drawn: Case) -> Ints:
    """Any replica for each row and expert, flat slots int32."""
    start, slot = drawn.placement.replicas(drawn.model.experts)
    table: Ints = slot[start[:-1] + rng.integers(0, np.diff(start), (drawn.mesh.rows, drawn.model.experts))]
    return table.astype(np.int32)


@given(cases())
def test_the_pairs_of_each_source_and_expert_are_counted(drawn: Case) -> None:
    loads, counts = loads_of(drawn)
    found = np.zeros((loads.batches, loads.sources * loads.experts), dtype=int)
    for cell in range(loads.sources * loads.experts):
        entries = slice(loads.first[cell], loads.first[cell + 1])
        assert (loads.pairs[entries] > 0).all()
        assert (np.diff(loads.batch[entries]) > 0).all()
        found[loads.batch[entries], cell] = loads.pairs[entries]
    assert found.reshape(loads.batches, loads.sources, -1).tolist() == counts
    assert loads.totals.tolist() == found.sum(axis=0).tolist()


@given(st.integers(0, 10**6), cases(), st.sampled_from([1, 8]), st.integers(0, 400))
def test_gains_and_states_are_exact_at_every_step_of_a_walk(seed: int, drawn: Case, tile: int, usual: int) -> None:
    rng, (loads, counts) = np.random.default_rng(seed), loads_of(drawn)
    value, travel, depth = staircase(drawn.batches.tokens, tile), travel_of(rng, drawn), drawn.mesh.slots_per_device
    goal = TableGoal(value, usual, 3, travel)
    state = state_of(random_table(rng, drawn), loads, goal, drawn.mesh.slots, depth)
    start, slot = drawn.placement.replicas(drawn.model.experts)
    plain = value.tolist(), travel.tolist(), depth, usual, 3
    known = total_cost(state.table.tolist(), counts, *plain)
    assert objective(state, goal, loads.totals) == known
    for _ in range(25):
        cell = int(rng.integers(loads.sources * loads.experts))
        expert = cell % loads.experts
        place = int(rng.choice(slot[start[expert] : start[expert + 1]]))
        if place == state.table[cell // loads.experts, expert]:
            continue
        gain = gain_of(state, loads, goal, cell, place)
        make_move(state, loads, goal, cell, place)
        reached = total_cost(state.table.tolist(), counts, *plain)
        assert known - gain == reached == objective(state, goal, loads.totals)
        known = reached
        afresh = state_of(state.table, loads, goal, drawn.mesh.slots, depth)
        for one, other in zip(state[2:], afresh[2:], strict=True):
            assert one.tolist() == other.tolist()
        assert state.peaks.shape == (loads.batches, LEADERS)


@pytest.fixture
def little_annealing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few moves, as the cases are small."""
    monkeypatch.setattr(learned_tables, "ANNEALED", 20_000)


@pytest.fixture
def no_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    """All peaks count the same, as nobody outside knows where the tail begins."""
    monkeypatch.setattr(learned_tables, "TAIL_WEIGHT", 0)


@pytest.mark.usefixtures("little_annealing", "no_tail")
@given(st.integers(0, 10**6), cases(), st.sampled_from([1, 8]))
def test_a_learned_table_is_no_dearer_than_the_nearest_and_the_same_again(seed: int, drawn: Case, tile: int) -> None:
    rng, (loads, counts) = np.random.default_rng(seed), loads_of(drawn)
    value, travel, nearest = staircase(drawn.batches.tokens, tile), travel_of(rng, drawn), random_table(rng, drawn)
    found = learn_table(drawn.placement, loads, value, travel, nearest).replica.tolist()
    assert learn_table(drawn.placement, loads, value, travel, nearest).replica.tolist() == found
    plain = counts, value.tolist(), travel.tolist(), drawn.mesh.slots_per_device
    assert total_cost(found, *plain) <= total_cost(nearest.tolist(), *plain)


@pytest.mark.usefixtures("little_annealing")
def test_an_expert_with_few_tokens_opens_one_tile() -> None:
    """Two sources send an expert ten tokens each: on one replica they fill one tile, on two they would begin two."""
    placement = Placement(np.array([[0, 1], [0, 2]]))
    chosen = np.zeros((4, 20, 1), dtype=int)
    chosen[:, :4] = 1  # and the device beside has a tile less to do
    batches = Batches(chosen, np.tile(np.arange(20) // 10, (4, 1)))
    loads = SourceLoads.of(batches.experts, batches.source_row, 2, 3)
    far = np.zeros((2, 2), dtype=np.int64)
    table = learn_table(placement, loads, staircase(20, 32), far, np.array([[0, 1, 3], [2, 1, 3]]))
    assert table.replica.tolist() == [[2, 1, 3], [2, 1, 3]]


@pytest.mark.usefixtures("little_annealing")
def test_pairs_stay_near_where_nothing_else_decides() -> None:
    placement = Placement(np.array([[0], [0]]))
    batches = Batches(np.zeros((3, 8, 1), dtype=int), np.tile(np.arange(8) // 4, (3, 1)))
    loads = SourceLoads.of(batches.experts, batches.source_row, 2, 1)
    for travel in ([[0, 5], [5, 0]], [[5, 0], [0, 5]]):
        table = learn_table(placement, loads, np.arange(9), np.array(travel), np.array([[0], [1]]))
        assert table.replica.ravel().tolist() == np.argmin(travel, axis=1).tolist()
