"""The command `rebalance`, as a user meets it."""

import json
import re
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import one_line
from placement_files import FILES
from random_problems import request_experts, write_request
from running_commands import fault, run

from optimizer.planning.plan_file import read_plan

pytestmark = pytest.mark.usefixtures("few_batches")

QUICK = ("--time-limit", "600", "--iterations", "800", "--jobs", "1", "--batch-tokens", "24")


def rebalance(current: Path, traces: Path, *more: object) -> tuple[Path, Any]:
    out = traces.parent / "new.json"
    return out, run("rebalance", current, traces, *QUICK, "-o", out, *more)


@pytest.fixture
def drifted(tmp_path: Path) -> Path:
    """Requests that choose a few experts far more often than those that the plan was made of."""
    rng = np.random.default_rng(1)
    for number in range(12):
        experts = request_experts(rng, 20, 3, 8, 2)
        experts[:, :, 1] = np.where(experts[:, :, 0] == 5, 6, 5)
        write_request(tmp_path / "drifted" / f"r{number}.npz", experts)
    return tmp_path / "drifted"


def test_a_plan_is_rebalanced_within_its_budget_and_said_so(plan: Path, drifted: Path) -> None:
    out, result = rebalance(plan, drifted, "--max-moves", 5)
    assert result.exit_code == 0, result.output
    old, new = read_plan(plan), read_plan(out)
    moves = new.layers[1].placement.weights_to_load(old.layers[1].placement)
    assert 0 < moves <= 5
    assert new.policy == old.policy
    assert result.stdout.startswith(f"{moves} moves within a budget of 5: mean latency falls by ")
    assert "Gain against moves" in result.stdout
    assert f"The plan is written to {out}" in result.stdout


def test_figures_come_as_json_with_every_move(plan: Path, drifted: Path) -> None:
    out, result = rebalance(plan, drifted, "--max-moves", 2, "--json")
    said = json.loads(result.stdout)
    assert said["plan"] == str(out)
    assert [point["budget"] for point in said["curve"]] == [0, 1, 2, None]
    assert said["curve"][0]["gain"] == {"mean": 0, "low": 0, "high": 0}
    decided = [point["selection_us"] for point in said["curve"]]
    assert decided == sorted(decided, reverse=True)
    old, new = read_plan(plan).layers[1].placement.slots, read_plan(out).layers[1].placement.slots
    moves = [move for chunk in said["chunks"] for moves in chunk["rounds"] for move in moves]
    assert len(moves) == said["moves"] == said["asked"]["moves"]
    for move in moves:
        assert move["expert"] in old[move["source"]]
        assert new[move["target"], move["slot"]] == move["expert"]
    assert said["bytes"] == said["moves"] * said["expert_bytes"]
    assert (said["transfer_us"] > 0) == (said["moves"] > 0)


def test_a_page_shows_the_curve_of_the_table(plan: Path, drifted: Path, tmp_path: Path) -> None:
    page = tmp_path / "moves.html"
    _, result = rebalance(plan, drifted, "--max-moves", 2, "--json", "--html", page)
    said, text = json.loads(result.stdout), page.read_text()
    assert text.count("<figure") == 1
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    picture, table, *_ = json.loads(data[1])["items"]
    shown = picture["views"][""]["traces"][0]
    assert shown["x"] == [point["moves"] for point in said["curve"]]
    assert shown["y"] == pytest.approx([100 * point["gain"]["mean"] for point in said["curve"]], rel=1e-3)
    assert [row[0] for row in table["views"][""]] == ["0", "1", "2", "no limit"]


def test_the_simulator_gives_what_the_curve_says(plan: Path, drifted: Path) -> None:
    """On the same traces a plan is judged by the test requests alone."""
    out, result = rebalance(plan, drifted, "--max-moves", 2, "--json")
    judged = json.loads(run("simulate", out, drifted, "--json").stdout)["layers"]["1"]
    said = json.loads(result.stdout)["asked"]["latency_us"]
    assert judged["latency_us"]["mean"] == pytest.approx(said["mean"])


def test_a_budget_of_nothing_leaves_the_placement(plan: Path, drifted: Path) -> None:
    for budget in (("--max-moves", 0), ("--max-bytes", 1e6)):
        out, result = rebalance(plan, drifted, *budget)
        assert result.exit_code == 0, result.output
        assert "The placement stays as it is" in result.stdout
        assert read_plan(out).layers[1].placement.slots.tolist() == read_plan(plan).layers[1].placement.slots.tolist()


def test_moves_that_do_not_pay_are_not_made(plan: Path, drifted: Path) -> None:
    out, result = rebalance(plan, drifted, "--max-moves", 2, "--min-gain", 0.99)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("The plan is left as it is: ")
    assert json.loads(out.read_text()) == json.loads(plan.read_text())


def test_a_budget_in_bytes_is_one_of_whole_experts(plan: Path, drifted: Path) -> None:
    """An expert of DeepSeek-V3's size, which the small model is taken to have, is 24,772,608 bytes in bfp4."""
    _, result = rebalance(plan, drifted, "--max-bytes", 2 * 24_772_608 + 5, "--json")
    assert json.loads(result.stdout)["asked"]["budget"] == 2


