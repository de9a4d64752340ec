"""The option --server of solve, simulate and compare: what is planned and judged, and what is refused in one line."""

import json
from pathlib import Path

import pytest
from running_commands import SHORT, fault, run, solve

from optimizer.planning.plan_file import read_plan
from optimizer.routing.servers.abilities import SERVERS

pytestmark = pytest.mark.usefixtures("few_batches")


def test_solve_plans_for_what_the_server_runs(traces: Path) -> None:
    path, result = solve(traces, "--server", "sglang")
    assert result.exit_code == 0, result.output
    assert read_plan(path).policy in SERVERS["sglang"].policies
    path, result = solve(traces, "--server", "sglang", "--routing", "sglang-dynamic")
    assert read_plan(path).policy == "sglang-dynamic"


def test_a_policy_of_another_set_up_of_the_server_is_taken_where_it_is_named(traces: Path) -> None:
    path, result = solve(traces, "--server", "sglang", "--routing", "sglang-rows")
    assert result.exit_code == 0, result.output
    assert read_plan(path).policy == "sglang-rows"
    assert "does not run" not in result.stderr


def test_what_the_server_does_not_run_is_refused(traces: Path) -> None:
    path, result = solve(traces, "--server", "vllm", "--routing", "vllm,optimal")
    said = fault(result)
    assert "--routing" in said
    assert "vLLM does not run 'optimal', but vllm" in said
    assert "log2phy" in said
    _, result = solve(traces, "--server", "vllm")
    assert result.exit_code == 0, result.output
    said = fault(run("simulate", path, traces, "--server", "vllm", "--routing", "even-source"))
    assert "vLLM does not run 'even-source'" in said
    said = fault(run("compare", traces, "--layer", 1, *SHORT, "--server", "tt-metal", "--routing", "weights"))
    assert "tt-metal does not run 'weights'" in said


def test_simulate_judges_all_that_the_server_runs(traces: Path) -> None:
    path, _ = solve(traces, "--routing", "even-source")
    for more in ((), ("--routing", "all")):
        result = run("simulate", path, traces, "--server", "sglang", *more, "--json")
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)["layers"]["1"]
        assert list(found["policies"]) == list(SERVERS["sglang"].policies)


def test_a_plan_that_the_servers_files_cannot_hold_is_said_to_be_one(traces: Path) -> None:
    _, result = solve(traces, "--server", "vllm", "--replicas", 1)
    assert "vLLM wants an expert in every slot" in result.stderr
    _, result = solve(traces, "--server", "any", "--replicas", 1)
    assert "every slot" not in result.stderr


def test_compare_prints_the_verdict_first_and_the_server_as_json(traces: Path) -> None:
    result = run("compare", traces, "--layer", 1, *SHORT, "--server", "tensorrt-llm")
    assert result.exit_code == 0, result.output
    first = result.stdout.splitlines()[0]
    assert first.startswith("p99 ")
    assert "EPLB" in first
    result = run("compare", traces, "--layer", 1, *SHORT, "--server", "tensorrt-llm", "--json")
    found = json.loads(result.stdout)
    assert found["server"] == "tensorrt-llm"
    assert {row["routing"] for row in found["rows"][:-1]} == {"tensorrt-llm"}
