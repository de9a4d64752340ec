"""The commands `export`, `import` and `validate` on servers' files, as a user meets them."""

import json
from pathlib import Path

import pytest
from hostile_files import one_line
from placement_files import FILES, plan_text
from running_commands import fault, run, solve

from optimizer.exchange import read_placement
from optimizer.exchange.formats import FORMATS
from optimizer.planning.plan_file import read_plan

pytestmark = pytest.mark.usefixtures("few_batches")

MAP = {
    "moe_layer_count": 1,
    "layer_list": [
        {
            "layer_id": 0,
            "device_count": 2,
            "device_list": [
                {"device_id": 0, "device_expert": [7, 2, 0, 3, 5]},
                {"device_id": 1, "device_expert": [6, 1, 4, 7, 2]},
            ],
        }
    ],
}
"""An expert map of vllm-ascend, as its users post it: 8 experts on 2 devices of 5 slots."""


@pytest.fixture
def expert_map(tmp_path: Path) -> Path:
    path = tmp_path / "expert_map.json"
    path.write_text(json.dumps(MAP))
    return path


def test_an_expert_map_is_validated_in_words_and_imported(expert_map: Path, tmp_path: Path) -> None:
    """`validate` once printed the whole object, as if it were a plan."""
    result = run("validate", expert_map)
    assert result.exit_code == 0, result.output
    assert "an expert map of vllm-ascend: 1 layer(s) of 8 experts in 10 slots on 2 ranks" in result.stdout
    assert json.loads(run("validate", expert_map, "--json").stdout)["format"] == "vllm-ascend"
    plan = tmp_path / "plan.json"
    assert "give --top-k or --model" in fault(run("import", expert_map, "-o", plan))
    result = run("import", expert_map, "--top-k", 2, "-o", plan)
    assert result.exit_code == 0, result.output
    assert read_plan(plan).layers[0].placement.slots.tolist() == [[7, 2, 0, 3, 5], [6, 1, 4, 7, 2]]
    assert run("validate", plan).exit_code == 0
    back = tmp_path / "back.json"
    result = run("export", plan, "--to", "vllm-ascend", "-o", back)
    assert result.exit_code == 0, result.output
    assert '"expert_map_path": "' in result.stdout
    assert json.loads(back.read_text()) == MAP


def test_elsewhere_one_sentence_says_what_a_servers_file_is(expert_map: Path) -> None:
    for arguments in (("simulate", expert_map), ("stats", expert_map, "--layer", 0)):
        said = fault(run(*arguments))
        assert "is an expert map of vllm-ascend" in said
        assert "`moeplan import` makes a plan of it" in said


def test_validate_names_expert_rank_and_layer(tmp_path: Path) -> None:
    path = tmp_path / "location.json"
    path.write_text(json.dumps({"physical_to_logical_map": [[0, 1, 2, 3], [0, 1, 2, 2]]}))
    assert "an expert location of SGLang: expert 3 missing in layer 1" in fault(run("validate", path))
    said = fault(run("validate", path, "--mesh", "1x2"))
    assert "expert 2 twice on rank 1 in layer 1" in said
    assert "4 slots are not divisible by 3 ranks" in fault(run("validate", path, "--mesh", "1x3"))
    path.write_text(json.dumps({"physical_to_logical_map": [[0, 1, 2, 3]]}))
    result = run("validate", path)
    assert result.exit_code == 0
    assert "give the ranks with --mesh" in result.stderr
    assert "experts 4, 5, 6, 7 missing" in fault(run("validate", path, "--routed-experts", 8))


@pytest.mark.parametrize("name", FILES)
def test_every_format_is_validated_and_imported(name: str, tmp_path: Path) -> None:
    path, plan = tmp_path / "placement", tmp_path / "plan.json"
    path.write_bytes(FILES[name])
    named = ("--from", name) if name in ("vllm-json", "rtp-llm") else ()
    assert run("validate", path, *named).exit_code == 0
    result = run("import", path, *named, "--top-k", 1, "--mesh", "1x2", "-o", plan)
    assert result.exit_code == 0, result.output
    read = read_plan(plan)
    assert read.mesh.devices == 2
    assert (read.model.experts, read.model.shared_experts) == ((5, 1) if name == "tt-metal-yaml" else (3, 0))
    assert run("validate", path, *named, "--routed-experts", read.model.routed_experts).exit_code == 0


