"""A plan becomes the file that a server can load, or is refused with what to do."""

from dataclasses import replace

import numpy as np
import pytest
import reference_exchange as reference
from hypothesis import given
from hypothesis import strategies as st
from random_placements import Sizes, drawn_rows, drawn_sizes

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.placement import Placement
from optimizer.errors import InputError
from optimizer.exchange.formats import FORMATS
from optimizer.planning.export_plan import ExportSettings, export_plan
from optimizer.planning.import_plan import ImportSettings, import_plan
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.planning.server_rows import server_row
from optimizer.planning.spare_slots import filled
from optimizer.routing.context import LearnedShares, RoutingContext
from optimizer.routing.tables import DispatchTable
from optimizer.traces.infer import ModelChoice

TEXT_ROWS = {
    "sglang": reference.sglang,
    "rtp-llm": reference.lists,
    "vllm": reference.vllm,
    "vllm-json": reference.lists,
    "tensorrt-llm": reference.tensorrt_llm,
    "vllm-ascend": reference.vllm_ascend,
}


def plan_of(sizes: Sizes, seed: int, first: int = 0, rows: int = 1, policy: str = "even-source") -> Plan:
    """A plan of all layers with experts of a model of `first` dense layers, on `rows` nodes."""
    slots = drawn_rows(np.random.default_rng(seed), sizes).reshape(sizes.layers, sizes.ranks, sizes.slots)
    model = Model("drawn", sizes.experts, 0, 1, first + sizes.layers, first)
    mesh = Mesh(rows, sizes.ranks // rows, sizes.slots)
    layers = {first + row: LayerPlan(Placement(slots[row])) for row in range(sizes.layers)}
    return Plan(model, mesh, "h800", policy, layers)


def hand_made(slots: list[list[int]], shared: int = 0, routed: int = 4, layers: tuple[int, ...] = (1,)) -> Plan:
    """The same slots in some layers of a model of three, of which the first is dense."""
    model = Model("hand-made", routed, shared, 1, 3, 1)
    mesh = Mesh(1, len(slots), len(slots[0]))
    return Plan(model, mesh, "h800", "even-source", {layer: LayerPlan(Placement(np.array(slots))) for layer in layers})


def written(plan: Plan, name: str, settings: ExportSettings | None = None) -> bytes:
    placement, _ = export_plan(plan, FORMATS[name], settings or ExportSettings())
    return FORMATS[name].content(placement)


@given(drawn_sizes(), st.integers(0, 2**32), st.integers(0, 2), st.sampled_from(sorted(FORMATS)))
def test_export_then_import_is_the_identity_on_what_a_format_holds(
    sizes: Sizes, seed: int, first: int, name: str
) -> None:
    plan = plan_of(sizes, seed, first)
    form = FORMATS[name]
    if form.rows == "one" or (name == "rtp-llm" and sizes.ranks * sizes.slots > 2 * sizes.experts):
        return
    placement, _ = export_plan(plan, form, ExportSettings())
    after = replace(placement, ranks=None) if name not in ("vllm-ascend", "omniinfer", "tt-metal") else placement
    choice = ModelChoice(routed_experts=sizes.experts, top_k=1)
    again, _ = import_plan(after, ImportSettings(choice, first, "h800", f"1x{sizes.ranks}"))
    assert sorted(again.layers) == sorted(plan.layers)
    for layer, part in plan.layers.items():
        was, now = part.placement.slots, again.layers[layer].placement.slots
        if name == "tt-metal":  # replicas that no source uses are not in the tables
            assert all(set(row[row >= 0].tolist()) <= set(old.tolist()) for row, old in zip(now, was, strict=True))
        else:
            assert (
                np.array_equal(np.sort(now, axis=1), np.sort(was, axis=1))
                if name == "omniinfer"
                else (now == was).all()
            )


@pytest.mark.parametrize("name", TEXT_ROWS)
def test_files_have_the_rows_that_the_server_asks_for(name: str) -> None:
    """Two layers with experts after a dense one; SGLang and RTP-LLM want a row for the dense one, too."""
    plan = plan_of(Sizes(2, 3, 2, 4), seed=1, first=1)
    slots = {layer: part.placement.slots.ravel().tolist() for layer, part in plan.layers.items()}
    found = TEXT_ROWS[name](written(plan, name))
    if FORMATS[name].rows == "hidden":
        assert found.pop(0) == server_row(name, 4, 2, plan.mesh).tolist()
    first = 0 if FORMATS[name].rows == "moe" else 1
    assert found == {first: slots[1], first + 1: slots[2]}


def test_layers_that_were_not_planned_are_refused_or_get_the_servers_order() -> None:
    plan = hand_made([[2, 3, 0], [1, 0, 2]], layers=(2,))
    with pytest.raises(InputError, match=r"1 layer\(s\) with experts between 1 are not planned") as caught:
        export_plan(plan, FORMATS["vllm"], ExportSettings())
    assert caught.value.field == "fill"
    rows = reference.vllm(written(plan, "vllm", ExportSettings(fill="identity")))
    assert rows == {0: [0, 1, 2, 3, 0, 1], 1: [2, 3, 0, 1, 0, 2]}
    rows = reference.tensorrt_llm(written(plan, "tensorrt-llm", ExportSettings(fill="identity")))
    assert rows == {1: [0, 1, 2, 2, 3, 0], 2: [2, 3, 0, 1, 0, 2]}


def test_the_servers_own_orders() -> None:
    """Worked out by hand from what each server does where no file says anything."""
    mesh = Mesh(2, 2, 3)
    assert server_row("sglang", 8, 3, mesh).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]
    assert server_row("tensorrt-llm", 8, 3, mesh).tolist() == [0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 0]
    assert server_row("rtp-llm", 8, 3, mesh).tolist() == [0, 1, 2, 2, 3, 0, 4, 5, 6, 6, 7, 4]
    assert server_row("rtp-llm", 6, 2, mesh).tolist() == [0, 1, 2, 3, 4, 5, 0, 1]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.data())