def test_without_a_budget_the_curve_ends_without_a_limit(plan: Path, drifted: Path) -> None:
    _, result = rebalance(plan, drifted, "--json")
    said = json.loads(result.stdout)
    assert said["asked"]["budget"] is None
    assert [point["budget"] for point in said["curve"]] == [0, 1, 3, 6, None]


def test_a_servers_file_is_rebalanced_by_the_servers_rule(drifted: Path, tmp_path: Path) -> None:
    path = tmp_path / "location.json"
    row = [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]
    path.write_text(json.dumps({"physical_to_logical_map": [row] * 3}))
    more = (
        "--top-k",
        2,
        "--mesh",
        "2x2",
        "--first-moe-layer",
        0,
        "--hardware",
        "h800",
        "--layer",
        "1",
        "--max-moves",
        2,
    )
    out, result = rebalance(path, drifted, *more)
    assert result.exit_code == 0, result.output
    found = read_plan(out)
    assert found.policy == "sglang-static"
    assert found.layers[0].placement.slots.ravel().tolist() == row
    assert found.layers[1].placement.weights_to_load(found.layers[0].placement) <= 2


@pytest.mark.parametrize("name", FILES)
def test_every_servers_file_may_be_what_is_in_force(name: str, tmp_path: Path) -> None:
    """Whatever a search finds, a budget of nothing leaves it there."""
    rng, path = np.random.default_rng(0), tmp_path / "placement"
    for number in range(12):
        write_request(tmp_path / "traces" / f"r{number}.npz", request_experts(rng, 20, 5, 3, 1))
    path.write_bytes(FILES[name])
    named = ("--from", name) if name in ("vllm-json", "rtp-llm") else ()
    more = ("--top-k", 1, "--mesh", "1x2", "--first-moe-layer", 0, "--max-moves", 0)
    out, result = rebalance(path, tmp_path / "traces", *named, *more)
    assert result.exit_code == 0, result.output
    imported = tmp_path / "imported.json"
    run("import", path, *named, *more[:-2], "-o", imported)
    before, after = read_plan(imported), read_plan(out)
    assert after.policy == before.policy
    for layer, part in before.layers.items():
        assert after.layers[layer].placement.slots.tolist() == part.placement.slots.tolist()