def test_two_readings_are_asked_about_unless_the_model_tells(tmp_path: Path) -> None:
    path = tmp_path / "lists.json"
    path.write_text(FILES["rtp-llm"].decode())
    said = fault(run("import", path, "--top-k", 1, "-o", tmp_path / "plan.json"))
    assert "vllm-json" in said
    assert "rtp-llm" in said
    assert said.endswith("give --from")
    rows = [list(range(32))] * 24
    path.write_text(json.dumps(rows))  # gpt-oss-20b has no dense layers: both readings are one placement
    assert "fits two formats" in fault(run("validate", path, "--model", "gpt-oss-20b"))
    path.write_text(json.dumps([list(range(64))] * 26))
    assert "vLLM" in run("validate", path, "--model", "deepseek-v2-lite").stdout
    path.write_text(json.dumps([list(range(64))] * 27))
    assert "RTP-LLM" in run("validate", path, "--model", "deepseek-v2-lite").stdout


def test_a_plan_goes_to_a_server_and_back_into_simulate_and_solve(traces: Path, tmp_path: Path) -> None:
    """Layer 1 of three; the others get the server's own order."""
    plan, there, again = tmp_path / "plan.json", tmp_path / "mapping.jsonl", tmp_path / "again.json"
    slots = [[0, 1, 2], [3, 4, 5], [6, 7, 0], [1, 2, 3]]
    plan.write_text(plan_text(slots, routed_experts=8, top_k=2))
    assert "say it with --hidden-layers" in fault(run("export", plan, "--to", "vllm", "-o", there))
    sizes = ("--hidden-layers", 3, "--first-moe-layer", 0)
    said = fault(run("export", plan, "--to", "vllm", *sizes, "-o", there))
    assert said.endswith("with --fill identity")
    assert not there.exists()
    result = run("export", plan, "--to", "vllm", *sizes, "--fill", "identity", "-o", there)
    assert result.exit_code == 0, result.output
    assert "3 layers of 12 slots on 4 ranks for vLLM" in result.stdout
    machine = ("--mesh", "2x2", "--hardware", "tt-wormhole-quad-galaxy")
    result = run("import", there, "--top-k", 2, *machine, "-o", again)
    assert result.exit_code == 0, result.output
    imported = read_plan(again)
    assert imported.layers[1].placement.slots.tolist() == slots
    assert imported.policy == "vllm"
    result = run("simulate", again, traces, "--layer", 1, "--json")
    assert result.exit_code == 0, result.output
    _, result = solve(traces, "--start", again)
    assert result.exit_code == 0, result.output


def test_what_a_format_cannot_hold_is_refused_with_what_to_do(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    numbers = {"routed_experts": 3, "shared_experts": 1, "layers": 2, "first_moe_layer": 1}
    plan.write_text(plan_text([[0, 1, 3], [2, 0, 3]], **numbers))
    there = tmp_path / "location.json"
    said = fault(run("export", plan, "--to", "sglang", "-o", there))
    assert "solve --shared-experts 0" in said
    assert "--drop-shared" in said
    assert run("export", plan, "--to", "sglang", "--drop-shared", "-o", there).exit_code == 0
    assert read_placement(there).row(1).tolist() == [0, 1, 2, 0]
    assert "does not end in .json" in fault(run("export", plan, "--to", "sglang", "-o", tmp_path / "location"))
    assert "--to: 'psychic' is not a known format" in fault(run("export", plan, "--to", "psychic", "-o", there))
    assert "is a folder" in fault(run("export", plan, "--to", "vllm", "-o", tmp_path))
    assert "is a plan already" in fault(run("import", plan, "-o", tmp_path / "again.json"))
    assert "cannot be read" in fault(run("import", tmp_path / "absent", "-o", tmp_path / "again.json"))


@pytest.mark.parametrize("name", FILES)
def test_half_a_file_is_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "half"
    path.write_bytes(FILES[name][: len(FILES[name]) // 2])
    for command in (("validate", path, "--from", name), ("import", path, "--from", name, "-o", tmp_path / "plan.json")):
        result = run(*command, *(("--top-k", 1) if command[0] == "import" else ()))
        if result.exit_code != 0:  # half of a YAML file may be a whole one
            one_line(ValueError(fault(result)))
    assert name in FORMATS
