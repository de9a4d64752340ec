"""What routed batches put on slots and links, against walking every message hop by hop."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_layers import WIRINGS, Case, Links, TokensAt, cases, rows_of
from reference_traffic import Carried, blocks, carry, holders, hops, link_order

from formulations.kit.arrays import Ints
from optimizer.domain.arrays import frozen
from optimizer.domain.mesh import Mesh
from optimizer.domain.network import Network, rank_in_row
from optimizer.domain.traffic import SPREAD, Traffic, column_and_hops, count_blocks, count_traffic


def scattered(seed: int, drawn: Case) -> Ints:
    """Any slots at all for the pairs of a case, every sixth pair dropped."""
    rng = np.random.default_rng(seed)
    shape = drawn.batches.experts.shape
    return np.where(rng.random(shape) < 1 / 6, -1, rng.integers(drawn.mesh.slots, size=shape)).astype(np.int32)


def targets(chosen: Ints, depth: int) -> list[list[int]]:
    """Devices of the served pairs of each token of one batch."""
    return [[slot // depth for slot in token if slot >= 0] for token in chosen.tolist()]


def counted(drawn: Case, chosen: Ints, wiring: tuple[TokensAt, Links], out: bool, back: bool) -> Traffic:
    """The kernel's counts."""
    network, context = drawn.network(wiring), drawn.context(wiring, 1, 1)
    return count_traffic(chosen, network.source(drawn.batches.source_row), context.device_of, network, out, back)


def walked(drawn: Case, chosen: Ints, batch: int, wiring: tuple[TokensAt, Links], out: bool, back: bool) -> Carried:
    """The oracle's counts of one batch."""
    wires = drawn.wires(wiring)
    held = holders(wires, rows_of(drawn.batches, batch))
    return carry(wires, held, targets(chosen[batch], drawn.mesh.slots_per_device), out, back)


@given(st.integers(0, 10**6), cases(), st.sampled_from(WIRINGS), st.booleans(), st.booleans())
def test_links_carry_what_walking_every_message_puts_on_them(
    seed: int, drawn: Case, wiring: tuple[TokensAt, Links], out: bool, back: bool
) -> None:
    chosen = scattered(seed, drawn)
    found = counted(drawn, chosen, wiring, out, back)
    order = link_order(drawn.wires(wiring))
    for batch in range(2):
        expected = walked(drawn, chosen, batch, wiring, out, back)
        assert found.out[batch].tolist() == [2 * expected.out[link] for link in order]
        assert found.back[batch].tolist() == [2 * expected.back[link] for link in order]
        assert dict(zip(SPREAD, found.spread[batch].tolist(), strict=True)) == {
            name: getattr(expected, name) for name in SPREAD
        }
        served = chosen[batch][chosen[batch] >= 0].tolist()
        assert found.slot_load[batch].tolist() == [served.count(slot) for slot in range(drawn.mesh.slots)]


@given(st.integers(0, 10**6), cases(), st.integers(1, 9))
def test_blocks_are_of_consecutive_tokens_of_one_row(seed: int, drawn: Case, size: int) -> None:
    chosen, rows = scattered(seed, drawn), drawn.batches.source_row
    block = rows * 100 + rank_in_row(rows, drawn.mesh.rows) // size
    found = count_blocks(chosen, block, int(block.max()) + 1, drawn.mesh.slots)
    for batch in range(2):
        used = [[slot for slot in token if slot >= 0] for token in chosen[batch].tolist()]
        expected = blocks(rows_of(drawn.batches, batch), used, size)
        assert found[batch].tolist() == [expected[slot] for slot in range(drawn.mesh.slots)]


@given(st.integers(0, 10**6), cases(), st.sampled_from(WIRINGS))
def test_the_table_is_asked_for_the_fullest_column_and_the_farthest_target(
    seed: int, drawn: Case, wiring: tuple[TokensAt, Links]
) -> None:
    chosen, network, wires = scattered(seed, drawn), drawn.network(wiring), drawn.wires(wiring)
    context, cols = drawn.context(wiring, 1, 1), drawn.mesh.cols
    source = network.source(drawn.batches.source_row)
    most, farthest = column_and_hops(chosen, source, context.device_of, network.distance, cols)
    for batch in range(2):
        held = holders(wires, rows_of(drawn.batches, batch))
        for token, devices in enumerate(targets(chosen[batch], drawn.mesh.slots_per_device)):
            in_column = [sum(device % cols == col for device in devices) for col in range(cols)]
            assert most[batch, token] == max(in_column)
            assert farthest[batch, token] == max((hops(wires, held[token], d) for d in devices), default=0)