def test_the_servers_own_orders_are_valid(rows: int, cols: int, slots: int, data: st.DataObject) -> None:
    experts = data.draw(st.integers(slots, rows * cols * slots))
    for name in FORMATS:
        row = server_row(name, experts, slots, Mesh(rows, cols, slots))
        assert Placement(row.reshape(-1, slots)).violations(experts, rows * cols, slots) == []


def test_the_mtp_layer_is_written_where_it_is_asked_for() -> None:
    plan = hand_made([[0, 1], [2, 3]], layers=(1, 2, 3))
    assert list(reference.tensorrt_llm(written(plan, "tensorrt-llm", ExportSettings(mtp=True)))) == [1, 2, 3]
    placement, notes = export_plan(plan, FORMATS["tensorrt-llm"], ExportSettings())
    assert placement.layers == (1, 2)
    assert "the MTP layer" in notes[0]
    with pytest.raises(InputError, match="no row for the MTP layer"):
        export_plan(plan, FORMATS["sglang"], ExportSettings(mtp=True))


SHARED = [[0, 1, 4], [2, 3, 4], [0, 1, 2]]


def test_shared_experts_are_refused_or_left_out_for_further_replicas() -> None:
    """Devices 0 and 1 lose a slot each, which must then hold something, as device 2 has three experts."""
    plan = hand_made(SHARED, shared=1, layers=(1, 2))
    for name in FORMATS:
        if not FORMATS[name].names_shared:
            with pytest.raises(InputError, match="do not name them") as caught:
                export_plan(plan, FORMATS[name], ExportSettings())
            assert caught.value.field == "shared_experts"
    placement, notes = export_plan(plan, FORMATS["sglang"], ExportSettings(drop_shared=True))
    assert placement.row(1).tolist() == [0, 1, 3, 2, 3, 0, 0, 1, 2]
    assert notes[:2] == [
        "replicas of shared experts were left out of 4 slots",
        "4 empty slots got further replicas of routed experts",
    ]


def test_slots_of_shared_experts_vanish_where_all_devices_have_as_many() -> None:
    plan = hand_made([[0, 4, 1], [2, 3, 4]], shared=1, layers=(1, 2))
    placement, notes = export_plan(plan, FORMATS["vllm"], ExportSettings(drop_shared=True))
    assert placement.row(0).tolist() == [0, 1, 2, 3]
    assert "each rank has 2 slots now, not 3" in notes


def test_empty_slots_are_refused_or_filled() -> None:
    plan = hand_made([[0, 1, -1], [2, 3, -1]], layers=(1, 2))
    with pytest.raises(InputError, match="leaves slots empty") as caught:
        export_plan(plan, FORMATS["tensorrt-llm"], ExportSettings())
    assert caught.value.field == "empty_slots"
    rows = reference.tensorrt_llm(written(plan, "tensorrt-llm", ExportSettings(fill_empty=True)))
    assert rows[1] == [0, 1, 2, 2, 3, 0]
    assert reference.omniinfer(written(plan, "omniinfer"))[0] == [{0, 1}, {2, 3}]
    uneven = hand_made([[0, 1, 2], [2, 3, -1]], layers=(1, 2))
    with pytest.raises(InputError, match="device 0 has 3 experts"):
        export_plan(uneven, FORMATS["omniinfer"], ExportSettings())