def test_several_layers_share_a_budget(drifted: Path, tmp_path: Path) -> None:
    path = tmp_path / "location.json"
    path.write_text(json.dumps({"physical_to_logical_map": [[0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]] * 3}))
    more = ("--top-k", 2, "--mesh", "2x2", "--first-moe-layer", 0, "--hardware", "h800", "--routing", "even-source")
    out, result = rebalance(path, drifted, *more, "--max-moves", 4, "--layers-per-chunk", 2, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert sum(said["asked"]["layers"].values()) == said["moves"] <= 4
    assert all(len(chunk["layers"]) <= 2 for chunk in said["chunks"])
    assert read_plan(out).policy == "even-source"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--max-moves", 2, "--max-bytes", 1e9), "--max-bytes: a budget is given in moves or in bytes, not in both"),
        (("--layer", 2), "--layer: the plan has no layer 2; it has 1"),
        (("--routing", "even-source,nearest"), "names 2 policies; give one of"),
        (("--routing", "nowhere"), "--routing: 'nowhere' is not a known policy"),
        (("--routing", "optimal", "--server", "vllm"), "vLLM does not run 'optimal'"),
        (("--mesh", "2x2"), "--mesh is for a server's file"),
        (("--top-k", 2), "--top-k is for a server's file"),
        (("--replicas", 3), "the current plan breaks what is asked for: layer 1 has 4 replicas beyond one"),
        (("--from", "nothing"), "--from: "),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(
    plan: Path, drifted: Path, more: tuple[object, ...], said: str
) -> None:
    out, result = rebalance(plan, drifted, *more)
    assert said in fault(result)
    assert not out.exists()


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    """Ten steps, as a server counts them without tokens, in which experts 5 and 6 are the hottest; layer 0 is dense."""
    load = np.random.default_rng(2).poisson([30, 30, 30, 30, 30, 200, 150, 30], (10, 3, 8))
    load[:, 0] = 0
    (tmp_path / "counts.json").write_text(json.dumps({"logical_count": load.tolist()}))
    return tmp_path / "counts.json"


def test_counts_alone_are_enough_for_the_expected_load(plan: Path, counts: Path) -> None:
    """The figures are those of plain counting, on every fifth step."""
    out, result = rebalance(plan, counts, *BY_HASH, "--max-moves", 2, "--json")
    assert result.exit_code == 0, result.output
    assert "counts alone, so gains are of the peak of the expected load" in result.stderr
    said = json.loads(result.stdout)
    assert said["measure"] == "expected_imbalance"
    assert [point["budget"] for point in said["curve"]] == [0, 1, 2, None]
    decided = [point["planned_on_imbalance"] for point in said["curve"]]
    assert decided == sorted(decided, reverse=True)
    old, new = read_plan(plan), read_plan(out)
    assert new.policy == "hash"
    assert 0 < new.layers[1].placement.weights_to_load(old.layers[1].placement) == said["moves"] <= 2
    before, after = (imbalances(each.layers[1].placement.slots, counts) for each in (old, new))
    assert said["asked"]["imbalance"] == pytest.approx(np.mean(after), rel=1e-3)
    assert said["asked"]["worst_imbalance"] == pytest.approx(max(after), rel=1e-3)
    assert said["asked"]["gain"]["mean"] == pytest.approx(1 - np.mean(after) / np.mean(before), rel=1e-2)


BY_HASH = ("--routing", "hash")


def imbalances(slots: np.ndarray, counts: Path) -> list[float]:
    """Peak / mean load of devices in the steps 4 and 9; the last expert is shared, which every token chooses."""
    found = []
    for step in (4, 9):
        routed = json.loads(counts.read_text())["logical_count"][step][1]
        load = [*routed, sum(routed) / 2]
        copies = np.bincount(slots.ravel())
        device = [sum(load[expert] / copies[expert] for expert in row) for row in slots.tolist()]
        found.append(max(device) / np.mean(device))
    return found


def test_the_table_and_the_page_of_counts_say_what_they_are_of(plan: Path, counts: Path, tmp_path: Path) -> None:
    page = tmp_path / "moves.html"
    _, result = rebalance(plan, counts, *BY_HASH, "--html", page)
    assert result.exit_code == 0, result.output
    assert "without a limit: the expected peak falls by " in result.stdout
    assert "times the mean load" in result.stdout
    assert "latency mean" not in result.stdout
    assert "peak of the expected load saved, %" in page.read_text()


def test_of_few_steps_it_is_said_that_they_were_planned_on(plan: Path, tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    path.write_text(json.dumps({"logical_count": [[9, 1, 1, 1, 5, 1, 1, 1]] * 2}))
    out, result = rebalance(plan, path, *BY_HASH, "--max-moves", 0, "--first-moe-layer", 0)
    assert result.exit_code == 0, result.output
    assert "so that they say nothing of other traffic" in " ".join(result.stdout.split())
    assert read_plan(out).layers[1].placement.slots.tolist() == read_plan(plan).layers[1].placement.slots.tolist()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--routing", "weights"), "--routing: 'weights' is learned from tokens, which counts do not have"),
    ],
)
def test_what_needs_tokens_is_refused_with_counts(
    plan: Path, counts: Path, more: tuple[object, ...], said: str
) -> None:
    assert said in fault(rebalance(plan, counts, *(more if "--routing" in more else (*BY_HASH, *more)))[1])


@pytest.mark.parametrize("name", ["plan", *FILES])
def test_whatever_a_damaged_file_holds_it_is_refused_in_one_line(name: str, plan: Path, tmp_path: Path) -> None:
    """Every tenth part of a plan and of each server's file, with and without a byte exchanged in the middle."""
    content, path = plan.read_bytes() if name == "plan" else FILES[name], tmp_path / "damaged"
    for part in range(1, 10):
        cut = content[: len(content) * part // 10]
        for damaged in (cut, cut[: len(cut) // 2] + b"\x00" + cut[len(cut) // 2 + 1 :]):
            path.write_bytes(damaged)
            one_line(ValueError(fault(run("rebalance", path, tmp_path / "none", "-o", tmp_path / "new.json"))))
    assert not (tmp_path / "new.json").exists()


STRANGE: tuple[Any, ...] = (None, -1, 1e300, "x", [], {}, [[]], True)
"""What stands in place of a part of a plan or of a server's file."""


def with_parts_exchanged(content: Any) -> Iterator[Any]:
    """The content with each of its parts in turn replaced by something strange, and with each left out."""
    keys = (
        list(content) if isinstance(content, dict) else range(min(len(content), 2)) if isinstance(content, list) else []
    )
    for key in keys:
        for value in STRANGE:
            changed = copy(content)
            changed[key] = value
            yield changed
        changed = copy(content)
        del changed[key]
        yield changed
        for inner in with_parts_exchanged(content[key]):
            changed = copy(content)
            changed[key] = inner
            yield changed


@pytest.mark.parametrize("kind", ["plan", "sglang", "vllm-ascend", "vllm"])
def test_strange_values_are_refused_in_one_line(kind: str, plan: Path, tmp_path: Path) -> None:
    """There are no traces, so that a file in which nothing is wrong is refused, too."""
    path = tmp_path / "strange"
    content = json.loads(plan.read_text() if kind == "plan" else FILES[kind])
    if kind == "plan":
        for key in ("quality", "bounds", "load", "share"):  # read as they are, or not at all
            content["layers"]["1"].pop(key, None)
    for changed in with_parts_exchanged(content):
        path.write_text(json.dumps(changed))
        one_line(ValueError(fault(run("rebalance", path, tmp_path / "none", "-o", tmp_path / "new.json"))))
