"""Every policy chooses as a slow oracle does pair by pair, and keeps what its docstring promises."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_layers import WIRINGS, Case, Links, TokensAt, as_tokens, case, cases, rows_of
from reference_hints import HINT_ORACLES
from reference_routing import ORACLES, nearest_table
from reference_traffic import all_holders, holders

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.routing.context import LearnedShares, RoutingContext, capacity_of
from optimizer.routing.policies import LEARNING, MARGINS, POLICIES, REMEMBERING
from optimizer.traces.batches import Batches

TILES = [1, 2, 5, 32]
wirings = st.sampled_from(WIRINGS)
tiles = st.sampled_from(TILES)


def routed_by(policy: str, drawn: Case, wiring: tuple[TokensAt, Links], tile: int, capacity: int) -> Ints:
    """The flat slots that the program's policy chooses, `[batch, token, k]`."""
    context = drawn.context(wiring, tile, capacity)
    source = drawn.network(wiring).source(drawn.batches.source_row)
    return POLICIES[policy](drawn.batches.experts, source, context)


@pytest.mark.parametrize("policy", sorted(ORACLES))
@given(drawn=cases(), wiring=wirings, tile=tiles, capacity=st.integers(1, 20))
def test_each_policy_chooses_as_the_oracle(
    policy: str, drawn: Case, wiring: tuple[TokensAt, Links], tile: int, capacity: int
) -> None:
    chosen = routed_by(policy, drawn, wiring, tile, capacity)
    layer = drawn.layer(wiring, tile, capacity)
    for batch in range(2):
        held = holders(layer.wires, rows_of(drawn.batches, batch))
        expected = ORACLES[policy](layer, as_tokens(drawn.batches.experts[batch]), held)
        assert chosen[batch].tolist() == drawn.flat(expected)


def test_the_learning_policies_are_those_that_use_what_was_learned() -> None:
    taught = set()
    for seed in range(40):
        drawn = case(seed, (4, 3), 2, replicas=3)
        untaught = replace(drawn, learned=LearnedShares.nothing(drawn.placement, drawn.model.experts))
        for policy in POLICIES:
            one, other = (routed_by(policy, each, ("row", "rings"), 1, 5) for each in (drawn, untaught))
            taught |= {policy} if (one != other).any() else set()
    assert taught == set(LEARNING)


def test_all_policies_but_the_two_exact_ones_have_an_oracle() -> None:
    assert {*ORACLES, *HINT_ORACLES, "optimal", "least-active"} == set(POLICIES)
    assert set(HINT_ORACLES) == set(REMEMBERING)


@given(drawn=cases(), wiring=wirings, tile=tiles, capacity=st.integers(1, 20))
def test_every_pair_is_served_by_a_replica_of_its_expert_and_batches_do_not_touch(
    drawn: Case, wiring: tuple[TokensAt, Links], tile: int, capacity: int
) -> None:
    context, flat = drawn.context(wiring, tile, capacity), drawn.placement.slots.ravel()
    source = drawn.network(wiring).source(drawn.batches.source_row)
    for name, policy in POLICIES.items():
        chosen = policy(drawn.batches.experts, source, context)
        assert chosen.dtype == np.int32
        assert (flat[chosen] == drawn.batches.experts).all()
        alone = drawn.batches.part(1, 2)
        assert name in REMEMBERING or (policy(alone.experts, source[1:], context) == chosen[1:]).all()


@given(cases(), wirings)
def test_the_table_of_nearest_replicas_is_the_plain_one(drawn: Case, wiring: tuple[TokensAt, Links]) -> None:
    table = nearest_table(drawn.layer(wiring, 1, 1))
    sources = all_holders(drawn.wires(wiring))
    places = [[table[tuple(held), expert] for expert in range(drawn.model.experts)] for held in sources]
    assert drawn.context(wiring, 1, 1).nearest_slot.tolist() == drawn.flat(places)


def line(*slots: list[int], tokens: TokensAt = "row", tile: int = 1, capacity: int = 9) -> RoutingContext:
    """The context of a mesh of one column, whose rows form a ring with one device each."""
    placement = Placement(np.array(slots))
    mesh, model = Mesh(len(slots), 1, len(slots[0])), Model("line", int(placement.slots.max()) + 1, 0, 1)
    return RoutingContext.of(placement, model, Network(mesh, tokens), tile, capacity, None)


def served(policy: str, context: RoutingContext, experts: list[list[int]], rows: list[int]) -> list[list[int]]:
    """The flat slots that a policy chooses for the tokens of one batch, by their experts and rows."""
    batches = Batches(np.array([experts]), np.array([rows]))
    found: list[list[int]] = POLICIES[policy](batches.experts, batches.source_row, context)[0].tolist()
    return found


