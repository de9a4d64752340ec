"""Published planners and our plan side by side: each figure is the simulator's, and each gap is from a bound."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from random_problems import WORMHOLE, cost, request_experts, write_request
from running_commands import SHORT, fault, run
from small_model import with_few_batches

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.experiments.compare_rivals import OURS, Comparison, compare
from optimizer.planning.options import AUTO, SolveOptions
from optimizer.report.compare import parts, routing, verdict
from optimizer.report.page.pictures import BROWSERS
from optimizer.report.page.planners import fastest
from optimizer.routing.context import Unit
from optimizer.routing.servers.abilities import ANY, SERVERS, Server
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import simulate
from optimizer.statistics.paired import gain_of_p99
from optimizer.traces.source import TraceInput, open_source

MODEL = Model("drawn", 8, 1, 2)
OPTIMAL = ["optimal tokens", "optimal tiles"]
RULES = [("vllm", "vllm"), ("sglang", "sglang-dynamic")]
"""Servers, and a policy of each."""


def compared(traces: Path, unit: Unit | None = None, policy: str = "even-source", server: Server = ANY) -> Comparison:
    """The comparison of layer 1 of some traces, our plan being made for one policy with 500 moves."""
    source = open_source(
        TraceInput(traces=[str(traces)], batch_tokens=64), [1], MODEL, Mesh(2, 2, 3), lambda share: None
    )
    limit = 300  # seconds, as a search that also compiles is not to be ended by the clock, but by its moves
    options = SolveOptions(limit, iterations=500, routings=(policy,), unit=unit)
    return compare(source, 1, Mesh(2, 2, 3), cost(), options, server=server)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        with_few_batches(patch)
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with twelve small requests."""
    rng, folder = np.random.default_rng(7), tmp_path_factory.mktemp("traces")
    for number in range(12):
        write_request(folder / f"r{number}.npz", request_experts(rng, 20, 3, 8, 2))
    return folder


@pytest.fixture(scope="module")
def found(corpus: Path) -> Comparison:
    """The comparison that most tests look at."""
    return compared(corpus)


@pytest.fixture(scope="module")
def on_servers(corpus: Path) -> dict[str, Comparison]:
    """The comparison on a server for each policy of it that our plan is made for."""
    return {policy: compared(corpus, policy=policy, server=SERVERS[name]) for name, policy in RULES}


def test_every_planner_stands_under_its_own_routing_and_the_optimal_one(found: Comparison) -> None:
    rows = [(row.planned.name, routing(row)) for row in found.rows]
    assert [routed for name, routed in rows if name == "EPLB"] == ["even-source", "metro", *OPTIMAL]
    assert [routed for name, routed in rows if name == "row balance"] == ["capacity-fill", *OPTIMAL]
    assert rows[-3:] == [(OURS, routed) for routed in ("even-source", *OPTIMAL)]
    assert len({name for name, _ in rows}) == 17


def test_figures_are_the_simulators_and_gaps_are_from_the_bound(found: Comparison, corpus: Path) -> None:
    source = open_source(
        TraceInput(traces=[str(corpus)], batch_tokens=64), [1], MODEL, Mesh(2, 2, 3), lambda share: None
    )
    assert found.imbalance_bound >= 1
    for row in found.rows:
        if row.report.routing == "even-source":
            again = simulate(row.planned.placement, source.sets(1).test, MODEL, Mesh(2, 2, 3), cost(), Conditions())
            assert (row.report.latency_us == again.latency_us).all()
        assert row.imbalance_gap == pytest.approx(row.report.imbalance.mean() / found.imbalance_bound - 1)
        assert row.tiles_gap == pytest.approx(row.report.tiles.mean() / found.tiles_bound - 1)
        assert min(row.imbalance_gap, row.tiles_gap) > -1e-9


def test_optimal_routing_of_a_placement_is_no_worse_in_its_unit_than_its_own(found: Comparison) -> None:
    for row in found.rows:
        best = [
            other.report for other in found.rows if other.planned is row.planned and other.report.routing == "optimal"
        ]
        assert (best[0].imbalance <= row.report.imbalance).all()
        assert (best[1].tiles <= row.report.tiles).all()


def test_a_unit_is_the_only_one_and_optimal_is_not_judged_twice(corpus: Path) -> None:
    tiles = compared(corpus, "tiles", "optimal").rows
    assert [routing(row) for row in tiles if row.planned.name == OURS] == ["optimal tiles"]
    assert [routing(row) for row in tiles if row.planned.name == "FlashLB"] == ["even-source", "optimal tiles"]


