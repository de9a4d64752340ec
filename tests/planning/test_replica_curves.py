"""Curves of cost against extra replicas, and a budget shared out over layers, against doing the same by hand."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import small_problem
from reference_split import least_feasible, ortools_carries
from running_commands import fault, other_notes, run

from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.planning.replica_curves import (
    JUDGED,
    POINTS,
    Figures,
    ReplicaCurve,
    curve_of,
    most_extra,
    points,
    share_slots,
    task_of,
)
from optimizer.report.slots import enough, ranges
from optimizer.search.seeds.flexibility import flexibility
from optimizer.search.seeds.quick import quick
from optimizer.search.seeds.risk import risk
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import simulate
from optimizer.traces.batches import Batches

MESH = ("--mesh", "2x2", "--slots", 4, "--batch-tokens", 24, "--jobs", 1)
Seed = Callable[[Problem], Placement]


@given(st.integers(0, 5000), st.lists(st.integers(0, 9000), max_size=3))
def test_points_go_from_none_to_all_and_are_not_too_many(most: int, wanted: list[int]) -> None:
    found = points(most, wanted).tolist()
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (0, most)
    assert {min(number, most) for number in wanted} <= set(found)
    bare = points(most).tolist()
    assert min(POINTS, most) <= len(bare) - 1
    assert len(bare) <= 2 * POINTS + 2 + most.bit_length()


def test_points_of_the_home_mesh() -> None:
    assert points(112).tolist() == [0, 1, 2, 4, *range(8, 113, 8)]


def seeds(routing: str, seed: int, layer: int) -> list[Seed]:
    if routing == "optimal":
        return [flexibility]
    return [lambda problem: quick(problem, np.random.default_rng([seed, layer])), risk]


def by_hand(problem: Problem, placement: Placement, batches: Batches, routing: str) -> list[float]:
    """Imbalance, tiles and latency; for optimal routing the first two by a max-flow that knows nothing of ours."""
    report = simulate(placement, batches, problem.model, problem.mesh, problem.cost, Conditions(routing))
    peaks, tiles = report.device_load.max(axis=1).tolist(), report.device_tiles.max(axis=1).tolist()
    load, devices = batches.load(problem.model.experts), problem.mesh.devices
    if routing == "optimal":
        holders = [set(np.argwhere(placement.slots == e)[:, 0].tolist()) for e in range(problem.model.experts)]
        peaks, tiles = (
            [least_feasible(ortools_carries, (-(-units // tile)).tolist(), holders, devices) for units in load]
            for tile in (1, 32)
        )
    imbalance = [peak * devices / sum(units) for peak, units in zip(peaks, load.tolist(), strict=True)]
    return [float(np.mean(values)) for values in (imbalance, tiles, report.latency_us)]


@pytest.mark.parametrize("replicas", [None, "auto"])
@pytest.mark.parametrize("routing", ["even-source", "optimal"])
def test_a_curve_is_that_of_the_best_placements_by_hand(routing: str, replicas: str | None) -> None:
    """In eight slots more than there are experts, all placements that fit in two slots of each device are tried there,
    too: with one replica of the shared expert to begin with if four have no room."""
    sizes = {"rows": 4, "cols": 2, "routed": 14, "top_k": 4, "replicas": replicas}
    problem, sets = small_problem(4, slots=3, **sizes)
    narrow, _ = small_problem(4, slots=2, **sizes)
    curve = curve_of(task_of(7, problem, sets, Conditions(routing), 0))
    assert (curve.layer, curve.batches, curve.tokens) == (7, 6, 70)
    others = 15 if replicas == "auto" else 14 + 4
    assert set(curve.extra.tolist()) == {*points(most_extra(problem)).tolist(), 1 if replicas == "auto" else 0}
    latency, made, best = [], [], []
    for number in curve.extra.tolist():
        for on_mesh in [problem, *([narrow] if others + number <= 16 else [])]:
            made += [seed(replace(on_mesh, extra_replicas=number)) for seed in seeds(routing, 0, 7)]
        made = [placement.with_slots(3) for placement in made]
        latency = [by_hand(problem, placement, sets.selection, routing)[2] for placement in made]
        best.append(made[int(np.argmin(latency))])
    for point, best_here in enumerate(best):
        for part, figures in ((sets.selection, curve.selection), (sets.test, curve.test)):
            found = [values[point] for values in figures]
            assert found == pytest.approx(by_hand(problem, best_here, part, routing))


@given(st.integers(0, 10**6), st.sampled_from(["even-source", "optimal"]))
def test_more_slots_never_hurt_where_placements_are_chosen(seed: int, routing: str) -> None:
    problem, sets = small_problem(seed, extra=5)
    curve = curve_of(task_of(0, problem, sets, Conditions(routing), seed))
    assert curve.extra[-1] == min(5, most_extra(problem))
    assert (np.diff(curve.selection.latency_us) <= 0).all()


def test_batches_are_judged_all_over_their_set() -> None:
    problem, sets = small_problem(1)
    repeated = Batches(np.tile(sets.test.experts, (200, 1, 1)), np.tile(sets.test.source_row, (200, 1)))
    task = task_of(0, problem, sets._replace(test=repeated), Conditions(), 0)
    assert JUDGED / 2 < task.test.count <= JUDGED
    step = -(-1200 // JUDGED)
    assert (task.test.experts == repeated.experts[::step]).all()
    assert (task.test.source_row == repeated.source_row[::step]).all()


def test_wanted_numbers_are_points_as_far_as_there_is_room() -> None:
    problem, sets = small_problem(1)
    most = most_extra(problem)
    assert task_of(0, problem, sets, Conditions(), 0, (3, 1000)).extra.tolist() == sorted({*points(most).tolist(), 3})


def drawn(layer: int, extra: list[int], latency: list[float], test: list[float] | None = None) -> ReplicaCurve:
    chosen, shown = (
        Figures(np.zeros(len(extra)), np.zeros(len(extra)), np.array(y)) for y in (latency, test or latency)
    )
    return ReplicaCurve(layer, np.array(extra), chosen, shown, 6, 70)


@given(
    st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=1, max_size=4),
    st.sets(st.integers(1, 20), min_size=3, max_size=3),
    st.integers(0, 70),
)
def test_a_budget_goes_where_the_sum_is_least(rows: list[list[int]], sizes: set[int], budget: int) -> None:
    extra = [0, *sorted(sizes)]
    curves = [drawn(layer, extra, sorted(row, reverse=True)) for layer, row in enumerate(rows)]
    shares = share_slots(curves, budget)
    ways = product(range(4), repeat=len(curves))
    allowed = [way for way in ways if sum(extra[point] for point in way) <= budget]
    sums = [sum(curve.selection.latency_us[p] for curve, p in zip(curves, way, strict=True)) for way in allowed]
    assert sum(shares.extra.values()) <= budget
    assert sum(curve.selection.latency_us[p] for curve, p in zip(curves, shares.shared, strict=True)) == min(sums)
    assert extra[shares.equal[0]] == max(number for number in extra if number * len(curves) <= budget)
    assert len(set(shares.equal.tolist())) == 1


def test_who_gains_nothing_gets_nothing_and_figures_are_of_test_batches() -> None:
    curves = [
        drawn(3, [0, 8, 16], [9, 5, 4], [10, 6, 5]),
        drawn(4, [0, 8, 16], [7, 7, 7], [8, 8, 8]),
        drawn(9, [0, 8, 16], [9, 8, 2], [10, 9, 3]),
    ]
    shares = share_slots(curves, 24)
    assert shares.extra == {3: 8, 4: 0, 9: 16}
    assert shares.test(shares.shared).latency_us == pytest.approx((6 + 8 + 3) / 3)
    assert shares.test(shares.equal).latency_us == pytest.approx((6 + 8 + 9) / 3)
    with pytest.raises(ValueError, match="different numbers"):
        share_slots([*curves, drawn(5, [0, 8], [1, 1])], 24)


def test_enough_is_where_a_figure_stays_near_its_least() -> None:
    curves = [drawn(3, [0, 8, 16, 24, 32], [9, 5, 5.04, 5.06, 5])]
    assert enough(curves) == {"imbalance": 0, "tiles": 0, "latency_us": 32}
    assert enough([drawn(3, [0, 8, 16], [9, 5, 5.04])])["latency_us"] == 8
    assert enough([drawn(3, [0, 8, 16], [9, 5, 6])])["latency_us"] == 16


def test_layers_are_named_as_the_option_takes_them() -> None:
    assert ranges([5, 3, 4, 9, 11, 12]) == "3-5, 9, 11-12"


def test_the_command_prints_what_its_json_and_csv_say(traces: Path) -> None:
    file = traces.parent / "slots.csv"
    asked = ("slots", traces, *MESH, "--slot-budget", 9, "--csv", file)
    table, found = run(*asked), json.loads(run(*asked, "--json").stdout)
    assert table.exit_code == 0, table.output
    assert other_notes(table.stderr) == f"Note: 12 requests\nNote: written: {file}\n"
    assert list(found["layers"]) == ["0", "1", "2"]
    rows = list(csv.DictReader(file.open()))
    for layer, curve in found["layers"].items():
        own = [row for row in rows if row["layer"] == layer]
        assert [int(row["extra"]) for row in own] == curve["extra"] == list(range(9))
        for name in ("imbalance", "tiles", "latency_us"):
            assert [float(row[name]) for row in own] == curve[name]
        chosen = [int(row["extra"]) for row in own if row["shared"] == "1"]
        assert chosen == [found["budget"]["extra"][layer]]
    latency = np.array([curve["latency_us"] for curve in found["layers"].values()])
    for point in range(9):
        assert f"{latency[:, point].mean():.1f}" in table.stdout
    assert found["budget"]["equal"]["used"] == 9
    assert found["budget"]["equal"]["latency_us"] == pytest.approx(latency[:, 3].mean())
    assert f"from {found['enough']['latency_us']} extra replicas" in table.stdout


def test_processes_do_not_matter_nor_what_other_layers_there_are(traces: Path) -> None:
    every = json.loads(run("slots", traces, *MESH[:-1], 2, "--routing", "optimal", "--json").stdout)
    one = json.loads(run("slots", traces, *MESH, "--routing", "optimal", "--layer", 1, "--json").stdout)
    assert one["layers"] == {"1": every["layers"]["1"]}
    assert "budget" not in one


def test_limits_to_replicas_end_the_curve(traces: Path) -> None:
    limits = ("--shared-experts", 1, "--shared-replicas", 2, "--replicas", 3)
    found = json.loads(run("slots", traces, *MESH, "--layer", 0, *limits, "--json").stdout)
    assert found["layers"]["0"]["extra"] == [0, 1, 2, 3]


def test_what_cannot_be_used_is_one_line(traces: Path, tmp_path: Path) -> None:
    counts = tmp_path / "counts.json"
    counts.write_text(json.dumps({"logical_count": np.ones((2, 8), dtype=int).tolist()}))
    assert "token traces" in fault(run("slots", counts, "--top-k", 2, *MESH))
    assert "--layer: 'x' does not name layers" in fault(run("slots", traces, "--layer", "x", *MESH))
    assert "layer 7" in fault(run("slots", traces, "--layer", 7, *MESH))
    assert "--csv" in fault(run("slots", traces, *MESH, "--csv", tmp_path / "none" / "slots.csv"))
    assert "do not fit" in fault(run("slots", traces, *MESH, "--slots", 1))
    assert run("slots", traces, *MESH, "--slot-budget", -1).exit_code == 2
