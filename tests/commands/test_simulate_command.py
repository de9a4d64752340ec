"""The commands `simulate` and `sweep`, and the options that `solve` shares with them, as a user meets them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_problems import request_experts, write_request
from running_commands import fault, run, solve
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow

from formulations.kit.arrays import Ints
from optimizer.commands.arguments import dead_devices, policy_names, slow_devices, spaced
from optimizer.errors import InputError
from optimizer.planning.plan_file import read_plan
from optimizer.routing.policies import POLICIES
from optimizer.traces.batches import Batches
from optimizer.traces.source import TraceInput, open_source

pytestmark = pytest.mark.usefixtures("few_batches")


def judged(plan: Path, *more: object) -> dict[str, Any]:
    """The JSON figures that `simulate` prints for layer 1 of a plan."""
    result = run("simulate", plan, *more, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)["layers"]["1"]
    return found


def peak_by_max_flow(batch: Ints, slots: Ints) -> int:
    """The least peak device load in tokens of one batch `[token, k]`, under the best routing to the replicas in slots
    `[device, slot]`: one peak after another is tried by scipy's maximum flow, until all pairs can be served."""
    ids, load = np.unique(batch, return_counts=True)
    device, slot = np.nonzero(slots >= 0)
    sink = 1 + len(ids) + len(slots)
    for peak in range(1, batch.size + 1):
        capacity = np.zeros((sink + 1, sink + 1), dtype=np.int32)
        capacity[0, 1 : 1 + len(ids)] = load
        for at, expert in zip(device, slots[device, slot], strict=True):
            capacity[1 + np.flatnonzero(ids == expert), 1 + len(ids) + at] = batch.size
        capacity[1 + len(ids) : sink, sink] = peak
        if maximum_flow(csr_matrix(capacity), 0, sink).flow_value == load.sum():
            return peak
    raise AssertionError("some expert has no replica")


def test_all_policies_stand_side_by_side_and_optimal_agrees_with_max_flow(traces: Path, plan: Path) -> None:
    table = run("simulate", plan, traces, "--routing", "all")
    assert table.exit_code == 0, table.output
    assert all(name in table.stdout for name in POLICIES)
    found = judged(plan, traces, "--routing", "all", "--unit", "tokens")["policies"]
    read = read_plan(plan)
    source = open_source(
        TraceInput(traces=[str(traces)], batch_tokens=24), [1], read.model, read.mesh, lambda share: None
    )
    test: Batches = source.sets(1).test
    peaks = np.array([peak_by_max_flow(batch, read.layers[1].placement.slots) for batch in test.experts[:40]])
    few = judged(plan, traces, "--routing", "optimal", "--unit", "tokens", "--batch-count", 40)
    assert few["batches"] == 40
    mean_load = test.experts[0].size / read.mesh.devices
    assert few["imbalance"]["mean"] == pytest.approx(peaks.mean() / mean_load)
    assert few["imbalance"]["max"] == pytest.approx(peaks.max() / mean_load)
    assert all(found["optimal"]["imbalance"]["p99"] <= each["imbalance"]["p99"] for each in found.values())


def test_real_traces_are_judged_under_every_policy(real_traces: Path, tmp_path: Path) -> None:
    """A layer of recorded traces is planned, then judged; few iterations and batches keep the test short."""
    plan, data = tmp_path / "plan.json", real_traces / "deepseek-v2-lite"
    quick = ("--layer", 1, "--mesh", "4x8", "--time-limit", 20, "--iterations", 2000, "--batch-tokens", 64)
    assert run("solve", data, *quick, "-o", plan).exit_code == 0
    found = judged(plan, data, "--routing", "all", "--unit", "tokens", "--batch-count", 20)["policies"]
    read = read_plan(plan)
    source = open_source(
        TraceInput(traces=[str(data)], batch_tokens=64), [1], read.model, read.mesh, lambda share: None
    )
    test = source.sets(1).test.experts[:20]
    peaks = np.array([peak_by_max_flow(batch, read.layers[1].placement.slots) for batch in test])
    assert found["optimal"]["imbalance"]["mean"] == pytest.approx((peaks / (test[0].size / 32)).mean())


