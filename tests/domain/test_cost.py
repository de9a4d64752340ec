"""The cost model against figures worked out by hand."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import ValidationError
from random_problems import WORMHOLE, cost

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.presets import load_hardware, load_model, names
from optimizer.domain.presets.schema import HardwarePreset
from optimizer.errors import InputError

READ_US, TOKEN_US = 44040192 / 3.35e6, 88080384 / (1979 * 0.56 * 1e6)
"""An expert's weights and one token's multiplications on an H800."""


def named(name: str, **asked: Any) -> Cost:
    return Cost(name, load_hardware(name), **asked)


def changed(name: str, **sections: dict[str, Any]) -> Cost:
    """A built-in preset with some figures of some sections changed."""
    text = load_hardware(name).model_dump()
    return Cost(name, HardwarePreset.model_validate(text | {key: text[key] | new for key, new in sections.items()}))


@pytest.mark.parametrize(
    ("loads", "microseconds"),
    [((17, 17), 235), ((17, 38), 365), ((38, 38), 495), ((38, 70), 625), ((0, 0), 0), ((0, 1), 117.5)],
)
def test_compute_staircase_reproduces_the_published_examples(loads: tuple[int, int], microseconds: float) -> None:
    assert cost().compute_us(np.array([[loads]])) == [microseconds]


def test_compute_is_that_of_the_slowest_device() -> None:
    assert cost().compute_us(np.array([[[17, 0], [38, 70]], [[1, 0], [0, 0]]])).tolist() == [625, 117.5]


def test_a_slow_device_counts_as_much_more_as_it_is_slower() -> None:
    load = np.array([[[17, 0], [38, 70]], [[1, 0], [0, 0]]])
    assert cost().compute_us(load, slowdown=np.array([6.0, 1.0])).tolist() == [705, 705]
    assert cost().compute_us(load, slowdown=np.array([1.0, 1.0])).tolist() == cost().compute_us(load).tolist()


def test_slots_work_for_as_long_as_their_tiles() -> None:
    assert cost().slot_us(np.array([[[0, 1, 32], [33, 64, 65]]])).tolist() == [
        [[0.0, 117.5, 117.5], [247.5, 247.5, 377.5]]
    ]


def test_a_roofline_slot_reads_its_weights_or_multiplies_whichever_is_longer() -> None:
    h800 = named("h800")
    turn = READ_US / TOKEN_US
    assert 164 < turn < 166
    assert h800.slot_us(np.array([[0, 1, 164, 166, 1000]]))[0].tolist() == pytest.approx(
        [0, READ_US, READ_US, 166 * TOKEN_US, 1000 * TOKEN_US], abs=0.001
    )
    assert h800.compute_us(np.array([[[1, 1, 0], [1000, 0, 0]]])).tolist() == pytest.approx(
        [1000 * TOKEN_US], abs=0.001
    )


@pytest.mark.parametrize("name", ["h800", "h100", "h200", "gb200-nvl72", "ascend-384", WORMHOLE])
def test_so_many_tokens_cost_no_more_than_one_and_the_next_does(name: str) -> None:
    """On tiles the next one begins a further tile."""
    hardware = named(name)
    most = hardware.read_tokens
    one, last, beyond = hardware.slot_ns(most + 1)[[1, most, most + 1]]
    assert one == last < beyond


@pytest.mark.parametrize("name", [WORMHOLE, "h800"])
def test_the_table_by_tokens_is_what_a_slot_costs(name: str) -> None:
    tokens = np.arange(400)
    table = named(name).slot_ns(399)
    assert table.dtype == np.int64
    assert (table / 1000 == named(name).slot_us(tokens[None, :, None])[0, :, 0]).all()


def test_tiles_of_a_roofline_are_tokens() -> None:
    load = np.array([0, 1, 32, 33])
    wormhole, h800 = cost(), named("h800")
    assert (wormhole.unit, wormhole.tile_tokens, wormhole.tiles(load).tolist()) == ("tiles", 32, [0, 1, 1, 2])
    assert (h800.unit, h800.tile_tokens, h800.tiles(load).tolist()) == ("tokens", 1, [0, 1, 32, 33])


def test_the_functional_op_loads_every_filled_slot_and_pays_for_blocks() -> None:
    functional = named(WORMHOLE, moe_op="functional")
    load, blocks = np.array([[[16, 0, 0], [40, 0, 0]]]), np.array([[[16, 0, 0], [2, 0, 0]]])
    filled = np.array([[True, True, False], [True, True, True]])
    assert functional.slot_us(load, blocks, filled).tolist() == [[[117.5 + 16 * 130, 117.5, 0], [377.5, 117.5, 117.5]]]
    assert functional.compute_us(load, blocks, filled).tolist() == [235 + 16 * 130]
    assert functional.compute_us(load, blocks, filled, np.array([1.0, 10.0])).tolist() == [6125]


def test_the_functional_op_needs_blocks_and_filled_slots() -> None:
    load = np.ones((1, 1, 1), dtype=int)
    functional = named(WORMHOLE, moe_op="functional")
    with pytest.raises(ValueError, match="slot_blocks"):
        functional.compute_us(load)
    with pytest.raises(ValueError, match="filled"):
        functional.compute_us(load, load)
    assert functional.functional.block_tokens == 32
    with pytest.raises(ValueError, match="h800 has no"):
        _ = named("h800").functional


def test_the_functional_table_is_that_of_tokens_thrown_at_random_into_the_blocks_of_the_batch(
    rng: np.random.Generator,
) -> None:
    functional = named(WORMHOLE, moe_op="functional")
    thrown = np.sort(rng.integers(16, size=(20_000, 20)), axis=1)
    met = 1 + (np.diff(thrown, axis=1) > 0).sum(axis=1).mean()
    table = functional.slot_ns(20, 16)
    assert table[[0, 1]].tolist() == [117_500, 247_500]
    assert table[20] == pytest.approx(117_500 + 130_000 * met, rel=0.005)
    assert functional.slot_ns(33)[[0, 1, 32, 33]].tolist() == [117_500, 247_500, 247_500, 377_500]


def test_the_functional_op_sends_results_back_per_expert() -> None:
    assert not named(WORMHOLE).combine_per_expert
    assert named(WORMHOLE, moe_op="functional").combine_per_expert
    assert cost(per_expert=True).combine_per_expert


def test_rings_multicast_and_ports_send_per_expert_if_the_preset_says_so() -> None:
    assert not cost(per_expert=True).dispatch_per_expert
    assert named("h800").dispatch_per_expert
    assert not changed("h800", dispatch={"message_per": "device"}).dispatch_per_expert


def test_link_time_is_that_of_the_busiest_edge() -> None:
    halves = np.zeros((2, 8, 2, 16), dtype=int)
    halves[1, 3, 1, 7] = 2 * 279
    assert cost().dispatch_us(halves).tolist() == pytest.approx([20.7, 20.7 + 14336 / 100])
    assert cost().combine_us(halves).tolist() == pytest.approx([32.0, 32.0 + 14336 / 100])
    flat, near = halves.reshape(2, 256).astype(np.int32), np.zeros(256, dtype=bool)
    assert cost().dispatch_us(flat, near).tolist() == cost().dispatch_us(halves).tolist()


def test_the_slower_network_decides_unless_much_more_passes_through_the_faster() -> None:
    h800, remote = named("h800"), np.array([False, False, True, True])
    halves = np.array([[64, 0, 20, 0], [66, 0, 20, 0], [0, 7, 0, 3]])
    dispatch = [42 + 10 * 7392 / 50e3, 42 + 33 * 7392 / 160e3, 42 + 1.5 * 7392 / 50e3]
    assert h800.dispatch_us(halves, remote).tolist() == pytest.approx(dispatch)
    assert h800.combine_us(halves, remote).tolist() == pytest.approx(
        [50 + (time - 42) * 14336 / 7392 for time in dispatch]
    )


@pytest.mark.parametrize(
    ("name", "dispatch", "combine"),
    [
        (WORMHOLE, [14336 / 27.9e3] * 2, [14336 / 27.9e3] * 2),
        ("h800", [7392 / 160e3, 7392 / 50e3], [14336 / 160e3, 14336 / 50e3]),
        ("gb200-nvl72", [7392 / 489e3] * 2, [14336 / 597e3] * 2),
    ],
)
def test_a_message_keeps_a_link_busy_for_its_bytes(name: str, dispatch: list[float], combine: list[float]) -> None:
    remote = np.array([False, name == "h800"])
    assert named(name).dispatch_message_us(remote).tolist() == pytest.approx(dispatch)
    assert named(name).combine_message_us(remote).tolist() == pytest.approx(combine)


def test_table_time_grows_with_experts_and_hops() -> None:
    table = named(WORMHOLE, dispatch_model="table")
    assert table.uses_table
    assert not named(WORMHOLE, dispatch_model="link").uses_table
    assert not named(WORMHOLE).uses_table
    assert table.table_us(np.array([[1, 3]]), np.array([[0, 8]])).tolist() == [
        pytest.approx([5.1 + 4.95, 5.1 + 3 * 4.95 + 8 * 10.93])
    ]
    with pytest.raises(ValueError, match="table"):
        named("h800").table_us(np.array([1]), np.array([1]))


@pytest.mark.parametrize(
    ("name", "model", "has"),
    [("h800", "table", "node"), ("h800", "link", "node"), (WORMHOLE, "node", "link, table")],
)
def test_a_dispatch_model_that_the_hardware_lacks_is_refused(
    name: str, model: Literal["link", "table", "node"], has: str
) -> None:
    said = f"^hardware {name} has no dispatch model '{model}'; it has {has}$"
    with pytest.raises(InputError, match=said):
        named(name, dispatch_model=model)


def test_a_moe_op_that_the_hardware_lacks_is_refused() -> None:
    with pytest.raises(InputError, match=r"^hardware h200 has no \[functional\] section"):
        named("h200", moe_op="functional")


def test_a_message_less_saves_its_share_of_the_evenly_used_edges() -> None:
    assert cost().message_ns(Mesh(16, 8, 3)) == round(14336 / 27.9 * 4 / 256)  # 4 hops on average, 256 directed edges
    assert cost().message_ns(Mesh(1, 8, 3)) == 0
    assert cost().message_ns(Mesh(3, 1, 3)) == round(14336 / 27.9 * (2 / 3) / 6)


@pytest.mark.parametrize("shape", [(16, 8), (5, 3), (4, 9)])
def test_the_share_of_ring_edges_is_that_of_the_axis_with_longer_ways(shape: tuple[int, int]) -> None:
    mesh, spread = Mesh(*shape, 3), changed(WORMHOLE, network={"tokens": "device"})
    ways = [np.mean([min(place, n - place) for place in range(n)]) for n in shape]
    for tested, hops in ((cost(), ways[0]), (spread, max(ways))):
        assert tested.message_ns(mesh) == round(14336 / 27.9 * hops / (2 * mesh.devices))


def test_a_message_less_saves_nothing_where_there_is_one_per_expert() -> None:
    assert cost(per_expert=True).message_ns(Mesh(16, 8, 3)) == 0
    assert named("h800").message_ns(Mesh(16, 8, 3)) == 0


def test_a_message_less_saves_its_share_of_the_ports_each_way() -> None:
    per_device = {"message_per": "device"}
    both = changed("h800", dispatch=per_device, combine=per_device)
    assert both.message_ns(Mesh(4, 2, 3)) == round((7392 + 14336) / 50 * 3 / 4 / 8)
    assert both.message_ns(Mesh(1, 8, 3)) == round((7392 + 14336) / 160 * 7 / 8 / 8)
    back = changed("gb200-nvl72", combine=per_device)
    assert back.message_ns(Mesh(2, 2, 3)) == round(14336 / 597 * 3 / 4 / 4)


def test_roofline_and_messages_grow_with_the_models_expert() -> None:
    """Qwen3-30B's expert has 2048 x 768 of DeepSeek-V3's 7168 x 2048 parameters, and its messages 2048 of 7168
    values: what a slot and a link take falls by as much, and base times stay."""
    usual, model = named("h800"), load_model("qwen3-30b-a3b")
    scaled = usual.for_model(model)
    size, hidden = 2048 * 768 / (7168 * 2048), 2048 / 7168
    load = np.array([[[1, 300]]])
    assert scaled.slot_us(load) == pytest.approx(usual.slot_us(load) * size, abs=0.001)
    for each in ("dispatch_message_us", "combine_message_us"):
        remote = np.array([False, True])
        assert getattr(scaled, each)(remote) == pytest.approx(getattr(usual, each)(remote) * hidden, rel=1e-3)
    assert scaled.dispatch_us(np.array([[0, 0]])).tolist() == [42.0]
    assert scaled.preset.dispatch.bytes_per_token == 2048 + 2048 // 32  # fp8 values, and a float32 per 128 of them
    assert scaled.for_model(model) == scaled
    assert scaled.for_model(load_model("deepseek-v3")).slot_us(load) == pytest.approx(usual.slot_us(load), abs=0.001)


@pytest.mark.parametrize("name", names("hardware"))
def test_the_figures_of_deepseek_v3_are_those_of_the_preset(name: str) -> None:
    """All published figures of this project were made with these."""
    for model in map(load_model, ("deepseek-v3", "kimi-k2")):
        assert named(name).for_model(model) == named(name)
        assert named(name).notes(model) == []


def test_figures_that_do_not_fit_the_model_are_said_to_be_those_of_another() -> None:
    mixtral, mine = load_model("mixtral-8x7b"), Model("mine", 8, 0, 2)
    assert cost().for_model(mixtral) == cost()
    (said,) = cost().notes(mixtral)
    assert "DeepSeek-V3's expert (hidden size 7168, width 2048): they are not scaled to" in said
    assert said.endswith("the experts of model mixtral-8x7b")
    assert named("h800").for_model(mine) == named("h800")
    assert "they do not know the size of the experts of model mine" in named("h800").notes(mine)[0]
    assert named("h800").notes(mixtral) == []


def test_hardware_of_the_users_own_is_taken_as_it_is() -> None:
    """A file without [expert] holds the figures of the user's own expert."""
    text = load_hardware("h800").model_dump(exclude={"expert"})
    own = Cost("mine.toml", HardwarePreset.model_validate(text))
    assert own.for_model(load_model("mixtral-8x7b")) == own
    assert own.notes(load_model("mixtral-8x7b")) == []


