"""The overlapped layer equals an event-by-event oracle, and no part of it ends before what it depends on."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import pytest
import reference_queue
from hypothesis import given
from hypothesis import strategies as st

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.arrays import frozen
from optimizer.domain.mesh import Mesh
from optimizer.domain.network import Network
from optimizer.domain.traffic import count_traffic
from optimizer.simulation.queueing import DeviceWork, Messages, Overlap, ServedPairs, overlap

Tokens = Literal["row", "column", "device"]
Links = Literal["rings", "switch", "nodes"]
Kind = Literal["tiles", "whole", "blocks"]
SHAPES = [(1, 1), (1, 4), (2, 2), (3, 2), (4, 1), (4, 3), (5, 2), (2, 5), (8, 1), (1, 7), (3, 6)]
drawn = given(
    st.integers(0, 10**6), st.sampled_from(SHAPES), st.sampled_from(get_args(Tokens)), st.sampled_from(get_args(Links))
)


@dataclass(frozen=True, eq=False)
class Case:
    """What `overlap` is called with; times are in eighths of a microsecond, so that floating-point sums are exact."""

    network: Network
    chosen: Ints
    source: Ints
    out_us: Floats
    back_us: Floats
    base: tuple[float, float]
    work: DeviceWork
    per_expert: tuple[bool, bool]
    slowdown: Floats

    @property
    def device_of(self) -> Ints:
        """The device of each flat slot, `[slot]`."""
        return (np.arange(self.network.mesh.slots) // self.network.mesh.slots_per_device).astype(np.int32)

    def run(self) -> Overlap:
        """What the program makes of the case."""
        pairs = ServedPairs(self.chosen, self.source, self.device_of)
        messages = Messages(self.network, self.out_us, self.back_us, *self.base, *self.per_expert)
        return overlap(pairs, messages, self.work, self.slowdown)

    def loads(self) -> Ints:
        """Pairs of each slot, `[batch, slot]`."""
        slots = self.network.mesh.slots
        return np.array([np.bincount(batch[batch >= 0], minlength=slots) for batch in self.chosen])


def draw(seed: int, shape: tuple[int, int], tokens: Tokens, links: Links, kind: Kind = "tiles", most: int = 40) -> Case:
    """A random case of two batches of up to `most` tokens on such a mesh."""
    rng = np.random.default_rng(seed)
    mesh = Mesh(*shape, int(rng.integers(1, 4)))
    network = Network(mesh, tokens, links, rng.integers(0, 5) / 4)
    batches, count, k = 2, int(rng.integers(1, most + 1)), int(rng.integers(1, min(mesh.slots, 5) + 1))
    popularity = rng.exponential(size=mesh.slots) ** 2
    score = np.log(popularity + 1e-9) + rng.gumbel(size=(batches, count, mesh.slots))
    chosen = np.argsort(-score, axis=2)[..., :k].astype(np.int32)
    chosen[rng.random(chosen.shape) < rng.choice([0.0, 0.2, 1.0], p=[0.5, 0.45, 0.05])] = -1
    row = rng.integers(0, mesh.rows, (batches, count), dtype=np.int32)
    return Case(
        network=network,
        chosen=chosen,
        source=network.source(frozen(row)),
        out_us=_link_us(rng, len(network.remote)),
        back_us=_link_us(rng, len(network.remote)),
        base=(rng.integers(0, 40) / 8, rng.integers(0, 40) / 8),
        work=_work(rng, kind, (batches, count), mesh.slots),
        per_expert=(bool(rng.integers(2)), bool(rng.integers(2))),
        slowdown=rng.choice([0.5, 1.0, 1.0, 1.25, 2.0], mesh.devices),
    )


def _link_us(rng: np.random.Generator, links: int) -> Floats:
    """Random times of links: all equal, so that there are ties, or each drawn for itself, some of them 0."""
    return np.full(links, rng.integers(0, 9) / 8) if rng.integers(2) else rng.integers(0, 9, links) / 8


def _work(rng: np.random.Generator, kind: Kind, shape: tuple[int, int], slots: int) -> DeviceWork:
    """Random work of one of the kinds, for batches of shape (batches, tokens)."""
    first, further = rng.integers(0, 200, 2) / 8
    if kind == "tiles":
        return DeviceWork.tiles(int(rng.integers(1, 8)), first, further, slots)
    if kind == "whole":
        return DeviceWork.whole_slots(rng.integers(0, 200, (shape[0], slots)) / 8)
    return DeviceWork.blocks(rng.integers(0, 6, shape), further, first, rng.random(slots) < 0.7)


def oracle(case: Case, batch: int) -> dict[str, Any]:
    """What the oracle makes of one batch."""
    mesh, work = case.network.mesh, case.work

    def group(rank: int, token: int) -> int:
        return int(work.block[batch, token]) if work.tile_tokens == 0 else rank // work.tile_tokens

    setting = reference_queue.Setting(
        rows=mesh.rows,
        cols=mesh.cols,
        depth=mesh.slots_per_device,
        tokens=case.network.tokens,
        links=case.network.links,
        hop_us=case.network.hop_us,
        out_us=case.out_us.tolist(),
        back_us=case.back_us.tolist(),
        dispatch_base=case.base[0],
        combine_base=case.base[1],
        out_per_expert=case.per_expert[0],
        back_per_expert=case.per_expert[1],
        slowdown=case.slowdown.tolist(),
        group=group,
        first_us=np.broadcast_to(work.first_us, (len(case.chosen), mesh.slots))[batch].tolist(),
        further_us=work.further_us,
        idle_us=work.idle_us.tolist(),
    )
    return reference_queue.run_layer(setting, case.chosen[batch].tolist(), case.source[batch].tolist())


@given(
    st.integers(0, 10**6),
    st.sampled_from(SHAPES),
    st.sampled_from(get_args(Tokens)),
    st.sampled_from(get_args(Links)),
    st.sampled_from(get_args(Kind)),
)
def test_overlap_equals_the_oracle(seed: int, shape: tuple[int, int], tokens: Tokens, links: Links, kind: Kind) -> None:
    case = draw(seed, shape, tokens, links, kind)
    found = case.run()
    for batch in range(len(case.chosen)):
        for name, value in oracle(case, batch).items():
            assert getattr(found, name)[batch].tolist() == value, name


@given(st.integers(0, 10**6), st.sampled_from([(3, 2), (8, 1), (1, 7), (3, 6)]), st.sampled_from(get_args(Tokens)))
def test_the_lower_number_goes_first_where_most_links_take_no_time(
    seed: int, shape: tuple[int, int], tokens: Tokens
) -> None:
    case = draw(seed, shape, tokens, "rings")
    rng = np.random.default_rng(seed)
    out, back = rng.choice([0.0, 0.0, 0.0, 1.0], (2, len(case.network.remote)))
    network = replace(case.network, hop_us=0.0)
    case = replace(
        case, network=network, out_us=out, back_us=back, work=DeviceWork.tiles(2, 1.0, 1.0, network.mesh.slots)
    )
    found = case.run()
    for name, value in oracle(case, 0).items():
        assert getattr(found, name)[0].tolist() == value, name


@drawn
def test_what_is_sent_is_what_traffic_counts(seed: int, shape: tuple[int, int], tokens: Tokens, links: Links) -> None:
    """If only one link takes time, the last message arrives when that link has carried all messages counted on it."""
    case = draw(seed, shape, tokens, links)
    free = np.zeros(len(case.network.remote))
    work = DeviceWork.tiles(4, 0.0, 0.0, case.network.mesh.slots)
    case = replace(case, network=replace(case.network, hop_us=0.0), work=work)
    traffic = count_traffic(case.chosen, case.source, case.device_of, case.network, *case.per_expert)
    for link in range(len(free)):
        slow = free.copy()
        slow[link] = 0.25
        out = replace(case, out_us=slow, back_us=free).run()
        back = replace(case, out_us=free, back_us=slow).run()
        assert (out.arrived == case.base[0] + traffic.out[:, link] / 8).all()
        assert (back.end == sum(case.base) + traffic.back[:, link] / 8).all()


@drawn
def test_devices_are_busy_for_what_their_loads_cost(
    seed: int, shape: tuple[int, int], tokens: Tokens, links: Links
) -> None:
    case = draw(seed, shape, tokens, links)
    load, found = case.loads(), case.run()
    tiles = -(-load // case.work.tile_tokens)
    spent = np.where(tiles > 0, case.work.first_us + case.work.further_us * (tiles - 1), 0.0)
    busy = spent.reshape(len(load), case.network.mesh.devices, -1).sum(axis=2) * case.slowdown
    assert (found.busy == busy).all()
    assert (found.waiting >= 0).all()


@drawn
def test_nothing_ends_before_its_parts(seed: int, shape: tuple[int, int], tokens: Tokens, links: Links) -> None:
    case = draw(seed, shape, tokens, links)
    found = case.run()
    assert (found.finished >= case.base[0] + found.busy.max(axis=1)).all()
    assert (found.end >= found.finished).all()
    assert (found.finished >= found.arrived).all()
    served = (case.chosen >= 0).any(axis=(1, 2))
    assert (found.end[served] >= case.base[1] + found.finished[served]).all()


@drawn
def test_no_batch_ends_earlier_than_any_of_its_pairs_alone_would(
    seed: int, shape: tuple[int, int], tokens: Tokens, links: Links
) -> None:
    """This holds as long as the first tile of a slot costs no more than a further one."""
    case = draw(seed, shape, tokens, links, most=12)
    case = replace(case, work=DeviceWork.tiles(3, 4.0, 4.5, case.network.mesh.slots))
    found = case.run()
    for token in range(case.chosen.shape[1]):
        for choice in range(case.chosen.shape[2]):
            alone = np.full_like(case.chosen, -1)
            alone[:, token, choice] = case.chosen[:, token, choice]
            assert (found.end >= replace(case, chosen=alone).run().end).all()


@given(st.integers(0, 10**6))
def test_one_device_without_links_takes_the_staircase(seed: int) -> None:
    case = draw(seed, (1, 1), "row", "rings")
    found = replace(case, base=(0.0, 0.0)).run()
    assert (found.end == found.busy[:, 0]).all()
    assert (found.arrived == 0).all()


def test_batches_do_not_see_each_other() -> None:
    case = draw(5, (4, 3), "device", "rings", "blocks")
    both = case.run()
    for batch in range(2):
        one = slice(batch, batch + 1)
        work = case.work._replace(block=case.work.block[one])
        single = replace(case, chosen=case.chosen[one], source=case.source[one], work=work).run()
        assert (single.end[0], single.waiting[0].tolist()) == (both.end[batch], both.waiting[batch].tolist())


@pytest.mark.parametrize("tokens", get_args(Tokens))
def test_times_that_are_not_dyadic_on_a_larger_mesh(tokens: Tokens) -> None:
    case = draw(11, (8, 6), tokens, "rings", most=150)
    rng = np.random.default_rng(1)
    links = len(case.network.remote)
    case = replace(case, out_us=rng.random(links), back_us=rng.random(links), slowdown=1 + rng.random(48))
    found = case.run()
    for name, value in oracle(case, 0).items():
        assert getattr(found, name)[0].tolist() == pytest.approx(value), name


def by_hand(
    network: Network, chosen: list[list[int]], source: list[int], base: tuple[float, float], **more: Any
) -> Case:
    """One batch, given by its flat slots and sources, with links that take 2 us."""
    links = np.full(len(network.remote), 2.0)
    said: dict[str, Any] = {"out_us": links, "back_us": links, "per_expert": (False, False)} | more
    return Case(
        network=network,
        chosen=np.array([chosen], dtype=np.int32),
        source=frozen(np.array([source], dtype=np.int32)),
        base=base,
        slowdown=np.ones(network.mesh.devices),
        **said,
    )


def test_a_packet_visits_all_and_the_antipode_gets_two_halves() -> None:
    """Worked out by hand, in microseconds.

    The packet is at row 1 after 2.5, and half of it goes on to row 2 in another 1.5, where the other half has come by
    the other way before. Results take 2.5 from row 1, and two steps of 1.5 from row 2.
    """
    case = by_hand(
        Network(Mesh(4, 1, 1), hop_us=0.5), [[1, 2]], [0], (10.0, 1.0), work=DeviceWork.tiles(32, 8.0, 9.0, 4)
    )
    found = case.run()
    assert found.arrived.tolist() == [14.0]
    assert found.finished.tolist() == [22.0]
    assert found.end.tolist() == [26.0]
    assert found.busy.tolist() == [[0.0, 8.0, 8.0, 0.0]]


def test_the_lower_token_goes_first_even_from_the_far_end_of_the_ring() -> None:
    """All tokens reach edges 1 and 2, the only ones that take time, at once; token 0, from row 9, has to pass both."""
    slow = np.zeros(20)
    slow[[1, 2]] = 2.0
    case = by_hand(
        Network(Mesh(10, 1, 1)), [[3], [2], [1]], [9, 1, 0], (0.0, 0.0), work=DeviceWork.tiles(1, 1.0, 1.0, 10)
    )
    assert replace(case, out_us=slow).run().arrived.tolist() == [4.0]


def test_ports_and_devices_serve_one_at_a_time() -> None:
    """Messages leave device 0 at 2, 4 and 6; device 2 has its tokens at 7 and 9 and is done with them at 11 and 12."""
    network = Network(Mesh(1, 3, 1), "column", "switch", hop_us=0.5)
    work = DeviceWork.tiles(1, 4.0, 1.0, 3)
    case = by_hand(network, [[1, 2], [2, -1]], [0, 0], (0.0, 3.0), work=work, back_us=np.zeros(6))
    found = case.run()
    assert (found.arrived[0], found.finished[0], found.end[0]) == (9.0, 12.0, 16.0)
    assert found.waiting.tolist() == [[0.0, 0.0, 2.0]]
    assert found.busy.tolist() == [[0.0, 4.0, 5.0]]


def test_results_per_expert_are_sent_as_their_jobs_end() -> None:
    """The two slots are done at 4 and 8. One result per device leaves after 8, results per expert leave at 4 and 8."""
    network = Network(Mesh(2, 1, 2), "row", "switch")
    case = by_hand(network, [[2, 3]], [0], (0.0, 0.0), work=DeviceWork.tiles(1, 4.0, 0.0, 4), out_us=np.zeros(4))
    assert case.run().end.tolist() == [12.0]
    back = np.array([3.0, 3.0, 3.0, 3.0])
    assert replace(case, per_expert=(False, True), back_us=back).run().end.tolist() == [14.0]
    assert replace(case, per_expert=(False, True), back_us=2 * back).run().end.tolist() == [22.0]


def test_a_slot_pays_for_its_weights_once_and_when_idle() -> None:
    """Slot 0 is idle and loads its weights until 8; slot 1 loads and computes two blocks, which end at 13 and 15."""
    work = DeviceWork.blocks(np.array([[0, 0, 1]]), 2.0, 3.0, np.array([True, True, False]))
    case = by_hand(Network(Mesh(1, 1, 3)), [[1], [1], [1]], [0, 0, 0], (5.0, 1.0), work=work)
    found = case.run()
    assert (found.finished[0], found.end[0]) == (15.0, 16.0)
    assert (found.waiting[0, 0], found.busy[0, 0]) == (11.0, 10.0)
    idle = replace(case, chosen=np.full((1, 3, 1), -1, dtype=np.int32)).run()
    assert (idle.arrived[0], idle.finished[0], idle.end[0]) == (5.0, 11.0, 11.0)


def test_a_batch_without_pairs_takes_the_base_times() -> None:
    found = by_hand(Network(Mesh(2, 2, 1)), [[-1]], [1], (5.0, 1.0), work=DeviceWork.whole_slots(np.ones((1, 4)))).run()
    assert (found.arrived[0], found.finished[0], found.end[0]) == (5.0, 5.0, 6.0)