def test_solve_ships_the_policy_that_it_was_asked_for(traces: Path) -> None:
    plan, result = solve(traces, "--routing", "optimal", "--unit", "tokens", "--json")
    assert {row["routing"] for row in json.loads(result.stdout)["rows"]} == {"optimal"}
    content = json.loads(plan.read_text())
    assert content["routing"] == {"policy": "optimal", "unit": "tokens", "price_us": 100.0}
    found = judged(plan, traces)
    assert (found["routing"], found["unit"]) == ("optimal", "tokens")
    assert found["imbalance"] == content["layers"]["1"]["quality"]["imbalance"]


def test_learned_loads_and_shares_are_in_the_plan_and_their_lack_is_said(traces: Path, plan: Path) -> None:
    content = json.loads(plan.read_text())
    layer = content["layers"]["1"]
    assert np.shape(layer["share"]) == np.shape(layer["slots"])
    assert sum(layer["load"]) == pytest.approx(24 * 2)
    assert "no learned" not in run("simulate", plan, traces, "--routing", "weights").stderr
    del layer["share"]
    plan.write_text(json.dumps(content))
    assert "no learned loads and shares" in run("simulate", plan, traces, "--routing", "weights").stderr
    layer["share"] = [[1.0]]
    plan.write_text(json.dumps(content))
    assert "layers.1.share: not one number per slot" in fault(run("simulate", plan, traces))
    layer["share"], layer["load"] = layer["slots"], [1.0]
    plan.write_text(json.dumps(content))
    assert "layers.1.load: 1 numbers instead of 8" in fault(run("simulate", plan, traces))


def test_the_models_change_the_figures_as_they_should(traces: Path, plan: Path) -> None:
    usual = judged(plan, traces)
    functional = judged(plan, traces, "--moe-op", "functional")
    assert functional["compute_us"]["mean"] > usual["compute_us"]["mean"]
    assert judged(plan, traces, "--dispatch-model", "table")["dispatch_us"] != usual["dispatch_us"]
    slow = judged(plan, traces, "--slow", "0=3")
    assert slow["compute_us"]["max"] > usual["compute_us"]["max"]
    assert slow["critical"]["device"][0]["id"] == 0
    overlap = judged(plan, traces, "--timing", "overlap")
    assert np.shape(overlap["queues"]["waiting_us"]) == (4,)
    assert "work waits" in run("simulate", plan, traces, "--timing", "overlap").stdout.replace("\n", " ")
    assert set(usual["confidence"]["latency_us"]) == {"mean", "p50", "p95", "p99"}
    assert np.shape(usual["links"]["dispatch"]) == (8,)


def test_a_dead_device_takes_its_experts_along(traces: Path, plan: Path) -> None:
    slots = np.array(json.loads(plan.read_text())["layers"]["1"]["slots"])
    fates = [set(range(8)) - set(np.delete(slots, device, axis=0).ravel().tolist()) for device in range(4)]
    for device, lost in enumerate(fates):
        result = run("simulate", plan, traces, "--dead", device, "--routing", "even-source")
        if lost:
            assert f"expert {min(lost)}" in fault(result)
        else:
            assert result.exit_code == 0


