"""The command `solve` for several layers: it gives the same plan however it is run, and refuses what cannot be."""

import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from running_commands import fault, run
from small_model import FEW, LAYERS, solving, with_few_batches, write_corpus

from optimizer.planning.many_layers import workers
from optimizer.planning.many_layers.layer import LayerTask, plan_layer
from optimizer.planning.plan_file import LayerPlan
from optimizer.search.stop import Deadline

QUICK = ("--iterations", "0", "--routing", "even-source")


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Trace sources make few batches in this module, and worker processes end after it."""
    with pytest.MonkeyPatch.context() as patch:
        with_few_batches(patch)
        yield
    get_reusable_executor().shutdown(wait=True, kill_workers=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ten small requests in three layers."""
    return write_corpus(tmp_path_factory.mktemp("whole") / "traces")


@pytest.fixture(scope="module")
def unbroken(corpus: Path) -> Path:
    """A folder with the traces, the plan that a run in one process made of them (plan.json), and its work folder
    (work)."""
    result = run(*solving(corpus, corpus.parent / "plan.json", "--jobs", 1, "--work", corpus.parent / "work"))
    assert result.exit_code == 0, result.output
    return corpus.parent


def planned(corpus: Path, plan: Path, *more: object) -> dict[str, Any]:
    """The content of the plan file that `solve` writes for all layers of these traces."""
    result = run(*solving(corpus, plan, *more))
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(plan.read_text())
    return found


def test_the_plan_holds_all_layers_under_one_policy(unbroken: Path) -> None:
    plan = json.loads((unbroken / "plan.json").read_text())
    assert list(plan["layers"]) == ["0", "1", "2"]
    assert plan["routing"]["policy"] in ("even-source", "nearest", "optimal")
    assert {layer["provenance"]["method"] for layer in plan["layers"].values()} == {"search"}
    assert {layer["provenance"]["test_batches"] for layer in plan["layers"].values()} == {FEW}
    assert len({layer["provenance"]["traces"] for layer in plan["layers"].values()}) == LAYERS
    assert run("validate", unbroken / "plan.json").exit_code == 0
    assert run("simulate", unbroken / "plan.json", unbroken / "traces").exit_code == 0


def test_everything_that_was_kept_is_a_plan(unbroken: Path) -> None:
    whole = json.loads((unbroken / "plan.json").read_text())
    for name in ("survey", *(f"layer-{layer}" for layer in range(LAYERS))):
        assert run("validate", unbroken / "work" / f"{name}.json").exit_code == 0
        kept = json.loads((unbroken / "work" / f"{name}.json").read_text())
        assert kept | {"layers": None} == whole | {"layers": None}
        assert name == "survey" or kept["layers"] == {name[-1]: whole["layers"][name[-1]]}
    assert json.loads((unbroken / "work" / "clock.json").read_text())["seconds"] > 0


def test_jobs_do_not_change_the_plan(unbroken: Path, tmp_path: Path) -> None:
    planned(unbroken / "traces", tmp_path / "plan.json", "--jobs", 2)
    assert (tmp_path / "plan.json").read_bytes() == (unbroken / "plan.json").read_bytes()


@pytest.mark.parametrize("lost", [["layer-1"], ["layer-0", "layer-2", "clock"], ["survey", "layer-0", "layer-1"]])
def test_a_resumed_run_ends_with_the_same_plan(unbroken: Path, tmp_path: Path, lost: list[str]) -> None:
    for file in (unbroken / "work").iterdir():
        if file.stem not in lost:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    planned(unbroken / "traces", tmp_path / "plan.json", "--jobs", 1, "--work", tmp_path, "--resume")
    assert (tmp_path / "plan.json").read_bytes() == (unbroken / "plan.json").read_bytes()


