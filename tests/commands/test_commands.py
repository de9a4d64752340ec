"""The commands as a user meets them: their tables, JSON and exit codes, and one line for each fault."""

import base64
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_problems import request_experts, write_request
from running_commands import SHORT, fault, other_notes, run, solve

from optimizer import Hardware, Model, Placement, Plan, write_plan

pytestmark = pytest.mark.usefixtures("few_batches")


def test_solve_writes_a_plan_that_validate_accepts_and_simulate_judges_alike(traces: Path) -> None:
    plan, result = solve(traces, "--json")
    assert result.exit_code == 0, result.output
    solution = json.loads(result.stdout)
    assert [row["method"] for row in solution["rows"]][-1] == "search"
    content = json.loads(plan.read_text())
    assert content["model"]["routed_experts"] == 8
    assert run("validate", plan).exit_code == 0
    judged = json.loads(run("simulate", plan, traces, "--json").stdout)["layers"]["1"]
    reported = {key: value for key, value in solution["rows"][-1].items() if key not in ("method", "seconds")}
    assert {key: judged[key] for key in reported} == reported == content["layers"]["1"]["quality"]


def test_simulate_says_when_it_judges_on_the_test_requests_alone(
    traces: Path, plan: Path, rng: np.random.Generator
) -> None:
    assert "judged on its test part alone" in run("simulate", plan, traces).stderr
    others = traces.parent / "others"
    write_request(others / "a.npz", request_experts(rng, 40, 3, 8, 2))
    assert "test part" not in run("simulate", plan, others).stderr


def test_tables_name_every_method_and_bound(traces: Path) -> None:
    plan, result = solve(traces)
    for word in (
        "sequential",
        "random",
        "pairing",
        "greedy",
        "formulation",
        "search",
        "gap",
        str(plan),
        "test batches",
    ):
        assert word in result.stdout.replace("\n", "")
    assert other_notes(result.stderr) == "Note: 12 requests\n"
    table = run("simulate", plan, traces, "--routing", "least-loaded").stdout
    for word in ("latency", "dispatch", "compute", "combine", "imbalance", "tiles", "hops", "p99", "least-loaded"):
        assert word in table


def test_stats_match_plain_counting(traces: Path) -> None:
    result = run("stats", traces, "--layer", 1, "--mesh", "2x2", "--json")
    assert result.exit_code == 0, result.output
    stats = json.loads(result.stdout)["layers"]["1"]
    chosen = np.concatenate([np.load(path)["routed_experts"][:, 1] for path in sorted(traces.glob("*.npz"))])
    counts = np.bincount(chosen.ravel(), minlength=8)
    assert [row["tokens"] for row in stats["experts"]] == counts.tolist()
    assert stats["hottest_over_mean"] == pytest.approx(counts.max() / counts.mean())
    assert sum(row["mean"] for row in stats["experts"]) == pytest.approx(512 * 2)
    assert set(stats["sequential_imbalance"]) == {"mean", "p50", "p95", "p99", "max"}
    assert stats["datasets"] == ["traces"]


def test_stats_answers_one_question_per_table_for_one_layer_or_all(traces: Path) -> None:
    one = run("stats", traces, "--layer", 1, "--mesh", "2x2").stdout
    for question in ("Which experts of layer 1 are hot?", "How uneven", "How bursty", "choose together?"):
        assert question in one
    every = run("stats", traces, "--layer", "all", "--mesh", "2x2", "--json")
    assert list(json.loads(every.stdout)["layers"]) == ["0", "1", "2"]
    assert list(json.loads(run("stats", traces, "--layer", "0,2-2", "--json").stdout)["layers"]) == ["0", "2"]


def test_stats_writes_csv_files(traces: Path) -> None:
    folder = traces.parent / "csv"
    assert run("stats", traces, "--layer", "all", "--csv", folder).exit_code == 0
    rows = {path.name: list(csv.reader(path.open())) for path in folder.iterdir()}
    assert {name: len(lines) - 1 for name, lines in rows.items()} == {
        "layers.csv": 3,
        "experts.csv": 3 * 8,
        "pairs.csv": 3 * 28,
        "drift.csv": 3,
        "drift_over_time.csv": 3,
    }
    assert sum(int(row[2]) for row in rows["experts.csv"][1:9]) == 12 * 20 * 2


