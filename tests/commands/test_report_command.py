"""The command `report` as a user meets it: its page, its pictures and its errors."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from random_problems import request_experts, write_request
from running_commands import fault, run

from optimizer.planning.plan_file import read_plan
from optimizer.report.page import pictures
from optimizer.report.page.pictures import BROWSERS

pytestmark = pytest.mark.usefixtures("few_batches")


def test_the_page_has_the_figures_of_the_plan_file(traces: Path, plan: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = run("report", plan, traces, "-o", page, "--routing", "even-source")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"The page is written to {page}.\n"
    text = page.read_text(encoding="utf-8")
    latency = read_plan(plan).layers[1].quality["latency_us"]
    for name in ("mean", "p50", "p95", "p99"):
        assert f"<td>{latency[name]:,.1f}</td>" in text
    assert "src=" not in text.split("<script")[0]
    data = json.loads(text.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    assert data["layers"] == ["1"]


def test_the_placement_before_may_be_a_plan_or_a_servers_file(traces: Path, plan: Path, tmp_path: Path) -> None:
    page, exported = tmp_path / "report.html", tmp_path / "map.yaml"
    asked = ("report", plan, traces, "-o", page, "--routing", "even-source", "--batch-count", 8, "--before")
    assert run(*asked, plan).exit_code == 0
    assert "0.0% below that of plan.json" in page.read_text(encoding="utf-8")
    numbered = ("--first-moe-layer", 1, "--hidden-layers", 2)
    assert run("export", plan, "--to", "tensorrt-llm", "-o", exported, *numbered).exit_code == 0
    result = run(*asked, exported)
    assert result.exit_code == 0, result.output
    assert "map.yaml, tensorrt-llm" in page.read_text(encoding="utf-8")


def test_without_traces_the_verdict_says_that_they_are_generated(plan: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert run("report", plan, "-o", page, "--routing", "even-source", "--batch-count", 8).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "which the plan was not made from" in text
    assert "The built-in trace is generated, not recorded" in text


def test_named_data_sets_make_a_matrix(traces: Path, plan: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    named = [f"one={traces}/r0.npz", f"one={traces}/r1.npz", f"one={traces}/r2.npz", f"all the rest={traces}"]
    result = run("report", plan, *named, "-o", page, "--routing", "even-source", "--batch-count", 8)
    assert result.exit_code == 0, result.output
    assert "Both placements on each data set" in page.read_text(encoding="utf-8")


MOVES = {
    "measure": "latency_us",
    "routing": "even-source",
    "asked": {"budget": 2, "moves": 2, "gain": {"mean": 0.031, "low": 0.02, "high": 0.04}},
    "curve": [{"budget": None, "moves": 9, "gain": {"mean": 0.05, "low": 0.03, "high": 0.07}}],
}
"""What of the output of `rebalance --json` is shown."""


def test_the_gain_against_moves_is_that_of_rebalance(traces: Path, plan: Path, tmp_path: Path) -> None:
    page, moves = tmp_path / "report.html", tmp_path / "moves.json"
    moves.write_text(json.dumps(MOVES | {"chunks": []}))
    asked = ("report", plan, traces, "-o", page, "--routing", "even-source", "--batch-count", 8, "--moves", moves)
    result = run(*asked)
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    data = json.loads(text.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    (picture,) = (item for item in data["items"] if item["name"] == "moves")
    assert [trace["y"] for trace in picture["views"][""]["traces"]] == [[5.0], [3.1]]
    moves.write_text(json.dumps(MOVES | {"curve": [{"budget": 1}]}))
    assert f"--moves: {moves}: curve.0.moves: field required; give what `moeplan rebalance --json`" in fault(
        run(*asked)
    )
    moves.write_text("moves")
    assert "not JSON" in fault(run(*asked))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--moves", "none.json"), "--moves: none.json: cannot be read (No such file or directory)"),
        (("--before", "nothing.json"), "nothing.json: cannot be read (No such file or directory)"),
        (("--before", "lists.json"), "--before: lists.json: fits two formats"),
        (("--layer", "7"), "--layer: the plan has no layer 7; it has 1"),
        (("-o", "none/page.html"), "none/page.html cannot be written"),
        (("--routing", "psychic"), "--routing: 'psychic' is not a known policy"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    traces: Path, plan: Path, arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(plan.parent)
    Path("lists.json").write_text(json.dumps([[0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]]))
    assert said in fault(run("report", plan, traces, *arguments))


def test_pictures_without_a_browser_are_refused_before_any_work(
    traces: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "BROWSERS", ("no-such-browser",))
    said = fault(run("report", plan, traces, "-o", tmp_path / "page.html", "--svg", tmp_path / "pictures"))
    assert "--svg: pictures are drawn by Chromium or Chrome" in said
    assert not (tmp_path / "page.html").exists()


@pytest.mark.slow
def test_pictures_are_files_of_their_kind_with_a_title(traces: Path, plan: Path, tmp_path: Path) -> None:
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip("no Chromium or Chrome to draw pictures")
    folder = tmp_path / "pictures"
    result = run("report", plan, traces, "-o", tmp_path / "page.html", "--routing", "even-source", "--batch-count", 8,
                 "--svg", folder, "--png", folder)  # fmt: skip
    assert result.exit_code == 0, result.output
    names = {path.name for path in folder.iterdir()}
    for name in ("mesh-plan-load-layer-1", "distribution-layer-1", "together-layer-1"):
        assert {f"{name}.svg", f"{name}.png"} <= names
    drawn = (folder / "distribution-layer-1.svg").read_text(encoding="utf-8")
    assert drawn.startswith("<svg")
    assert "Share of batches that end within a latency, layer 1" in drawn
    assert (folder / "distribution-layer-1.png").read_bytes().startswith(b"\x89PNG")


def test_traces_that_look_wrong_are_told_on_the_page(traces: Path, plan: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    experts = request_experts(rng, 400, 3, 8, 2)
    experts[50:350] = experts[50]  # a warm-up run of 300 equal tokens
    write_request(traces / "warm-up.npz", experts)
    page = tmp_path / "report.html"
    assert run("report", plan, traces, "-o", page, "--routing", "even-source", "--batch-count", 8).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "a profile or warm-up run" in text
    assert "leave them out with --drop-repeats" in text