@given(drawn_sizes(), st.integers(0, 2**32), st.floats(0, 1))
def test_filled_slots_hold_the_expert_with_the_largest_load_per_replica(sizes: Sizes, seed: int, part: float) -> None:
    """Beside a plain loop over the empty slots in the same order."""
    rng = np.random.default_rng(seed)
    slots = drawn_rows(rng, replace(sizes, layers=1)).reshape(sizes.ranks, sizes.slots)
    count = np.bincount(slots.ravel(), minlength=sizes.experts)
    for device, slot in np.argwhere(rng.random(slots.shape) < part).tolist():
        if count[slots[device, slot]] > 1:
            count[slots[device, slot]] -= 1
            slots[device, slot] = -1
    load = rng.random(sizes.experts)
    wanted = slots.copy()
    for slot in range(sizes.slots):
        for device in range(sizes.ranks):
            if wanted[device, slot] < 0:
                others = [each for each in range(sizes.experts) if each not in wanted[device]]
                wanted[device, slot] = max(others, key=lambda each: (load[each] / count[each], -each))
                count[wanted[device, slot]] += 1
    assert np.array_equal(filled(slots, load), wanted)


def test_what_a_plan_does_not_say_is_asked_for() -> None:
    plan = replace(hand_made([[0, 1], [2, 3]], layers=(1, 2)), model=Model("unknown", 4, 0, 1))
    with pytest.raises(InputError, match="wants all hidden layers, but the plan does not say") as caught:
        export_plan(plan, FORMATS["sglang"], ExportSettings())
    assert caught.value.field == "hidden_layers"
    assert len(reference.sglang(written(plan, "sglang", ExportSettings(hidden_layers=3, first_moe_layer=1)))) == 3
    with pytest.raises(InputError, match="layer 3 cannot be the first"):
        export_plan(plan, FORMATS["sglang"], ExportSettings(hidden_layers=3, first_moe_layer=3))
    with pytest.raises(InputError, match=r"the plan has layer 1, but layers with experts are 2\.\.2 of 3"):
        export_plan(plan, FORMATS["sglang"], ExportSettings(hidden_layers=3, first_moe_layer=2))


def test_rtp_llm_refuses_more_redundant_experts_than_experts() -> None:
    plan = hand_made([[0, 1], [0, 1], [0, 1]], routed=2, layers=(1, 2))
    with pytest.raises(InputError, match="RTP-LLM could not load the plan: 4 redundant experts"):
        export_plan(plan, FORMATS["rtp-llm"], ExportSettings())


def test_weighted_entries_follow_the_plans_shares() -> None:
    placement = Placement(np.array([[0, 1], [0, 2]]))
    learned = LearnedShares(np.ones(3), np.array([[0.75, 1.0], [0.25, 1.0]]))
    plan = replace(hand_made([[0, 1], [0, 2]], routed=3), policy="weights")
    plan.layers.clear()
    plan.layers.update({layer: LayerPlan(placement, learned=learned) for layer in (1, 2)})
    _, entries = reference.eplb(written(plan, "eplb", ExportSettings(weighted=True)))
    assert entries[0, 0] == [0, 0, 0, 2]
    assert entries[0, 1] == [1]
    placed, _ = export_plan(plan, FORMATS["eplb"], ExportSettings(weighted=True))
    again, _ = import_plan(placed, ImportSettings(ModelChoice(top_k=1), 1, "h800", "1x2"))
    assert again.policy == "weights"
    shares = again.layers[1].learned
    assert shares is not None
    assert shares.share.tolist() == learned.share.tolist()
    with pytest.raises(InputError, match="has no shares of the slots"):
        export_plan(hand_made([[0, 1], [2, 3]], layers=(1, 2)), FORMATS["eplb"], ExportSettings(weighted=True))
    with pytest.raises(InputError, match="do not repeat slots"):
        export_plan(plan, FORMATS["vllm"], ExportSettings(weighted=True))


def test_a_replica_with_hardly_a_share_is_named_once() -> None:
    placement = Placement(np.array([[0, 1], [0, 2]]))
    learned = LearnedShares(np.ones(3), np.array([[1.0, 1.0], [0.0, 1.0]]))
    plan = replace(hand_made([[0, 1], [0, 2]], routed=3), policy="weights")
    plan.layers.clear()
    plan.layers.update({layer: LayerPlan(placement, learned=learned) for layer in (1, 2)})
    _, entries = reference.eplb(written(plan, "eplb", ExportSettings(weighted=True)))
    assert sorted(set(entries[0, 0])) == [0, 2]
    assert entries[0, 0].count(2) == 1


