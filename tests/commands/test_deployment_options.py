"""Devices in the words of servers, deployments by name, models from config.json, and the list of all presets."""

import json
from pathlib import Path

import pytest
from running_commands import fault, run

from optimizer.domain.mesh import Mesh
from optimizer.planning.plan_file import read_plan
from optimizer.routing.servers.abilities import SERVERS

pytestmark = pytest.mark.usefixtures("few_batches")

BRIEF = ("--layer", 1, "--time-limit", 20, "--iterations", 2000, "--batch-tokens", 24)
RANKS = ("--ep-size", 4, "--redundant-experts", 4, "--gpus-per-node", 2)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The config.json of the model of the small traces, whose layer 0 is dense."""
    path = tmp_path / "tiny-moe" / "config.json"
    path.parent.mkdir()
    said = {
        "num_hidden_layers": 3, "num_experts": 8, "num_experts_per_tok": 2, "first_k_dense_replace": 0,
        "n_shared_experts": 1, "hidden_size": 2048, "moe_intermediate_size": 768,
    }  # fmt: skip
    path.write_text(json.dumps(said))
    return path


def test_a_model_from_its_config_is_planned_and_named_in_the_plan(traces: Path, config: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    result = run("solve", traces, *BRIEF, "--mesh", "2x2", "--model", config, "--hardware", "h100", "-o", plan)
    assert result.exit_code == 0, result.output
    model = read_plan(plan).model
    assert (model.name, model.routed_experts, model.shared_experts, model.top_k) == ("tiny-moe", 8, 1, 2)
    assert (model.layers, model.hidden_size, model.expert_width) == (3, 2048, 768)
    assert "DeepSeek-V3's expert" not in result.stderr
    result = run("simulate", plan, traces, "--json")
    assert result.exit_code == 0, result.output
    larger = json.loads(plan.read_text())
    larger["model"] |= {"hidden_size": 7168, "expert_width": 2048}
    plan.write_text(json.dumps(larger))
    slow, quick = (
        json.loads(said)["layers"]["1"]["compute_us"]["mean"]
        for said in (run("simulate", plan, traces, "--json").stdout, result.stdout)
    )
    assert slow / quick == pytest.approx(7168 * 2048 / (2048 * 768), rel=1e-3)


def test_a_layer_without_experts_is_refused_and_all_means_those_with_some(
    traces: Path, config: Path, tmp_path: Path
) -> None:
    """The small traces have routing in layers 0, 1 and 2, so a model in which layer 1 is dense is another one."""
    config.write_text(json.dumps(json.loads(config.read_text()) | {"mlp_only_layers": [1]}))
    more = ("--mesh", "2x2", "--model", config.parent, "-o", tmp_path / "plan.json", "--fast")
    assert "layer 1 is no MoE layer of tiny-moe, which are 0, 2" in fault(run("solve", traces, "--layer", 1, *more))
    assert "layer 1 is no MoE layer of tiny-moe" in fault(run("solve", traces, "--layer", "all", *more))
    assert "layer 1 is no MoE layer" in fault(run("bound", traces, "--layer", 1, "--model", config))
    assert "layer 1 is no MoE layer" in fault(run("stats", traces, "--layer", "0-2", "--model", config))


def test_a_layer_without_experts_of_the_built_in_trace_is_refused(tmp_path: Path) -> None:
    said = fault(run("solve", "--layer", 2, "--model", "llama-4-maverick", "-o", tmp_path / "plan.json"))
    assert "--layer: layer 2 is no MoE layer of llama-4-maverick, which are 1, 3, 5 .. 47" in said


def test_an_unknown_model_and_a_bad_config_are_one_line(traces: Path, config: Path, tmp_path: Path) -> None:
    def said(model: object) -> str:
        return fault(run("solve", traces, *BRIEF, "--model", model, "-o", tmp_path / "plan.json"))

    assert "--model: model 'gpt-7' is not known; there are deepseek-v2-lite" in said("gpt-7")
    assert "no such file" in said(tmp_path / "config.json")
    config.write_text('{"model_type": "llama", "num_hidden_layers": 3}')
    assert f"--model: {config}: a model of type llama has no experts" in said(config)


def test_ranks_of_a_server_give_mesh_slots_and_the_place_of_shared_experts(
    traces: Path, config: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    result = run("solve", traces, *BRIEF, *RANKS, "--server", "vllm", "--model", config, "-o", plan)
    assert result.exit_code == 0, result.output
    read = read_plan(plan)
    assert (read.mesh, read.hardware, read.policy) == (Mesh(2, 2, 3), "h100", "vllm")
    assert (read.model.shared_experts, read.model.shared_beside, read.model.experts) == (0, 1, 8)
    assert "4 ranks are 2x2 devices of 3 slots; 1 shared expert(s) on every rank, outside the slots" in result.stderr
    assert "plan without them" not in result.stderr
    with_one = json.loads(run("simulate", plan, traces, "--json").stdout)["layers"]["1"]
    without = json.loads(plan.read_text())
    without["model"]["shared_beside"] = 0
    plan.write_text(json.dumps(without))
    with_none = json.loads(run("simulate", plan, traces, "--json").stdout)["layers"]["1"]
    assert with_one["compute_us"]["mean"] > with_none["compute_us"]["mean"]


@pytest.mark.parametrize("server", [name for name in SERVERS if SERVERS[name].shared_beside])
def test_every_gpu_server_has_ranks_on_the_hardware_that_it_is_mostly_run_on(
    traces: Path, config: Path, server: str
) -> None:
    result = run("bound", traces, *RANKS, "--layer", 1, "--batch-tokens", 24, "--server", server, "--model", config)
    assert result.exit_code == 0, result.output
    usual = "ascend-384" if server == "vllm-ascend" else "h100"
    assert f"no hardware is named: times are those of {usual}" in result.stderr
    assert "1 shared expert(s) on every rank, outside the slots" in result.stderr


def test_ranks_do_not_need_a_named_model_and_reach_the_other_commands(traces: Path) -> None:
    """The model is inferred from the traces before the slots are known."""
    more = (*RANKS, "--server", "vllm", "--hardware", "h200", "--layer", 1, "--batch-tokens", 24)
    for command in ("bound", "slots", "compare"):
        rest = ("--time-limit", 20, "--iterations", 0) if command == "compare" else ()
        result = run(command, traces, *more, *rest)
        assert result.exit_code == 0, result.output
        assert "4 ranks are 2x2 devices of 3 slots; no shared experts" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--ep-size", 4, "--server", "vllm", "--mesh", "2x2"), "--ep-size says the mesh and the slots"),
        (("--ep-size", 4, "--server", "vllm", "--slots", 3), "--mesh and --slots exclude it"),
        (("--deployment", "kimi-k2-ep144", "--slots", 3), "--deployment says the mesh and the slots"),
        (("--ep-size", 4), "say which with --server"),
        (("--ep-size", 4, "--server", "any"), "say which with --server"),
        (("--ep-size", 4, "--server", "tt-metal"), "for tt-metal give --mesh and --slots"),
        (("--redundant-experts", 4, "--server", "vllm"), "--redundant-experts goes with --ep-size"),
        (("--gpus-per-node", 4), "--gpus-per-node goes with --ep-size"),
        (
            ("--ep-size", 3, "--server", "vllm"),
            "--redundant-experts: 8 experts and 0 redundant ones are 8 slots, which",
        ),
        (("--ep-size", 6, "--gpus-per-node", 4, "--server", "vllm"), "--ep-size: 6 ranks are no whole number of nodes"),
        (("--deployment", "mine"), "--deployment: deployment 'mine' is not known; there are deepseek-v3-decode-ep144"),
    ],
)
def test_words_that_do_not_go_together_are_refused(
    traces: Path, tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    assert said in fault_of(run("solve", traces, *BRIEF, *options, "-o", tmp_path / "plan.json"))


def fault_of(result: object) -> str:
    """The last line of a failure, before which there may be notes."""
    assert getattr(result, "exit_code", None) == 2
    last: str = getattr(result, "stderr", "").strip().splitlines()[-1]
    return last


def test_a_deployment_gives_what_no_option_says_otherwise(traces: Path, config: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    more = ("--deployment", "deepseek-v3-vllm-ep16", "--model", config, "--ep-size", 2, "--redundant-experts", 2)
    result = run("solve", traces, *BRIEF, *more, "-o", plan)
    assert result.exit_code == 0, result.output
    read = read_plan(plan)
    assert (read.mesh, read.hardware, read.policy) == (Mesh(1, 2, 5), "h100", "vllm")
    assert (read.model.name, read.layers[1].provenance["batch_tokens"]) == ("tiny-moe", 24)


def test_a_whole_deployment_is_planned_on_the_built_in_trace(tmp_path: Path) -> None:
    """All numbers of the preset together: ranks, model, server, hardware, and 128 tokens for each of 72 ranks."""
    plan = tmp_path / "plan.json"
    result = run("solve", "--deployment", "deepseek-v3-sglang-ep72", "--layer", "12,13", "--fast", "-o", plan)
    assert result.exit_code == 0, result.output
    read = read_plan(plan)
    assert (read.mesh, read.hardware, read.model.shared_beside) == (Mesh(9, 8, 4), "h100", 1)
    assert "72 ranks are 9x8 devices of 4 slots" in result.stderr


def test_presets_are_listed_with_figures_and_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # so that no cell is folded
    result = run("presets")
    assert result.exit_code == 0
    for said in ("kimi-k2", "tt-wormhole-quad-galaxy", "TensorRT-LLM", "deepseek-v3-sglang-gb200-ep48",
                 "(256 + 32) / 72 = 4", "config.json of openai/gpt-oss-120b", "SGLang issue 6017",
                 "DeepEP docs/legacy.md", "1, 3, 5 .. 47"):  # fmt: skip
        assert said in result.stdout, said
    only = run("presets", "servers").stdout
    assert "vllm-ascend" in only
    assert "kimi-k2" not in only


def test_presets_as_json_hold_every_figure_and_source() -> None:
    found = json.loads(run("presets", "--json").stdout)
    assert list(found) == ["models", "hardware", "servers", "deployments"]
    assert found["models"]["mixtral-8x7b"]["expert_width"] == 14336
    assert found["hardware"]["h800"]["compute"]["weight_bytes"] == 44040192
    assert found["servers"]["vllm"]["shared_experts"] == "beside"
    assert found["deployments"]["kimi-k2-ep144"]["slots"] == 3
    assert all(each["source"] for kind in ("models", "deployments") for each in found[kind].values())
    assert list(json.loads(run("presets", "servers", "--json").stdout)) == ["servers"]
