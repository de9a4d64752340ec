"""Sources, senders and distances against walking the mesh, and the names of links."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_layers import SHAPES, TOKENS_AT, WIRINGS, Links, TokensAt
from reference_traffic import Link, Wires, all_holders, holders, hops, in_column, in_row, link_order, sender

from optimizer.domain.mesh import Mesh
from optimizer.domain.network import BOTH_WAYS, CLIMBS, DESCENDS, NOWHERE, Network
from optimizer.domain.presets import load_hardware

EVERYWHERE = pytest.mark.parametrize("shape", SHAPES, ids=str)
ALL_WIRINGS = pytest.mark.parametrize("wiring", WIRINGS, ids="-".join)


@EVERYWHERE
@ALL_WIRINGS
def test_every_source_sends_from_where_its_tokens_are_and_as_far_as_the_walk(
    shape: tuple[int, int], wiring: tuple[TokensAt, Links]
) -> None:
    network, wires = Network(Mesh(*shape, 1), *wiring), Wires(*shape, *wiring)
    sources, devices = all_holders(wires), range(network.mesh.devices)
    assert network.sources == len(sources)
    assert network.home_row.tolist() == [held[0] // shape[1] for held in sources]
    assert network.sender.tolist() == [[sender(wires, held, device) for device in devices] for held in sources]
    assert network.distance.tolist() == [[hops(wires, held, device) for device in devices] for held in sources]


def way_of(links: list[Link]) -> int:
    """How a walk along one ring goes."""
    ways = {way for _, _, way, _ in links}
    return {(): NOWHERE, ("up",): CLIMBS, ("down",): DESCENDS, ("down", "up"): BOTH_WAYS}[tuple(sorted(ways))]


@EVERYWHERE
@pytest.mark.parametrize("tokens", TOKENS_AT)
def test_journeys_run_the_short_way_round_both_rings(shape: tuple[int, int], tokens: TokensAt) -> None:
    network, wires = Network(Mesh(*shape, 1), tokens), Wires(*shape, tokens)
    for source, held in enumerate(all_holders(wires)):
        for device in range(network.mesh.devices):
            (row, col), (end_row, end_col) = divmod(sender(wires, held, device), shape[1]), divmod(device, shape[1])
            up_down, across = in_column(wires, col, row, end_row), in_row(wires, end_row, col, end_col)
            legs = [(network.along_column, up_down), (network.along_row, across)]
            for (way, length), walked in legs:
                assert way[source, device] == way_of(list(walked))
                assert length[source, device] == sum(walked.values())


@given(st.integers(0, 10**6), st.sampled_from(SHAPES), st.sampled_from(TOKENS_AT))
def test_tokens_of_a_row_are_dealt_out_in_turn(seed: int, shape: tuple[int, int], tokens: TokensAt) -> None:
    row = np.random.default_rng(seed).integers(shape[0], size=(2, 17)).astype(np.int32)
    wires = Wires(*shape, tokens)
    source = Network(Mesh(*shape, 1), tokens).source(row)
    assert source.dtype == np.int32
    for batch in range(2):
        held = [all_holders(wires)[number] for number in source[batch]]
        assert held == holders(wires, row[batch].tolist())
        if tokens == "device":
            dealt = Counter(device for (device,) in held)
            for of_row in range(shape[0]):
                counts = [dealt[of_row * shape[1] + col] for col in range(shape[1])]
                assert max(counts) - min(counts) <= 1


def named(link: Link, wires: Wires) -> str:
    """What a link is, in words."""
    kind, of, way, place = link
    if kind in ("fast", "slow"):
        where = "between nodes" if kind == "slow" else "inside" if wires.links == "nodes" else "at the switch"
        return f"device {of}, {way}, {where}"
    length, other = (wires.rows, "row") if kind == "column" else (wires.cols, "column")
    return f"{kind} {of}, {other} {place} to {(place + (1 if way == 'up' else -1)) % length}"


@EVERYWHERE
@ALL_WIRINGS
def test_links_are_numbered_and_named_in_one_order(shape: tuple[int, int], wiring: tuple[TokensAt, Links]) -> None:
    network, wires = Network(Mesh(*shape, 1), *wiring), Wires(*shape, *wiring)
    order = link_order(wires)
    assert [network.link_name(number) for number in range(len(network.remote))] == [
        named(link, wires) for link in order
    ]
    assert network.remote.tolist() == [kind == "slow" for kind, *_ in order]


def test_only_tokens_that_are_not_on_their_whole_row_travel_across() -> None:
    mesh = Mesh(3, 2, 1)
    assert [Network(mesh, *wiring).across for wiring in WIRINGS] == [
        links == "rings" and tokens != "row" for tokens, links in WIRINGS
    ]
    assert Network(mesh).column_edges == 12


def test_a_preset_says_how_its_mesh_is_wired() -> None:
    preset = load_hardware("h800").network
    network = Network.of(Mesh(2, 8, 3), preset)
    assert (network.tokens, network.links, network.hop_us) == (preset.tokens, preset.links, preset.hop_us)