def test_capacity_is_reported_with_what_is_estimated(
    traces: Path, plan: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    found = judged(plan, traces, "--capacity-factor", 1.0)["rerouting"]
    assert found["rerouted"] > 0
    assert (found["next_expert"], found["gate_weights"]) == ("estimated", "estimated")
    assert found["gate_weight_kept"] < 1
    text = run("simulate", plan, traces, "--capacity-factor", 1.0).stdout.replace("\n", " ")
    assert "estimated from co-activation" in text
    dropped = judged(plan, traces, "--capacity-factor", 0.3, "--drop")["rerouting"]
    assert dropped["dropped"] > 0
    assert dropped["over_capacity"] == 0
    for number in range(3):
        experts = request_experts(rng, 20, 3, 8, 4)
        path, gate = tmp_path / "full" / f"{number}.npz", np.ones((20, 3, 2), dtype=np.float32)
        write_request(path, experts[..., :2], routed_weights=gate, candidate_experts=experts)
    known = judged(plan, tmp_path / "full", "--capacity-factor", 1.0)["rerouting"]
    assert (known["next_expert"], known["gate_weights"]) == ("recorded", "recorded")


def test_a_sweep_prints_and_draws_latency_against_rerouting(traces: Path, plan: Path, tmp_path: Path) -> None:
    page = tmp_path / "sweep.html"
    result = run("sweep", plan, traces, "--capacity-factor", "0.5:2:0.5", "--plot", page)
    assert result.exit_code == 0, result.output
    for word in ("capacity", "factor", "rerouted", "p99", "gate weight", "kept", "estimated", str(page)):
        assert word in result.stdout.replace("\n", " ")
    text = page.read_text()
    assert "rerouted" in text
    assert "estimated from co-activation" in text
    found = json.loads(run("sweep", plan, traces, "--plot", page, "--json").stdout)["layers"]["1"]
    assert [each["rerouting"]["capacity_factor"] for each in found] == np.arange(1, 3.25, 0.25).tolist()
    shares = [each["rerouting"]["rerouted"] for each in found]
    assert shares[0] > shares[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--routing", "even-source,psychic"), "--routing: 'psychic' is not a known policy"),
        (("--drop",), "--drop goes with --capacity-factor"),
        (("--slow", "0"), "is not DEVICE=FACTOR"),
        (("--slow", "9=2"), "there is no device 9; the mesh has devices 0..3"),
        (("--slow", "1=0"), "must be positive"),
        (("--dead", "x"), "--dead: 'x' is not a list"),
        (("--dead", "0,1,2,3"), "expert 0 and 7 more would have no replica left"),
        (("--dispatch-model", "node"), "has no dispatch model 'node'; it has link, table"),
        (("--timing", "overlap", "--dispatch-model", "table"), "overlap needs a dispatch model with links"),
    ],
)
def test_bad_conditions_are_one_line(traces: Path, plan: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in fault(run("simulate", plan, traces, *arguments))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--capacity-factor", "1:0"), "--capacity-factor: '1:0' is not a range"),
        (("--capacity-factor", "0:1:1"), "is not a range"),
        (("--routing", "all"), f"names {len(POLICIES)} policies"),
        (("--plot", "none/page.html"), "none/page.html cannot be written"),
    ],
)
def test_bad_sweeps_are_one_line(traces: Path, plan: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in fault(run("sweep", plan, traces, *arguments))


def test_too_many_explicit_batches_are_asked_for(tmp_path: Path, rng: np.random.Generator) -> None:
    np.savez(tmp_path / "b.npz", experts=np.argsort(rng.random((5, 6, 8)), axis=2)[..., :2])
    batches = ("--batches", tmp_path / "b.npz")
    plan = tmp_path / "plan.json"
    mesh = ("--layer", 1, "--mesh", "2x2", "--time-limit", 20, "--iterations", 100)
    assert run("solve", *batches, *mesh, "-o", plan).exit_code == 0
    assert "fewer than the 9 that are asked for" in fault(run("simulate", plan, *batches, "--batch-count", 9))


def test_words_of_the_command_line_become_values() -> None:
    assert spaced("1.0:3.0:0.25") == np.arange(1, 3.25, 0.25).tolist()
    assert spaced("0.1:0.3:0.1") == [0.1, 0.2, 0.3]
    assert spaced("1.5") == [1.5]
    assert slow_devices("3=1.5, 7=2") == {3: 1.5, 7: 2.0}
    assert slow_devices(None) == {}
    assert dead_devices("3, 17,3") == (3, 17)
    assert policy_names("even-source, optimal,even-source") == ["even-source", "optimal"]
    for wrong in ("", "a", "1:2", "1:2:0", "2:1:1", "nan", "1:1e9:1e-9", "inf:inf:1"):
        with pytest.raises(InputError, match="is not a range"):
            spaced(wrong)


def test_layers_of_a_plan_are_picked(traces: Path) -> None:
    """What is said of one layer does not depend on the others, and a layer that the plan lacks is refused."""
    plan = traces.parent / "whole.json"
    made = run("solve", traces, "--layer", "all", "--mesh", "2x2", "--batch-tokens", 24, "--iterations", 0,
               "--jobs", 1, "--routing", "even-source", "-o", plan)  # fmt: skip
    assert made.exit_code == 0, made.output
    every, two = (json.loads(run("simulate", plan, traces, *more, "--json").stdout)["layers"]
                  for more in ((), ("--layer", "2,0")))  # fmt: skip
    assert list(every) == ["0", "1", "2"]
    assert two == {layer: every[layer] for layer in ("0", "2")}
    said = fault(run("simulate", plan, traces, "--layer", "1,7"))
    assert said == "Error: --layer: the plan has no layer 7; it has 0, 1, 2"