def test_tiles_cannot_be_said_to_grow_with_the_expert() -> None:
    text = load_hardware(WORMHOLE).model_dump()
    with pytest.raises(ValidationError, match=r"expert\.scales: must be false"):
        HardwarePreset.model_validate(text | {"expert": text["expert"] | {"scales": True}})


def test_shared_experts_beside_the_slots_take_as_long_as_slots() -> None:
    own, usual = np.array([[0, 1, 300]]), named("h800")
    model = replace(load_model("deepseek-v3"), shared_experts=0, shared_beside=2)
    assert (usual.for_model(model).beside_ns(own) == 2 * usual.slot_ns(300)[own]).all()
    assert usual.beside_ns(own).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(("hardware", "bits"), [(WORMHOLE, 4.5), ("h800", 8)])
def test_bytes_of_an_expert_are_those_of_the_model_whether_times_scale_or_not(hardware: str, bits: float) -> None:
    cost = Cost(hardware, load_hardware(hardware))
    for name in ("deepseek-v3", "deepseek-v2-lite"):
        model = load_model(name)
        assert cost.expert_bytes(model) == 3 * model.hidden_size * model.expert_width * bits / 8
        assert cost.for_model(model).expert_bytes(model) == cost.expert_bytes(model)
    unknown = Model("unknown", 4, 0, 1)
    assert cost.expert_bytes(unknown) == cost.expert_bytes(load_model("deepseek-v3"))
