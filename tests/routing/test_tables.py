"""A dispatch table names replicas that are there, by flat slot or by rank, and says what is wrong with others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_layers import WIRINGS, Case, Links, TokensAt, cases
from reference import replicas

from optimizer.domain.placement import Placement
from optimizer.routing.context import LearnedShares, RoutingContext
from optimizer.routing.policies import POLICIES
from optimizer.routing.tables import DispatchTable

PLACEMENT = Placement(np.array([[0, 1], [1, -1], [2, 0]]))
wirings = st.sampled_from(WIRINGS)


def context(drawn: Case, wiring: tuple[TokensAt, Links], table: DispatchTable | None) -> RoutingContext:
    """What a policy sees of the layer, with these loads and this table learned."""
    known = LearnedShares(drawn.learned.load, drawn.learned.share, table)
    return RoutingContext.of(drawn.placement, drawn.model, drawn.network(wiring), 1, 1, known)


@given(cases(), st.integers(1, 5), st.integers(0, 10**6))
def test_ranks_and_flat_slots_name_the_same_replicas(drawn: Case, sources: int, seed: int) -> None:
    experts, slots = drawn.model.experts, drawn.placement.slots
    rank = np.random.default_rng(seed).integers(0, drawn.placement.counts(experts), (sources, experts))
    table = DispatchTable.of_ranks(drawn.placement, rank)
    assert table.sources == sources
    assert table.rank.tolist() == rank.tolist()
    for row, named in zip(table.replica.tolist(), rank.tolist(), strict=True):
        there = [replicas(slots.tolist(), expert)[place] for expert, place in enumerate(named)]
        assert [divmod(slot, slots.shape[1]) for slot in row] == there


@given(cases(), wirings)
def test_the_nearest_table_learned_is_the_policy_nearest(drawn: Case, wiring: tuple[TokensAt, Links]) -> None:
    nearest = DispatchTable(drawn.placement, context(drawn, wiring, None).nearest_slot)
    seen = context(drawn, wiring, nearest)
    source = drawn.network(wiring).source(drawn.batches.source_row)
    chosen = [POLICIES[name](drawn.batches.experts, source, seen).tolist() for name in ("table", "nearest")]
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize(
    ("replica", "said"),
    [
        ([[0, 1, 4], [5, 2, 1]], "source 1 sends expert 2 to flat slot 1, which does not hold it"),
        ([[3, 1, 4]], "source 0 sends expert 0 to flat slot 3, which does not hold it"),
        ([[0, 1, 99]], "source 0 sends expert 2 to flat slot 99, which does not hold it"),
        ([[0, 1, -1]], "flat slots hold -1"),
        ([0, 1, 4], r"a dispatch table is \[source, expert\], not \[3\]"),
    ],
)
def test_a_table_that_names_no_replica_of_an_expert_is_refused(replica: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DispatchTable(PLACEMENT, np.array(replica))


@pytest.mark.parametrize("rank", [[[0, 2, 0]], [[0, -1, 0]]])
def test_a_rank_beyond_the_replicas_is_refused(rank: list[list[int]]) -> None:
    said = f"{rank[0][1]} for expert 1 of source 0, but the expert's replicas have ranks 0..1"
    with pytest.raises(ValueError, match=said):
        DispatchTable.of_ranks(PLACEMENT, np.array(rank))


def test_nobody_changes_a_table_afterwards() -> None:
    given_array = np.array([[0, 1, 4]])
    table = DispatchTable(PLACEMENT, given_array)
    given_array[0, 0] = 5
    assert table.replica.tolist() == [[0, 1, 4]]
    with pytest.raises(ValueError, match="read-only"):
        table.replica[0, 0] = 5