def test_a_run_that_was_finished_is_told_again(unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizer.planning.many_layers.plan_model.plan_layer", None)
    work = unbroken / "work"
    planned(unbroken / "traces", tmp_path / "plan.json", "--jobs", 1, "--work", work, "--resume")
    assert (tmp_path / "plan.json").read_bytes() == (unbroken / "plan.json").read_bytes()


def test_another_seed_gives_another_plan(unbroken: Path, tmp_path: Path) -> None:
    whole = json.loads((unbroken / "plan.json").read_text())
    other = planned(unbroken / "traces", tmp_path / "plan.json", "--jobs", 1, "--seed", 1)
    for layer in whole["layers"]:
        assert other["layers"][layer]["slots"] != whole["layers"][layer]["slots"]


@pytest.mark.parametrize(("text", "layers"), [("0-1", ["0", "1"]), ("2,0", ["0", "2"])])
def test_layers_can_be_named(unbroken: Path, tmp_path: Path, text: str, layers: list[str]) -> None:
    found = planned(unbroken / "traces", tmp_path / "plan.json", "--jobs", 1, "--layer", text, *QUICK)
    assert list(found["layers"]) == layers


def test_a_single_layer_can_be_kept_too(unbroken: Path, tmp_path: Path) -> None:
    more = ("--jobs", 1, "--layer", 1, *QUICK, "--work", tmp_path / "work")
    found = planned(unbroken / "traces", tmp_path / "plan.json", *more)
    assert found["layers"] == json.loads((tmp_path / "work" / "layer-1.json").read_text())["layers"]


def test_figures_are_those_of_the_plan_and_their_sums(unbroken: Path, tmp_path: Path) -> None:
    more = ("--jobs", 1, "--work", unbroken / "work", "--resume")
    arguments = solving(unbroken / "traces", tmp_path / "plan.json", *more)
    whole = json.loads((unbroken / "plan.json").read_text())
    told = json.loads(run(*arguments, "--json").stdout)
    assert told["plan"] == str(tmp_path / "plan.json")
    assert told["routing"] == whole["routing"]["policy"]
    for layer, part in whole["layers"].items():
        shown = told["layers"][layer]
        assert (shown["latency_us"], shown["bounds"]) == (part["quality"]["latency_us"], part["bounds"])
    for name in ("mean", "p50", "p99"):
        latencies = [part["quality"]["latency_us"][name] for part in whole["layers"].values()]
        assert told["total_latency_us"][name] == pytest.approx(sum(latencies))
    rows = [line.split("│")[1:] for line in run(*arguments).stdout.splitlines() if "│" in line]
    assert [row[0].strip() for row in rows] == ["0", "1", "2", "all"]
    assert rows[-1][4].strip() == f"{told['total_latency_us']['p99']:.1f}"
    assert {row[7].strip() for row in rows[:-1]} == {"search"}


def test_a_plan_to_start_from_is_given_to_every_layer(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: dict[int, Any] = {}

    def spied(task: LayerTask, deadline: Deadline) -> LayerPlan | None:
        """Plan the layer as usual, and note the slots of the placement that planning starts from."""
        start = task.problem().start
        starts[task.layer] = None if start is None else start.slots.tolist()
        return plan_layer(task, deadline)

    monkeypatch.setattr("optimizer.planning.many_layers.plan_model.plan_layer", spied)
    given = json.loads((unbroken / "plan.json").read_text())["layers"]
    more = ("--jobs", 1, *QUICK, "--start", unbroken / "plan.json", "--work", tmp_path / "work")
    planned(unbroken / "traces", tmp_path / "plan.json", *more)
    assert {str(layer): slots for layer, slots in starts.items()} == {layer: given[layer]["slots"] for layer in given}
    again = solving(unbroken / "traces", tmp_path / "plan.json", *more, "--resume", "--start", tmp_path / "plan.json")
    assert "begun with start" in fault(run(*again))


def write_counts(path: Path, seed: int, layers: int = 3) -> Path:
    """Write random counts of eight experts in these layers as JSON, and return the path."""
    counts = np.random.default_rng(seed).integers(1, 1000, (layers, 8)).tolist()
    path.write_text(json.dumps({"logical_count": counts}))
    return path


def test_layers_of_counts_are_planned_kept_and_resumed(tmp_path: Path) -> None:
    counts = write_counts(tmp_path / "counts.json", 1)
    more = ("--top-k", 2, "--jobs", 1, "--work", tmp_path / "work")
    whole = planned(counts, tmp_path / "plan.json", *more)
    assert list(whole["layers"]) == ["0", "1", "2"]
    assert whole["routing"] == {"policy": "even-source", "price_us": 0.0}
    assert run("validate", tmp_path / "work" / "layer-1.json").exit_code == 0
    (tmp_path / "work" / "layer-1.json").unlink()
    planned(counts, tmp_path / "again.json", *more, "--resume")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "plan.json").read_bytes()
    assert [line.split("│")[1].strip() for line in run(*solving(counts, tmp_path / "again.json", *more, "--resume"))
            .stdout.splitlines() if "│" in line] == ["0", "1", "2", "mean"]  # fmt: skip
    write_counts(counts, 2)
    assert "layer 0 of the counts" in fault(run(*solving(counts, tmp_path / "again.json", *more, "--resume")))


def refused(corpus: Path, *more: object) -> str:
    """The one line by which `solve` refuses these options; no plan may be written."""
    plan = corpus.parent / "refused.json"
    said = fault(run(*solving(corpus, plan, "--jobs", 1, *more)))
    assert not plan.exists()
    return said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--resume"], "--work"),
        (["--max-rerouted", "0.01"], "--max-rerouted is for one layer"),
        (["--synthesise"], "--synthesise is for one layer"),
        (["--layer", "0-9"], "layer 3"),
        (["--layer", "two"], "--layer: 'two' does not name layers"),
        (["--max-row-traffic", "0"], "--max-row-traffic: no placement lets"),
        (["--shared-experts", "1", "--shared-replicas", "9"], "replicas"),
        (["--batches", "b.npz"], "exclude each other"),
        (["--work", __file__], "cannot be written"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(unbroken: Path, more: list[str], said: str) -> None:
    assert said in refused(unbroken / "traces", *more)


def test_a_batch_file_has_no_layers(unbroken: Path) -> None:
    result = run("solve", "--batches", "b.npz", "--layer", "all", "-o", unbroken / "refused.json")
    assert "a batch file holds one layer" in fault(result)


def test_another_run_is_not_gone_on_with(unbroken: Path, tmp_path: Path) -> None:
    traces, work = unbroken / "traces", unbroken / "work"
    before = {file.name: file.read_bytes() for file in work.iterdir()}
    assert "holds a run already" in refused(traces, "--work", work)
    assert "begun with seed 0, not 1;" in refused(traces, "--work", work, "--resume", "--seed", 1)
    assert "begun with layers [0, 1, 2], not [0, 1];" in refused(traces, "--work", work, "--resume", "--layer", "0-1")
    other = write_corpus(tmp_path / "other", seed=8)
    assert "layer 0 of the traces is not" in refused(other, "--work", work, "--resume")
    assert {file.name: file.read_bytes() for file in work.iterdir()} == before


def test_a_cluster_that_does_not_answer_is_named(unbroken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No client that was made in part is left: it would be closed when it is collected, perhaps while the next one is
    made, which would wait for ever."""
    distributed = pytest.importorskip("distributed", reason="the [cluster] extra is not installed")
    monkeypatch.setattr(workers, "CLUSTER_SECONDS", 0.2)
    for address in ("tcp://127.0.0.1:9", "nowhere", "ftp://127.0.0.1:9"):
        assert f"no dask scheduler answers at {address}" in refused(unbroken / "traces", "--cluster", address)
        kinds = map(type, gc.get_objects())  # not isinstance, which asks what a weak proxy stands for, dead or not
        assert not any(issubclass(kind, distributed.Client) for kind in kinds)


def test_a_cluster_needs_its_extra(unbroken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "moeplan[cluster]" in refused(unbroken / "traces", "--cluster", "tcp://127.0.0.1:9")


def extra(layer: dict[str, Any]) -> int:
    """The number of replicas in a layer of a plan file beyond one of each expert; empty slots do not count."""
    held = [expert for device in layer["slots"] for expert in device if expert >= 0]
    return len(held) - len(set(held))


def test_a_budget_of_slots_is_kept_and_shared_out_as_before_when_resumed(unbroken: Path, tmp_path: Path) -> None:
    traces, work = unbroken / "traces", tmp_path / "work"
    asked = (*QUICK, "--slot-budget", 3, "--jobs", 1, "--work", work)
    plan = planned(traces, tmp_path / "plan.json", *asked)
    shares = [layer["provenance"]["extra_replicas"] for layer in plan["layers"].values()]
    assert all(extra(layer) <= share for layer, share in zip(plan["layers"].values(), shares, strict=True))
    assert sum(shares) <= 3
    free = json.loads((unbroken / "plan.json").read_text())["layers"]
    assert sum(map(extra, free.values())) > 3  # so without a budget there are more than 3 extra replicas
    first = (tmp_path / "plan.json").read_bytes()
    (work / "layer-1.json").unlink()
    planned(traces, tmp_path / "plan.json", *asked, "--resume")
    assert (tmp_path / "plan.json").read_bytes() == first


def test_a_single_layer_has_nobody_to_share_slots_with(unbroken: Path, tmp_path: Path) -> None:
    said = run("solve", unbroken / "traces", "--layer", 1, "--slot-budget", 3, "-o", tmp_path / "p.json")
    assert "--replicas" in fault(said)


def test_the_fast_plan_has_all_layers_and_their_figures(unbroken: Path, tmp_path: Path) -> None:
    result = run(*solving(unbroken / "traces", tmp_path / "plan.json", "--fast", "--json"))
    assert result.exit_code == 0, result.output
    layers = json.loads((tmp_path / "plan.json").read_text())["layers"]
    said = json.loads(result.stdout)["layers"]
    assert list(layers) == list(said) == ["0", "1", "2"]
    for layer, figures in said.items():
        assert layers[layer]["quality"]["expected_imbalance"]["mean"] == figures["test_imbalance"] >= 1
        assert layers[layer]["provenance"]["method"] == "fast"
    assert "judged on its test part alone" in run("simulate", tmp_path / "plan.json", unbroken / "traces").stderr
