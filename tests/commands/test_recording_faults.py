"""What a user meets whose recording has a fault: the table of `stats`, a line elsewhere, and refusal with --strict."""

import json
from pathlib import Path

import numpy as np
import pytest
from random_problems import request_experts, write_request
from running_commands import SHORT, fault, run, solve

from optimizer import Hardware, Model, Placement, Plan, write_plan

pytestmark = pytest.mark.usefixtures("few_batches")


@pytest.fixture
def profiled(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Requests of which the first begins with 300 equal rows."""
    for number in range(8):
        experts = request_experts(rng, 30, 3, 8, 2)
        if number == 0:
            experts = np.concatenate([np.tile(np.array([3, 5], np.uint8), (300, 3, 1)), experts])
        write_request(tmp_path / "traces" / f"r{number}.npz", experts)
    return tmp_path / "traces"


@pytest.fixture
def one_rank(tmp_path: Path) -> Path:
    """Counts in which only experts 0..3 of 16 were counted (as w09)."""
    path = tmp_path / "counts.json"
    path.write_text(json.dumps({"logical_count": [[162554, 147879, 102827, 505540, *[0] * 12]]}))
    return path


def test_stats_lists_what_looks_wrong_and_whether_enough_was_recorded(profiled: Path) -> None:
    shown = run("stats", profiled, "--layer", "all", "--batch-tokens", 8)
    text = " ".join(shown.stdout.split())
    assert "What looks wrong" in text
    assert "--drop-repeats" in text
    assert "Is enough recorded?" in text
    found = json.loads(run("stats", profiled, "--layer", 1, "--batch-tokens", 8, "--json").stdout)
    assert [each["kind"] for each in found["looks_wrong"]] == ["repeats"]
    assert found["recorded"]["1"]["enough"] is False


def test_stats_says_that_nothing_looks_wrong(profiled: Path) -> None:
    shown = run("stats", profiled, "--layer", 1, "--batch-tokens", 8, "--drop-repeats")
    assert "Nothing looks wrong" in shown.stdout
    assert "299 of 540 tokens (55%) are left out" in shown.stderr


def test_other_commands_say_the_worst_in_one_line(profiled: Path) -> None:
    plan, planned = solve(profiled)
    for result in (planned, run("simulate", plan, profiled)):
        assert result.exit_code == 0, result.output
        assert next(line for line in result.stderr.splitlines() if "looks wrong" in line).startswith(
            "Warning: looks wrong: 299 of 540 tokens (55%) repeat"
        )


def test_strict_refuses_what_looks_wrong(profiled: Path, one_rank: Path) -> None:
    assert "--strict: looks wrong: 299 of 540" in fault(run("stats", profiled, "--layer", 1, "--strict"))
    plan = profiled.parent / "plan.json"
    assert "299 of 540" in fault(run("solve", profiled, "--layer", "all", *SHORT, "--strict", "-o", plan))
    said = fault(run("bound", one_rank, "--layer", 0, "--top-k", 4, "--strict"))
    assert "12 of 16 experts were never counted, only the block 0..3" in said
    assert not plan.exists()


def test_one_rank_s_counts_are_planned_with_a_warning(one_rank: Path) -> None:
    plan = one_rank.parent / "plan.json"
    for layers in ("0", "all"):
        found = run("solve", one_rank, "--layer", layers, "--top-k", 4, *SHORT, "--slots", 5, "-o", plan)
        assert found.exit_code == 0, found.output
        assert "12 of 16 experts were never counted" in found.stderr


def test_a_filler_column_is_asked_about_by_the_option(tmp_path: Path, rng: np.random.Generator) -> None:
    experts = np.full((40, 3, 3), 255, dtype=np.uint8)
    experts[..., :2] = request_experts(rng, 40, 3, 8, 2)
    np.save(tmp_path / "a.npy", experts)
    said = fault(run("stats", tmp_path / "a.npy", "--layer", 1))
    assert said.startswith("Error: --top-k: ")
    assert "column 2 (of 0..2) is 255" in said
    assert run("stats", tmp_path / "a.npy", "--layer", 1, "--top-k", 2, "--batch-tokens", 1).exit_code == 0


def test_physical_ids_are_mapped_by_the_plan_that_was_in_force(tmp_path: Path, rng: np.random.Generator) -> None:
    """A plan with two replicas of experts 0 and 1; every second token of theirs was recorded at the second one."""
    model, hardware = Model("m", 6, 0, 2), Hardware.of(mesh="2x2", slots_per_device=2)
    slots = np.array([[0, 1], [2, 3], [4, 5], [1, 0]])
    write_plan(tmp_path / "plan.json", Plan.of(Placement(slots), 1, model, hardware))
    for number in range(6):
        logical = request_experts(rng, 20, 1, 6, 2)
        physical = np.where(logical < 2, np.where(np.arange(20)[:, None, None] % 2, 7 - logical, logical), logical)
        write_request(tmp_path / "logical" / "t" / f"{number}.npz", logical)
        write_request(tmp_path / "physical" / "t" / f"{number}.npz", physical)
    asked = ("--layer", 1, "--batch-tokens", 4, "--json", "--first-moe-layer", 1)
    mapped = run("stats", tmp_path / "physical", *asked, "--placement", tmp_path / "plan.json")
    assert json.loads(mapped.stdout) == json.loads(run("stats", tmp_path / "logical", *asked).stdout)


def test_no_op_experts_are_left_out_and_the_rest_is_planned_as_counts(tmp_path: Path, rng: np.random.Generator) -> None:
    for number in range(8):
        write_request(tmp_path / "t" / f"{number}.npz", request_experts(rng, 30, 3, 12, 2))
    plan, found = solve(tmp_path / "t", "--no-op-experts", 8)
    assert found.exit_code == 0, found.output
    assert json.loads(plan.read_text())["model"]["routed_experts"] == 8
    assert "no-op experts" in found.stderr
    said = fault(run("simulate", plan, tmp_path / "t", "--no-op-experts", 8))
    assert said.startswith("Error: --no-op-experts: ")
