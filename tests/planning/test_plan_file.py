"""The plan file: round trip, one sentence per fault, written whole or not at all."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.placement import Placement
from optimizer.domain.presets import load_model
from optimizer.errors import InputError
from optimizer.planning.plan_file import LayerPlan, Plan, read_plan, write_plan
from optimizer.routing.context import LearnedShares
from optimizer.routing.hints import HintSettings
from optimizer.routing.tables import DispatchTable

SLOTS = [[0, 4], [1, 2], [3, -1], [4, 0]]


def plan(slots: list[list[int]] = SLOTS) -> Plan:
    part = LayerPlan(Placement(np.array(slots)), {"latency_us": {"p99": 1.5}}, {"any_placement": 1.0}, {"seed": 3})
    model = Model("tiny", 4, 1, 2, layers=9, first_moe_layer=1)
    return Plan(model, Mesh(2, 2, 2), "tt-wormhole-galaxy", "even-source", {7: part})


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    write_plan(path, plan())
    return path


def test_what_is_written_is_read_back(written: Path) -> None:
    read = read_plan(written)
    assert (read.model, read.mesh) == (plan().model, plan().mesh)
    assert (read.hardware, read.policy) == ("tt-wormhole-galaxy", "even-source")
    assert read.layers[7].placement.slots.tolist() == SLOTS
    assert read.layers[7].quality == {"latency_us": {"p99": 1.5}}
    assert read.layers[7].bounds == {"any_placement": 1.0}
    assert read.layers[7].provenance == {"seed": 3}


def test_the_file_keeps_its_contract(written: Path) -> None:
    content = json.loads(written.read_text())
    assert content["format"] == "moeplan/plan"
    assert content["version"] == 1
    assert content["model"].items() >= {"name": "tiny", "routed_experts": 4, "shared_experts": 1, "top_k": 2}.items()
    assert content["mesh"] == {"rows": 2, "cols": 2, "slots_per_device": 2}
    assert content["routing"] == {"policy": "even-source"}
    assert set(content["layers"]["7"]) == {"slots", "quality", "bounds", "provenance"}
    assert content["layers"]["7"]["slots"] == SLOTS


def test_more_keys_are_no_fault_and_a_presets_layers_are_known(written: Path) -> None:
    content = json.loads(written.read_text())
    content["comment"] = content["layers"]["7"]["note"] = "added later"
    content["model"] = {"name": "deepseek-v3", "routed_experts": 4, "shared_experts": 1, "top_k": 2}
    written.write_text(json.dumps(content))
    assert read_plan(written).model.first_moe_layer == load_model("deepseek-v3").first_moe_layer


LEARNED = LearnedShares(np.array([3.25, 1, 1, 7, 2]), np.array([[0.3, 0.5], [1, 1], [1, 0], [0.5, 0.7]]))


def test_what_was_learned_and_the_unit_are_read_back(tmp_path: Path) -> None:
    taught = replace(plan(), unit="tokens", layers={7: replace(plan().layers[7], learned=LEARNED)})
    write_plan(tmp_path / "taught.json", taught)
    read = read_plan(tmp_path / "taught.json")
    learned = read.layers[7].learned
    assert learned is not None
    assert read.unit == "tokens"
    assert learned.load.tolist() == LEARNED.load.tolist()
    assert learned.share.tolist() == LEARNED.share.tolist()


def test_price_and_hints_are_read_back_and_older_plans_have_neither(tmp_path: Path, written: Path) -> None:
    hinted = replace(plan(), policy="hint", price_us=2.5, hints=HintSettings(8.0, 2, 3))
    write_plan(tmp_path / "hinted.json", hinted)
    read, old = read_plan(tmp_path / "hinted.json"), read_plan(written)
    assert (read.policy, read.price_us, read.hints) == ("hint", 2.5, HintSettings(8.0, 2, 3))
    assert (read.prices, old.prices, old.price_us, old.hints) == ({"hint": 2.5}, {}, None, None)


def test_a_policy_is_read_by_the_name_that_it_had(written: Path) -> None:
    content = json.loads(written.read_text())
    content["routing"]["policy"] = "even"
    written.write_text(json.dumps(content))
    assert read_plan(written).policy == "even-ideal"


def test_a_dispatch_table_is_read_back_by_ranks_and_a_plan_without_one_is_read(tmp_path: Path) -> None:
    table = DispatchTable(Placement(np.array(SLOTS)), np.array([[0, 2, 3, 4, 1], [7, 2, 3, 4, 6]]))
    taught = replace(plan(), layers={7: replace(plan().layers[7], learned=replace(LEARNED, table=table))})
    write_plan(tmp_path / "taught.json", taught)
    content = json.loads((tmp_path / "taught.json").read_text())
    assert content["layers"]["7"]["table"] == table.rank.tolist()
    learned = read_plan(tmp_path / "taught.json").layers[7].learned
    assert learned is not None
    assert learned.table is not None
    assert learned.table.replica.tolist() == table.replica.tolist()
    del content["layers"]["7"]["table"]
    (tmp_path / "taught.json").write_text(json.dumps(content))
    older = read_plan(tmp_path / "taught.json").layers[7].learned
    assert older is not None
    assert older.table is None


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("table", [], r"layers\.7\.table: not one list per source with one number for each of 5 experts"),
        ("table", [[0, 0, 0, 0, 0], [0, 0]], r"layers\.7\.table: not one list per source"),
        ("table", [[0, 9, 0, 0, 0]], r"layers\.7\.table: 9 for expert 1 of source 0, but .* ranks 0\.\.0"),
        ("table", [[0, -(10**30), 0, 0, 0]], r"layers\.7\.table: -1 for expert 1 of source 0|valid integer|too large"),
        ("table", [[0, 0.5, 0, 0, 0]], r"layers\.7\.table\.0\.1: input should be a valid integer"),
        ("load", [1, 2], r"layers\.7\.load: 2 numbers instead of 5, one per expert"),
        ("load", [1, 2, 3, 4, -1], r"layers\.7\.load\.4: input should be greater than or equal to 0"),
        ("load", [1, 2, 3, 4, float("inf")], r"layers\.7\.load\.4: input should be a finite number"),
        ("share", [[1, 0]], r"layers\.7\.share: not one number per slot"),
        ("share", [[1, 0], [1, 1], [1], [0, 1]], r"layers\.7\.share: not one number per slot"),
    ],
)
def test_faults_of_what_was_learned_have_their_sentence(tmp_path: Path, key: str, value: Any, said: str) -> None:
    path = tmp_path / "taught.json"
    write_plan(path, replace(plan(), layers={7: replace(plan().layers[7], learned=LEARNED)}))
    content = json.loads(path.read_text())
    content["layers"]["7"][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=said):
        read_plan(path)


def at(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        if value is None:
            del content[keys[-1]]
        else:
            content[keys[-1]] = value

    return change


FAULTS: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (at("version", value=2), "version is 2, but this moeplan reads 1"),
    (at("format", value="eplb"), "format is 'eplb', but this moeplan reads 'moeplan/plan'"),
    (at("model", "top_k", value=None), "model.top_k: field required"),
    (at("model", "top_k", value="8"), "model.top_k: input should be a valid integer"),
    (at("mesh", "rows", value=0), "mesh.rows: input should be greater than or equal to 1"),
    (at("mesh", "rows", value=3), "4 devices instead of 6"),
    (at("hardware", value="abacus"), "hardware 'abacus' is not known"),
    (
        at("routing", "policy", value="psychic"),
        "routing.policy is 'psychic', not one of primary, even-ideal, even-source",
    ),
    (at("layers", value={}), "layers: "),
    (at("layers", "x", value={"slots": SLOTS}), "layers: 'x' is not a layer id"),
    (at("layers", "7", "slots", value=[[0, 0], [1, 2], [3, 4], [4, 0]]), "expert 0 twice on device 0"),
    (at("layers", "7", "slots", value=[[0, 1], [1, 2], [3, -1], [0, 2]]), "expert without a slot: 4"),
    (at("layers", "7", "slots", value=[[0, 4], [1, 2], [3, 9], [4, 0]]), "id out of range: 9"),
    (
        at("layers", "7", "slots", value=[[0, 4], [1, 2], [3, 10**30], [4, 0]]),
        "id out of range|too large|valid integer",
    ),
    (at("layers", "7", "slots", value=[[0, 4], [1, 2, 3], [3, 9], [4, 0]]), "device 1 has 3 slots, not 2"),
    (at("layers", "7", "slots", value=[[0, 4], [1, 2.5], [3, 9], [4, 0]]), r"layers\.7\.slots\.1\.1: input should be"),
    (at("routing", "unit", value="pairs"), "routing.unit: input should be 'tokens' or 'tiles'"),
    (at("layers", "7", "slots", value="x"), r"layers\.7\.slots: input should be a valid list"),
]


@pytest.mark.parametrize(("change", "said"), FAULTS, ids=[said for _, said in FAULTS])
def test_each_fault_has_its_sentence(written: Path, change: Callable[[dict[str, Any]], None], said: str) -> None:
    content = json.loads(written.read_text())
    change(content)
    written.write_text(json.dumps(content))
    with pytest.raises(InputError, match=said) as caught:
        read_plan(written)
    assert str(caught.value).startswith(str(written))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1, 2", "[]", "3", '"plan"', "[" * 100_000, "\x00", '{"a": NaN}'])
def test_what_is_no_plan_at_all_is_refused(written: Path, text: str) -> None:
    written.write_text(text)
    with pytest.raises(InputError, match=r"plan\.json: "):
        read_plan(written)


def test_missing_folders_and_binary_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_plan(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_plan(tmp_path)
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_plan(tmp_path / "b.json")


def test_an_invalid_placement_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layer 7: expert without a slot: 4"):
        write_plan(tmp_path / "plan.json", plan([[0, 1], [1, 2], [3, -1], [0, 2]]))
    assert list(tmp_path.iterdir()) == []