def test_explicit_batches_are_planned_and_simulated(tmp_path: Path, rng: np.random.Generator) -> None:
    experts = request_experts(rng, 30 * 16, 1, 8, 2).reshape(30, 16, 2)
    np.savez(tmp_path / "b.npz", experts=experts)
    plan = tmp_path / "plan.json"
    solved = run("solve", "--batches", tmp_path / "b.npz", "--layer", 4, *SHORT, "-o", plan)
    assert solved.exit_code == 0, solved.output
    judged = json.loads(run("simulate", plan, "--batches", tmp_path / "b.npz", "--json").stdout)["layers"]["4"]
    assert (judged["batches"], judged["tokens"]) == (6, 16)
    assert run("stats", "--batches", tmp_path / "b.npz", "--layer", 4, "--mesh", "2x2").exit_code == 0


def test_the_ranks_of_explicit_batches_are_used_and_a_wrong_one_is_named(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """All tokens live on rank 3 of four GPUs, which alone has experts, so nothing is sent; from others it would be."""
    experts, plan = request_experts(rng, 30 * 16, 1, 4, 2).reshape(30, 16, 2), tmp_path / "plan.json"
    placement = Placement(np.array([[-1] * 4] * 3 + [[0, 1, 2, 3]]))
    write_plan(plan, Plan.of(placement, 4, Model("four", 4, 0, 2), Hardware.of("h800", "2x2", 4), "nearest"))
    np.savez(tmp_path / "b.npz", experts=experts, source=np.full((30, 16), 3))
    judge = ("simulate", plan, "--json", "--batches", tmp_path / "b.npz")
    assert json.loads(run(*judge).stdout)["layers"]["4"]["hops"]["mean"] == 0
    np.savez(tmp_path / "b.npz", experts=experts, source_row=np.full((30, 16), 1))
    assert json.loads(run(*judge).stdout)["layers"]["4"]["hops"]["mean"] > 0
    np.savez(tmp_path / "b.npz", experts=experts, source=np.full((30, 16), 4))
    refused = run(*judge)
    assert refused.exit_code != 0
    assert "source: 4 in batch 0, token 0 is outside 0..3" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_the_same_iterations_and_seed_give_the_same_plan(traces: Path) -> None:
    plan, _ = solve(traces)
    first = plan.read_text()
    solve(traces)
    assert plan.read_text() == first


def test_the_builtin_trace_is_used_and_said(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    result = run("solve", "--layer", 12, "--iterations", 0, "--routing", "even-source", "-o", plan, "--json")
    assert result.exit_code == 0, result.output
    assert "built-in trace" in result.stderr
    slots = json.loads(plan.read_text())["layers"]["12"]["slots"]
    assert np.shape(slots) == (128, 3)
    assert "--layer: layer 2 is no MoE layer" in run("solve", "--layer", 2, "-o", plan).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--mesh", "0x8"), "mesh 0x8 has no devices"),
        (("--mesh", "2by2"), "--mesh: '2by2' is not a mesh"),
        (("--slots", "1"), "8 experts do not fit in 4 slots"),
        (("--slots", "0"), "0 slots per device"),
        (("--layer", "9"), "holds layers 0..2, not layer 9"),
        (("--model", "nemo"), "--model: model 'nemo' is not known"),
        (("--hardware", "nemo"), "--hardware: hardware 'nemo' is not known"),
        (("--routed-experts", "5"), "outside 0..4"),
        (("--top-k", "3"), "top-2, not top-3"),
        (("--shared-replicas", "2"), "but custom has none"),
        (("--batches", "b.npz"), "exclude each other"),
        (("--synthesise",), "--synthesise: tokens are made from counts alone"),
    ],
)
def test_bad_usage_is_one_line_and_leaves_no_file(traces: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in fault(solve(traces, *arguments)[1])
    assert sorted(traces.parent.iterdir()) == [traces]


def test_bad_input_is_one_line_and_leaves_no_file(traces: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.npz").write_bytes((traces / "r0.npz").read_bytes()[:400])
    write_request(tmp_path / "pickled.npz", np.array(None, dtype=object))
    write_request(tmp_path / "range.npz", np.full((4, 3, 2), [0, 300]))
    before = sorted(tmp_path.iterdir())
    for name, said in {
        "none": "no such file or folder",
        "empty": "holds no trace files",
        "cut.npz": "not a whole .npz archive",
        "pickled.npz": "never unpickled",
        "range.npz": "expert id 300, outside 0..255",
    }.items():
        result = run("solve", tmp_path / name, "--layer", 1, "--routed-experts", 256, *SHORT, "-o", tmp_path / "p.json")
        assert said in fault(result)
        assert name in result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_one_bad_request_is_skipped_and_strict_refuses_it(traces: Path) -> None:
    (traces / "bad.npz").write_bytes(b"no archive")
    plan, result = solve(traces)
    assert result.exit_code == 0
    assert "1 of 13 requests skipped" in result.stderr
    plan.unlink()
    assert "bad.npz" in fault(solve(traces, "--strict")[1])
    assert not plan.exists()


def test_a_bad_plan_is_one_line(traces: Path, plan: Path) -> None:
    good = json.loads(plan.read_text())
    changes: dict[str, dict[str, Any]] = {
        "version is 3": {"version": 3},
        "expert 0 twice on device 0": {"layers": {"1": {"slots": [[0, 0, 1], [2, 3, 4], [5, 6, 7], [1, 2, -1]]}}},
    }
    for said, change in changes.items():
        plan.write_text(json.dumps(good | change))
        assert said in fault(run("validate", plan))
        assert said in fault(run("simulate", plan, traces))
    plan.write_text(json.dumps(good))
    assert "--routing: 'psychic'" in fault(run("simulate", plan, traces, "--routing", "psychic"))
    two = good | {"layers": {"1": good["layers"]["1"], "2": good["layers"]["1"]}}
    plan.write_text(json.dumps(two))
    assert "a batch file holds one layer" in fault(run("simulate", plan, "--batches", "b.npz"))
    assert len(json.loads(run("simulate", plan, traces, "--json").stdout)["layers"]) == 2


def test_a_failed_run_exits_with_1(traces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        """Fail as writing to a full disk does."""
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("optimizer.planning.plan_file.write_whole", full)
    assert "the run failed" in fault(solve(traces)[1], code=1)


def test_validate_prints_json(traces: Path, plan: Path) -> None:
    assert json.loads(run("validate", plan, "--json").stdout)["valid"] is True


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, cli; sys.exit(any(name in sys.modules for name in ('numpy', 'numba', 'ortools', 'pydantic')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def counts(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A file of counts `[domain, shard, layer, expert]` for 2 domains, 5 shards, 3 layers with equal counts and 8
    experts, top-2."""
    load = np.repeat(rng.integers(1, 400, (2, 5, 1, 8)) * 2, 3, axis=2)
    tokens = load[:, :, 0].sum(axis=2) // 2
    np.savez(tmp_path / "counts.npz", counts=load, tokens=tokens, domains=np.array(["a", "b"]))
    return tmp_path / "counts.npz"


def test_counts_are_planned_by_expected_load(counts: Path) -> None:
    plan = counts.parent / "plan.json"
    arguments = (
        "solve",
        counts,
        "--layer",
        1,
        "--mesh",
        "2x2",
        "--time-limit",
        "20",
        "--iterations",
        "3000",
        "-o",
        plan,
    )
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert "p99 and co-activation need token traces" in result.stderr
    solution = json.loads(result.stdout)
    rows = {row["method"]: row["expected_imbalance"]["mean"] for row in solution["rows"]}
    gap = solution["bounds"]["imbalance"]
    assert gap["any_placement"] <= gap["reached"] == pytest.approx(rows["search"])
    bound = run("bound", counts, "--layer", 1, "--mesh", "2x2", "--json")
    assert max(each["mean"] for each in json.loads(bound.stdout)["bounds"]) == gap["any_placement"]
    assert "expected load is bounded" in bound.stderr
    assert run("validate", plan).exit_code == 0
    assert "expected load" in run(*arguments).stdout
    stats = run("stats", counts, "--layer", 1, "--mesh", "2x2")
    assert "p99, bursts" in stats.stderr
    assert "How far apart are the data sets?" in stats.stdout


def test_counts_become_tokens_with_synthesise(counts: Path) -> None:
    plan = counts.parent / "plan.json"
    result = run("solve", counts, "--layer", 1, *SHORT, "--synthesise", "-o", plan, "--json")
    assert result.exit_code == 0, result.output
    assert "latency_us" in json.loads(result.stdout)["rows"][0]


def test_counts_stand_alone_and_say_what_they_lack(counts: Path, traces: Path) -> None:
    assert "name the files of counts alone" in fault(run("solve", counts, traces, "--layer", 1, "--mesh", "2x2"))
    assert "--layer: layer 7 is not in" in fault(run("solve", counts, "--layer", 7, "--mesh", "2x2"))
    bare = counts.parent / "bare.json"
    bare.write_text(json.dumps({"logical_count": [[3, 4, 5], [6, 7, 8]]}))
    assert "give its top-k or its model" in fault(run("solve", bare, "--layer", 1, "--mesh", "2x2"))


def test_a_cached_layer_is_not_read_again(traces: Path) -> None:
    cache = traces.parent / "cache"
    plan, first = solve(traces, "--cache", cache, "--json")
    assert first.exit_code == 0, first.output
    kept = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    content = plan.read_text()
    _, second = solve(traces, "--cache", cache, "--json")
    assert second.exit_code == 0, second.output
    assert plan.read_text() == content
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == kept


def test_batches_can_be_prefill_and_have_users_per_row(traces: Path) -> None:
    plan, result = solve(traces, "--phase", "prefill", "--row-users", "5,9")
    assert result.exit_code == 0, result.output
    made = json.loads(plan.read_text())["layers"]["1"]["provenance"]
    assert (made["phase"], made["row_users"], made["batch_tokens"]) == ("prefill", [5, 9], 14)
    again = json.loads(run("simulate", plan, traces, "--json").stdout)["layers"]["1"]
    quality = json.loads(plan.read_text())["layers"]["1"]["quality"]
    assert {key: again[key] for key in quality} == quality
    assert json.loads(run("simulate", plan, traces, "--batch-tokens", 6, "--json").stdout)["layers"]["1"]["tokens"] == 6
    assert "is not a list of numbers" in fault(solve(traces, "--row-users", "5,x")[1])
    assert "give those of each of 2 rows" in fault(solve(traces, "--row-users", "5")[1])


def test_generated_requests_are_read_and_planned(tmp_path: Path) -> None:
    out = tmp_path / "made"
    sizes = ("--requests", 4, "--layers", "12,13", "--prompt-tokens", 6, "--output-tokens", 9, "--seed", 3)
    result = run("synth", out, *sizes, "--datasets", "law,code", "--weights", "--candidates")
    assert result.exit_code == 0, result.output
    assert "8 requests written" in result.stdout
    assert sorted(path.name for path in out.iterdir()) == ["code", "law"]
    with np.load(next((out / "law").glob("*.npz"))) as archive:
        assert {"routed_experts", "candidate_experts", "routed_weights"} <= set(archive.files)
    stats = json.loads(run("stats", out, "--model", "deepseek-v3", "--layer", "12-13", "--json").stdout)["layers"]
    assert list(stats) == ["12", "13"]
    assert stats["12"]["datasets"] == ["code", "law"]
    assert "is there already" in fault(run("synth", out, *sizes, "--datasets", "law"))
    assert "write 12, or 12,15, or 3-60, or all" in fault(run("synth", tmp_path / "b", "--layers", "x"))


def test_servers_responses_are_converted(tmp_path: Path, rng: np.random.Generator) -> None:
    experts = request_experts(rng, 9, 3, 8, 2)
    buffer = io.BytesIO()
    np.save(buffer, experts)
    response = {"usage": {"prompt_tokens": 4}, "routed_experts": base64.b64encode(buffer.getvalue()).decode()}
    (tmp_path / "r.json").write_text(json.dumps(response))
    result = run("convert", tmp_path / "r.json", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "1 requests written" in result.stdout
    with np.load(tmp_path / "out" / "request_00000.npz") as archive:
        assert (archive["routed_experts"] == experts).all()
        assert len(archive["prompt_token_ids"]) == 4
    assert "holds requests already" in fault(run("convert", tmp_path / "r.json", tmp_path / "out"))
    (tmp_path / "c.json").write_text(json.dumps({"logical_count": [[1, 2]]}))
    assert "no tokens to convert" in fault(run("convert", tmp_path / "c.json", tmp_path / "out2"))
    assert "--format: 'abacus' is not a known format" in fault(
        run("convert", tmp_path / "r.json", tmp_path / "o", "--format", "abacus")
    )


@pytest.mark.parametrize("command", ["solve", "simulate", "stats", "validate"])
def test_every_command_that_prints_figures_has_help_and_json(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.output


def test_bounds_are_those_that_solve_reports(traces: Path) -> None:
    plan, result = solve(traces, "--json")
    figures = json.loads(result.stdout)
    reported, price = figures["bounds"], {"latency_us": figures["verdict"]["price_us"]}
    assert json.loads(plan.read_text())["layers"]["1"]["bounds"] == reported
    arguments = ("bound", traces, "--layer", 1, "--mesh", "2x2", "--batch-tokens", 24)
    bounds = json.loads(run(*arguments, "--json").stdout)["bounds"]
    for unit, gap in reported.items():
        least = max(bound["mean"] for bound in bounds if bound["unit"] == unit)
        assert least + price.get(unit, 0.0) == pytest.approx(gap["any_placement"])
    shown = run(*arguments).stdout
    assert "no placement in these slots goes below" in shown
    assert all(bound["name"] in shown for bound in bounds)
    assert "--slots" in fault(run(*arguments, "--slots", 1))
