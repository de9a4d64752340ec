"""A server's file becomes a plan; what it does not say is inferred where one answer fits, else asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from placement_files import placed

from optimizer.domain.hardware import Hardware
from optimizer.domain.presets import load_model
from optimizer.domain.problem import make_problem
from optimizer.errors import InputError
from optimizer.exchange.server_placement import ServerPlacement
from optimizer.planning.import_plan import ImportSettings, import_plan, merged
from optimizer.planning.plan_file import read_plan, write_plan
from optimizer.planning.warm_start import started
from optimizer.traces.infer import ModelChoice

TOP_1 = ModelChoice(top_k=1)


def whole_model(rows: int, slots: int = 288) -> ServerPlacement:
    """SGLang's own order for a model of 256 experts."""
    table = np.tile(np.arange(slots) % 256, (rows, 1))
    return ServerPlacement("sglang", tuple(range(rows)), table, 256)


def test_the_only_model_that_fits_is_taken_and_named() -> None:
    plan, notes = import_plan(whole_model(61), ImportSettings(mesh="4x8"))
    assert sorted(plan.layers) == list(range(3, 61))
    assert (plan.model.top_k, plan.model.shared_experts, plan.model.layers) == (8, 0, 61)
    assert (plan.mesh.slots_per_device, plan.policy) == (9, "sglang-static")
    assert "the file fits deepseek-v3" in notes[0]


def test_what_nothing_tells_is_asked_for() -> None:
    with pytest.raises(InputError, match="does not say which model") as caught:
        import_plan(whole_model(60), ImportSettings(mesh="4x8"))
    assert caught.value.field == "top_k"
    with pytest.raises(InputError, match="on how many ranks its 288 slots are") as caught:
        import_plan(whole_model(61), ImportSettings())
    assert caught.value.field == "ranks"
    with pytest.raises(InputError, match="288 slots are not divisible by 5 ranks") as caught:
        import_plan(whole_model(61), ImportSettings(mesh="1x5"))
    assert caught.value.field == "mesh"
    with pytest.raises(InputError, match="for 2 ranks, not for 4"):
        import_plan(placed("vllm-ascend"), ImportSettings(TOP_1, mesh="1x4"))


def test_layers_are_numbered_as_the_model_numbers_them() -> None:
    plan, notes = import_plan(placed("vllm-ascend"), ImportSettings(TOP_1, first_moe_layer=3))
    assert sorted(plan.layers) == [3, 4]
    assert plan.model.layers == 5
    plan, notes = import_plan(placed("vllm-ascend"), ImportSettings(TOP_1))
    assert sorted(plan.layers) == [0, 1]
    assert "taken to be layer 0" in notes[0]
    plan, _ = import_plan(placed("tensorrt-llm"), ImportSettings(TOP_1, mesh="1x2"))
    assert (sorted(plan.layers), plan.model.first_moe_layer) == ([3, 4], 3)


def test_a_placement_that_breaks_a_rule_is_refused_in_the_servers_words() -> None:
    given = placed("sglang", [[0, 0, 1, 2]])
    with pytest.raises(InputError, match="expert 0 twice on rank 0 in layer 0") as caught:
        import_plan(given, ImportSettings(TOP_1, mesh="1x2"))
    assert caught.value.field == "merge_doubles"
    plan, notes = import_plan(given, ImportSettings(TOP_1, mesh="1x2", merge_doubles=True))
    assert plan.layers[0].placement.slots.tolist() == [[0, -1], [1, 2]]
    assert "1 slots with a second copy" in notes[-1]
    with pytest.raises(InputError, match="expert 3 missing in layer 0"):
        import_plan(given, ImportSettings(ModelChoice(routed_experts=4, top_k=1), mesh="1x2", merge_doubles=True))


def test_later_copies_on_a_rank_are_merged_into_the_first() -> None:
    found, count = merged(np.array([[[3, 1, 3, 1], [0, -1, -1, 2]]]))
    assert found.tolist() == [[[3, 1, -1, -1], [0, -1, -1, 2]]]
    assert count == 2


def test_tables_that_differ_inside_a_row_are_said_to_be_left_out() -> None:
    plan, notes = import_plan(placed("tt-metal"), ImportSettings(TOP_1, mesh="1x2"))
    assert plan.policy == "nearest"
    assert any("different tables" in note for note in notes)
    plan, _ = import_plan(placed("tt-metal"), ImportSettings(TOP_1, mesh="2x1"))
    assert plan.policy == "table"


def test_an_imported_plan_is_written_read_and_started_from(tmp_path: Path) -> None:
    plan, _ = import_plan(whole_model(61), ImportSettings(mesh="4x8"))
    write_plan(tmp_path / "plan.json", plan)
    read = read_plan(tmp_path / "plan.json")
    assert sorted(read.layers) == sorted(plan.layers)
    model = replace(load_model("deepseek-v3"), shared_experts=0)
    machine = Hardware.of("h800", "4x8", 9)
    problem = make_problem(model, machine.mesh, machine.cost, np.ones((1, 256), dtype=np.int64))
    start = started(problem, read, 12).start
    assert start is not None
    assert np.array_equal(start.slots, plan.layers[12].placement.slots)