def test_a_token_leaves_its_row_only_for_a_device_lighter_by_more_than_the_margin() -> None:
    """Tokens stay in their row while its load exceeds the other by up to 4, then go, whatever the replicas' ranks."""
    stay = MARGINS[False] + 1
    for home in (0, 1):
        context = line([0], [0])
        assert served("least-loaded", context, [[0]] * (stay + 1), [home] * (stay + 1)) == [[home]] * stay + [
            [1 - home]
        ]


def test_by_tiles_a_begun_tile_is_filled_before_another_is_opened() -> None:
    context = line([0], [0], tile=3)
    assert served("least-loaded", context, [[0]] * 7, [0, 1, 1, 1, 0, 0, 0]) == [[0]] * 3 + [[1]] * 3 + [[0]]


def test_capacity_is_taken_up_by_the_nearest_and_then_in_turn() -> None:
    context = line([0], [0], [0], capacity=2)
    assert served("capacity-fill", context, [[0]] * 9, [1] * 9) == [[1], [1], [0], [0], [2], [2], [0], [1], [2]]


def test_near_replicas_get_twice_as_much_as_those_a_hop_farther() -> None:
    """From row 0 of a ring of six the replicas in rows 1 and 2 are 1 and 2 hops away, from row 4 they are 3 and 2."""
    context = line([1], [0], [0], [2], [3], [4])
    for row, near, far in ((0, 1, 2), (4, 2, 1)):
        served_by = [place for (place,) in served("near-source", context, [[0]] * 30, [row] * 30)]
        assert (served_by.count(near), served_by.count(far)) == (20, 10)


def test_equally_near_replicas_get_equal_parts_and_what_a_row_holds_stays_there() -> None:
    context = line([0], [1], [0], [2])
    for row in (1, 3):
        assert sorted(served("near-source", context, [[0]] * 8, [row] * 8)) == [[0]] * 4 + [[2]] * 4
    for row in (0, 2):
        assert served("near-source", context, [[0]] * 40, [row] * 40) == [[row]] * 40


def test_a_replica_more_than_twenty_hops_beyond_the_nearest_gets_nothing() -> None:
    context = line([1], [0], *([2 + row] for row in range(20)), [0], *([22 + row] for row in range(25)))
    pairs = 1 << 16
    assert served("near-source", context, [[0]] * pairs, [0] * pairs) == [[1]] * pairs


@pytest.mark.parametrize("replicas", [2, 3, 4, 7])
def test_weights_serve_no_more_than_each_share_rounded_up(replicas: int) -> None:
    placement, mesh = Placement(np.zeros((replicas, 1), dtype=int)), Mesh(replicas, 1, 1)
    for seed in range(20):
        share = np.random.default_rng(seed).dirichlet(np.ones(replicas))
        context = RoutingContext.of(
            placement, Model("m", 1, 0, 1), Network(mesh), 1, 1, LearnedShares(np.ones(1), share[:, None])
        )
        chosen = np.array(served("weights", context, [[0]] * 60, [0] * 60)).ravel()
        for pairs in range(1, 61):
            dealt = np.bincount(chosen[:pairs], minlength=replicas)
            assert (dealt <= np.ceil(share * pairs)).all()
            assert (dealt > share * pairs - 1.1).all()


def test_shares_of_none_serve_none() -> None:
    learned = LearnedShares(np.ones(1), np.array([[0.0], [1.0]]))
    context = RoutingContext.of(
        Placement(np.array([[0], [0]])), Model("m", 1, 0, 1), Network(Mesh(2, 1, 1)), 1, 1, learned
    )
    assert served("weights", context, [[0]] * 5, [0] * 5) == [[1]] * 5


def test_hashes_spread_pairs_over_replicas() -> None:
    chosen = np.array(served("hash", line([0], [0], [0], [0]), [[0]] * 4000, [0] * 4000))
    assert np.bincount(chosen.ravel()).tolist() == pytest.approx([1000] * 4, rel=0.05)


@pytest.mark.parametrize(
    ("factor", "tokens", "slots", "pairs"), [(1.0, 12, 8, 3), (1.5, 12, 8, 5), (0.01, 12, 8, 1), (1.1, 50, 11, 10)]
)
def test_capacity_is_rounded_up_to_whole_pairs(factor: float, tokens: int, slots: int, pairs: int) -> None:
    assert capacity_of(factor, tokens, Model("m", 4, 1, 2), slots) == pairs


def test_what_nobody_taught_is_taken_as_equal() -> None:
    placement = Placement(np.array([[0, 1], [0, -1], [0, 2]]))
    nothing = LearnedShares.nothing(placement, 3)
    assert nothing.load.tolist() == [1, 1, 1]
    assert nothing.share.tolist() == [[1 / 3, 1], [1 / 3, 0], [1 / 3, 1]]