def galaxy_plan(policy: str, learned: bool) -> Plan:
    """A plan of one layer on 2 x 2 Wormhole devices, with a shared expert, an empty slot and, maybe, a table."""
    placement = Placement(np.array([[0, 4, 1], [2, 3, 0], [4, 2, -1], [1, 3, 0]]))
    rank = np.array([[1, 0, 1, 0, 1], [0, 1, 0, 1, 0]])
    known = LearnedShares.nothing(placement, 5)
    table = DispatchTable.of_ranks(placement, rank) if learned else None
    part = LayerPlan(placement, learned=replace(known, table=table))
    model = Model("small", 4, 1, 1, 3, 1)
    return Plan(model, Mesh(2, 2, 3), "tt-wormhole-quad-galaxy", policy, {2: part})


@pytest.mark.parametrize(("policy", "learned"), [("table", True), ("table", False), ("nearest", True)])
def test_dispatch_tables_send_as_the_policy_does(policy: str, learned: bool) -> None:
    """Both devices of a row have the row's table, in which devices stand for the slots that the policy chooses."""
    plan = galaxy_plan(policy, learned)
    part = plan.layers[2]
    context = RoutingContext.of(part.placement, plan.model, plan.network, 1, 0, part.learned)
    slot = context.table_slot if policy == "table" else context.nearest_slot
    rows = (slot // 3).tolist()
    assert reference.tt_metal(written(plan, "tt-metal")) == {2: [rows[0], rows[0], rows[1], rows[1]]}


def test_dispatch_tables_are_imported_with_their_policy() -> None:
    plan = galaxy_plan("table", learned=True)
    placement, notes = export_plan(plan, FORMATS["tt-metal"], ExportSettings())
    assert any("replicas get no tokens" in note for note in notes)
    again, _ = import_plan(placement, ImportSettings(ModelChoice(routed_experts=4, top_k=1), 1, None, "2x2"))
    assert (again.policy, again.model.shared_experts, again.mesh.devices) == ("table", 1, 4)
    twice, _ = export_plan(again, FORMATS["tt-metal"], ExportSettings())
    assert twice.dispatch is not None
    assert placement.dispatch is not None
    assert np.array_equal(twice.dispatch, placement.dispatch)


def test_settings_of_tt_metal_hold_one_layer_without_replicas() -> None:
    plan = hand_made([[0, 4, 1], [2, 3, 4]], shared=1, layers=(1, 2))
    with pytest.raises(InputError, match="2 layers") as caught:
        export_plan(plan, FORMATS["tt-metal-yaml"], ExportSettings())
    assert caught.value.field == "layer"
    device_of, shared = reference.tt_metal_yaml(written(plan, "tt-metal-yaml", ExportSettings(layer=2)))
    assert (device_of, shared) == ([0, 0, 1, 1], {4: [0, 1]})
    with pytest.raises(InputError, match="expert 0 has 2 replicas"):
        export_plan(hand_made([[0, 1], [2, 3], [0, 1]]), FORMATS["tt-metal-yaml"], ExportSettings())
    with pytest.raises(InputError, match="2 routed experts, but device 1 has 1"):
        export_plan(hand_made([[0, 1], [2, -1]], routed=3), FORMATS["tt-metal-yaml"], ExportSettings())


def test_notes_say_what_the_server_will_do() -> None:
    plan = replace(plan_of(Sizes(1, 4, 3, 6), seed=2, rows=2), policy="optimal")
    _, notes = export_plan(plan, FORMATS["sglang"], ExportSettings())
    assert "the plan is for the policy optimal, but SGLang runs sglang-static or sglang-dynamic" in notes[0]
    assert "leaves each rank only the replica" in notes[1]
    _, notes = export_plan(plan, FORMATS["vllm"], ExportSettings())
    assert "no released vLLM loads this file" in notes[-1]
    _, notes = export_plan(replace(plan, policy="tensorrt-llm"), FORMATS["tensorrt-llm"], ExportSettings())
    assert notes == []


def test_how_much_sglang_settles_by_itself() -> None:
    """Two nodes of one GPU: both experts of which each has a replica are settled; of expert 0, all four choices."""
    plan = hand_made([[0, 1], [0, 2]], routed=3, layers=(1, 2))
    _, notes = export_plan(replace(plan, mesh=Mesh(2, 1, 2)), FORMATS["sglang"], ExportSettings())
    assert "settles 100 % of the choices" in notes[-1]
    plan = hand_made([[0, 1], [0, 2], [3, 4]], routed=5, layers=(1, 2))
    _, notes = export_plan(plan, FORMATS["sglang"], ExportSettings())  # one node: rank 2 has a choice left
    assert "settles 67 % of the choices" in notes[-1]