def one_token(network: Network, row: int, devices: list[int], out: bool = False, back: bool = False) -> Traffic:
    """A single token of a row with an expert on each of these devices, one slot per device."""
    chosen, source = np.array([[devices]], dtype=np.int32), network.source(frozen(np.array([[row]], dtype=np.int32)))
    return count_traffic(chosen, source, np.arange(network.mesh.devices, dtype=np.int32), network, out, back)


def passed(network: Network, halves: Ints) -> dict[str, Fraction]:
    """Messages by the name of the link."""
    return {network.link_name(int(link)): Fraction(int(halves[0, link]), 2) for link in np.flatnonzero(halves[0])}


def test_two_experts_in_one_column_share_a_packet_and_send_two_results() -> None:
    network = Network(Mesh(6, 2, 1))
    found = one_token(network, 1, [2 * 2, 3 * 2])
    assert passed(network, found.out) == {"column 0, row 1 to 2": 1, "column 0, row 2 to 3": 1}
    assert passed(network, found.back) == {"column 0, row 3 to 2": 1, "column 0, row 2 to 1": 2}
    assert found.spread.tolist() == [[2, 2, 3, 2, 1]]


def test_what_goes_to_the_antipode_is_half_either_way_beyond_nearer_targets() -> None:
    network = Network(Mesh(4, 1, 1))
    found = one_token(network, 0, [1, 2])
    half = Fraction(1, 2)
    assert passed(network, found.out) == {
        "column 0, row 0 to 1": 1,
        "column 0, row 1 to 2": half,
        "column 0, row 0 to 3": half,
        "column 0, row 3 to 2": half,
    }
    assert passed(network, found.back) == {
        "column 0, row 1 to 0": 1 + half,
        "column 0, row 2 to 1": half,
        "column 0, row 2 to 3": half,
        "column 0, row 3 to 0": half,
    }


def test_a_device_sends_along_its_column_and_then_along_the_row_of_the_target() -> None:
    network = Network(Mesh(3, 3, 1), "column")
    found = one_token(network, 0, [1 * 3 + 1, 1 * 3 + 2])
    assert passed(network, found.out) == {
        "column 0, row 0 to 1": 1,
        "row 1, column 0 to 1": 1,
        "row 1, column 0 to 2": 1,
    }
    assert passed(network, found.back) == {
        "row 1, column 1 to 0": 1,
        "row 1, column 2 to 0": 1,
        "column 0, row 1 to 0": 2,
    }


@pytest.mark.parametrize(("per_expert", "messages"), [(False, 1), (True, 2)])
def test_two_experts_on_one_device_are_two_messages_only_where_messages_are_per_expert(
    per_expert: bool, messages: int
) -> None:
    network = Network(Mesh(2, 2, 1), "device", "nodes")
    found = one_token(network, 0, [3, 3], per_expert, per_expert)
    assert passed(network, found.out) == {
        "device 0, out, between nodes": messages,
        "device 3, in, between nodes": messages,
    }
    assert passed(network, found.back) == {
        "device 3, out, between nodes": messages,
        "device 0, in, between nodes": messages,
    }
    assert found.spread.tolist() == [[1, 1, 2, 1, 1]]


def test_on_rings_two_experts_on_one_device_are_one_packet_whatever_is_sent_back() -> None:
    network = Network(Mesh(3, 1, 1))
    for back, results in ((False, 1), (True, 2)):
        found = one_token(network, 0, [1, 1], out=True, back=back)
        assert passed(network, found.out) == {"column 0, row 0 to 1": 1}
        assert passed(network, found.back) == {"column 0, row 1 to 0": results}


@pytest.mark.parametrize("wiring", WIRINGS, ids="-".join)
def test_a_token_without_a_served_pair_leaves_no_trace(wiring: tuple[TokensAt, Links]) -> None:
    found = one_token(Network(Mesh(3, 2, 1), *wiring), 1, [-1, -1])
    assert not any(array.any() for array in found)


@given(cases(), st.integers(0, 10**6))
def test_hops_are_the_messages_on_all_edges_of_unicast_results(drawn: Case, seed: int) -> None:
    chosen = scattered(seed, drawn)
    for tokens in ("row", "column", "device"):
        found = counted(drawn, chosen, (tokens, "rings"), False, False)
        assert (found.back.sum(axis=1) == 2 * found.spread[:, SPREAD.index("hops")]).all()
        assert (found.out.sum(axis=1) <= found.back.sum(axis=1)).all()