@pytest.mark.parametrize(("name", "policy"), RULES)
def test_on_a_server_all_are_judged_under_its_own_rules(
    on_servers: dict[str, Comparison], name: str, policy: str
) -> None:
    """Whoever planned: the last row alone is ours under the routing that is best for it, whatever the server runs."""
    server, found = SERVERS[name], on_servers[policy]
    *rows, last = found.rows
    planners = list(dict.fromkeys(row.planned.name for row in rows))
    assert [(row.planned.name, row.report.routing) for row in rows] == [
        (planner, rule) for planner in planners for rule in server.policies
    ]
    assert last.planned is rows[-1].planned
    assert last.planned.name == OURS
    assert last.report.routing in AUTO
    assert found.under(policy)[OURS].report.routing == policy


@pytest.mark.parametrize(("name", "policy"), RULES)
def test_pictures_show_what_the_server_runs(on_servers: dict[str, Comparison], name: str, policy: str) -> None:
    server, found = SERVERS[name], on_servers[policy]
    for planner, row in fastest(found).items():
        ran = [each.report for each in found.rows if each.planned.name == planner and server.runs(each.report.routing)]
        assert row.report in ran
        least = min(float(np.percentile(report.latency_us, 99)) for report in ran)
        assert float(np.percentile(row.report.latency_us, 99)) == least


def test_the_verdict_stands_first_and_says_what_the_rows_do(on_servers: dict[str, Comparison]) -> None:
    found = on_servers["vllm"]
    said, table, *_ = parts(found)
    assert said == verdict(found)
    assert not isinstance(table, str)
    p99 = {row.planned.name: float(np.percentile(row.report.latency_us, 99)) for row in found.rows[:-1]}
    ours, eplb = p99.pop(OURS), p99["EPLB"]
    assert verdict(found).startswith(f"p99 {ours:.1f} us: ")
    assert f"{abs(1 - ours / eplb):.1%} {'below' if ours <= eplb else 'above'} EPLB" in verdict(found)
    assert verdict(found).endswith("under vLLM's own rule (vllm).")
    assert ("best other planner" in verdict(found)) == (min(p99.values()) < eplb)


def test_the_verdict_says_which_differences_may_be_chance(on_servers: dict[str, Comparison]) -> None:
    found = on_servers["vllm"]
    reports = {name: row.report for name, row in found.under("vllm").items()}
    gain = gain_of_p99(reports["EPLB"].latency_us, reports[OURS].latency_us)
    beside_eplb = verdict(found).split(";")[0]
    assert beside_eplb.endswith(" EPLB, which may be chance" if gain.may_be_chance else " EPLB")


def test_the_same_seed_gives_the_same_plans(found: Comparison, corpus: Path) -> None:
    for row, again in zip(found.rows, compared(corpus).rows, strict=True):
        assert (row.planned.placement.slots == again.planned.placement.slots).all()


def test_the_command_prints_a_table_and_the_same_as_json(traces: Path) -> None:
    page, folder = traces.parent / "compared.html", traces.parent / "pictures"
    drawn = ("--png", folder) if any(map(shutil.which, BROWSERS)) else ()
    table = run("compare", traces, "--layer", 1, *SHORT, "--html", page, *drawn)
    assert table.exit_code == 0, table.output
    if drawn:
        assert {path.name for path in folder.iterdir()} == {"planners-bars.png", "planners-distribution.png"}
    assert str(page) in table.stdout.replace("\n", "")
    written = page.read_text()
    for name in ("sequential", "EPLB", "metro", "step maximum", "FlashLB", "row balance", "moeplan", "gap"):
        assert name in table.stdout
    result = run("compare", traces, "--layer", 1, *SHORT, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["layer"] == 1
    assert found["bounds"]["imbalance"] >= 1
    assert {"planner", "routing", "unit", "planned_seconds", "imbalance_gap", "tiles_gap"} <= found["rows"][0].keys()
    for row in found["rows"]:
        assert f"{row['imbalance']['p99']:.3f}" in table.stdout
        assert f"{row['latency_us']['p99']:.1f}" in table.stdout
        assert f"<td>{row['latency_us']['p99']:.1f}</td>" in written


def test_counts_alone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    path.write_text(json.dumps({"logical_count": np.ones((2, 8), dtype=int).tolist()}))
    said = fault(run("compare", path, "--layer", 0, "--top-k", 2, "--mesh", "2x2", "--hardware", WORMHOLE))
    assert "token traces" in said
