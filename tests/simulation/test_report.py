"""Figures drawn from a simulation equal those worked out by hand, and their intervals are as wide as they should be."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import cost

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.report import FIGURES, OFTEN, Queues, Rerouting, SimulationReport
from optimizer.simulation.simulator import simulate
from optimizer.statistics.loads import INTERVAL, confidence, five_figures
from optimizer.traces.batches import Batches

MESH = Mesh(4, 1, 2)
EDGE_US = 14336 / 27900  # a message on an edge of the default hardware


def run(slots: list[list[int]], batches: list[list[list[int]]], rows: list[list[int]], **more: Any) -> SimulationReport:
    """The report on a hand-made layer on a ring of four rows, given the experts of each token of each batch."""
    model = Model("hand", int(np.max(slots)) + 1, 0, 1)
    data = Batches(np.array(batches), np.array(rows))
    return simulate(Placement(np.array(slots)), data, model, MESH, cost(), Conditions(**more))


FOUR = [[0, -1], [1, -1], [2, -1], [3, -1]]


def test_the_critical_device_expert_and_links_of_each_batch_are_found() -> None:
    """First 33 tokens of row 0 climb to expert 1 and begin a second tile; in batch 2 they descend to 3."""
    report = run(FOUR, [[[1]] * 33 + [[0]] * 7, [[3]] * 33 + [[0]] * 7], [[0] * 40] * 2)
    assert report.compute_us.tolist() == [247.5, 247.5]
    assert report.critical.tolist() == [[1, 1, 0, 5], [3, 3, 4, 3]]
    names = [report.network.link_name(link) for link in (0, 5, 4, 3)]
    assert names == [
        "column 0, row 0 to 1",
        "column 0, row 1 to 0",
        "column 0, row 0 to 3",
        "column 0, row 3 to 0",
    ]
    assert report.dispatch_us.tolist() == pytest.approx([20.7 + 33 * EDGE_US] * 2)
    assert report.combine_us.tolist() == pytest.approx([32.0 + 33 * EDGE_US] * 2)


def test_of_devices_that_take_equally_long_the_one_with_most_tokens_is_critical() -> None:
    report = run(FOUR, [[[0], [1], [1], [2]]], [[0, 1, 1, 2]])
    assert report.critical.tolist() == [[1, 1, -1, -1]]
    report = run([[0, 1], [2, -1], [3, -1], [-1, -1]], [[[0], [1], [1], [2]]], [[0, 0, 0, 1]])
    assert report.critical[0, :2].tolist() == [0, 1]


def test_a_slow_device_is_critical_for_its_time_and_not_for_its_load() -> None:
    tokens, rows = [[[0]] * 40 + [[2]] * 3], [[0] * 40 + [2] * 3]
    assert run(FOUR, tokens, rows).critical[0, :2].tolist() == [0, 0]
    slow = run(FOUR, tokens, rows, slow={2: 3.0})
    assert slow.critical[0, :2].tolist() == [2, 2]
    assert slow.compute_us.tolist() == [3 * 117.5]


def test_what_was_critical_oftenest_comes_first_with_its_share_of_batches() -> None:
    batches = [[[expert]] * 4 for expert in (1, 3, 1, 2, 1, 3, 0, 1)]
    often = run(FOUR, batches, [[0] * 4] * 8).often()
    assert (
        often["device"]
        == often["expert"]
        == [
            {"id": 1, "share": 0.5},
            {"id": 3, "share": 0.25},
            {"id": 0, "share": 0.125},
        ]
    )
    assert len(often["device"]) == OFTEN
    assert often["dispatch_link"] == [
        {"id": 0, "share": 0.625, "name": "column 0, row 0 to 1"},
        {"id": 4, "share": 0.25, "name": "column 0, row 0 to 3"},
    ]
    assert [link["share"] for link in often["combine_link"]] == [0.5, 0.25, 0.125]


def test_shares_of_the_terms_are_of_the_summed_latency() -> None:
    report = run(FOUR, [[[0]] * 33, [[1]] * 33], [[0] * 33] * 2)
    dispatch, compute, combine = 2 * 20.7 + 33 * EDGE_US, 2 * 247.5, 2 * 32 + 33 * EDGE_US
    for price in (0.0, 50.0):
        priced = replace(report, routing_us=np.full(2, price))
        parts = {"routing": 2 * price, "dispatch": dispatch, "compute": compute, "combine": combine}
        total = sum(parts.values())
        assert priced.shares() == pytest.approx({name: part / total for name, part in parts.items()})
        assert priced.latency_us.sum() == pytest.approx(total)


def test_links_say_messages_per_batch() -> None:
    found = run(FOUR, [[[1]] * 4, [[2]] * 4], [[0] * 4] * 2).links()
    assert found["dispatch"] == [3.0, 1.0, 0, 0, 1.0, 0, 0, 1.0]
    assert found["combine"] == [0, 0, 1.0, 1.0, 0, 3.0, 1.0, 0]


def test_a_summary_holds_every_figure_and_what_was_critical() -> None:
    report = run(FOUR, [[[1], [2]], [[3], [0]]], [[0, 0]] * 2)
    summary: dict[str, Any] = report.summary()
    assert [summary[name] for name in ("batches", "tokens", "routing", "unit", "moe_op", "timing")] == [
        2, 2, "even-source", "tiles", "optimized", "barrier",
    ]  # fmt: skip
    assert summary["dispatch_model"] == "link"
    for name in FIGURES:
        assert summary[name] == five_figures(getattr(report, name))
    assert summary["copies_per_token"]["mean"] == 1
    assert summary["moved_per_token"] == {"mean": 0.75, "p50": 0.75, "p95": 0.975, "p99": 0.995, "max": 1.0}
    assert summary["hops"]["max"] == 1.5
    assert (summary["shares"], summary["critical"]) == (report.shares(), report.often())
    assert "queues" not in summary
    assert "rerouting" not in summary


def test_imbalance_and_tiles_are_those_of_the_fullest_device() -> None:
    report = run(FOUR, [[[1]] * 33 + [[0]] * 7], [[0] * 40])
    assert report.device_load.tolist() == [[7, 33, 0, 0]]
    assert report.device_tiles.tolist() == [[1, 2, 0, 0]]
    assert report.device_active.tolist() == [[1, 1, 0, 0]]
    assert report.imbalance.tolist() == [3.3]
    assert report.tiles.tolist() == [2]
    assert report.active.tolist() == [1]


def test_a_summary_of_rerouting_gives_shares_of_routed_pairs() -> None:
    moved, rerouted, dropped, over = (np.array(pairs) for pairs in ([4, 0], [1, 2], [3, 5], [0, 2]))
    kept = np.array([0.5, 1.0])
    found = Rerouting(1.25, 7, moved, rerouted, dropped, over, kept, 40, next_estimated=True, weights_estimated=False)
    assert found.summary() == {
        "capacity_factor": 1.25,
        "capacity": 7,
        "moved": 0.05,
        "rerouted": 0.0375,
        "dropped": 0.1,
        "over_capacity": 0.025,
        "gate_weight_kept": 0.75,
        "next_expert": "estimated",
        "gate_weights": "recorded",
    }


def test_queues_are_means_over_batches_however_they_come() -> None:
    waiting, busy, end = np.array([[1.0, 2], [3, 4], [5, 9]]), np.array([[10.0, 0], [20, 0], [30, 3]]), [40.0, 50, 90]
    whole = Queues.none(2).added(waiting, busy, np.array(end))
    parts = (
        Queues.none(2).added(waiting[:1], busy[:1], np.array(end[:1])).added(waiting[1:], busy[1:], np.array(end[1:]))
    )
    assert (
        whole.summary()
        == parts.summary()
        == {
            "waiting_us": [3.0, 5.0],
            "busy_us": [20.0, 1.0],
            "idle_us": [40.0, 59.0],
        }
    )


def figures(seed: int, batches: int) -> Floats:
    """Random values of a figure, `[batch]`, of a skewed distribution."""
    return np.random.default_rng(seed).lognormal(sigma=0.3, size=batches)


@given(st.integers(0, 10**6), st.integers(1, 400))
def test_intervals_hold_the_point_estimates(seed: int, batches: int) -> None:
    values = figures(seed, batches)
    found, point = confidence({"x": values})["x"], five_figures(values)
    assert tuple(found) == INTERVAL
    for name, (low, high) in found.items():
        assert low <= point[name] + 1e-12
        assert point[name] <= high + 1e-12


def width(values: Floats | Ints, name: str) -> float:
    """The width of the 95 % interval of one statistic of values `[batch]`."""
    low, high = confidence({"x": values})["x"][name]
    return high - low


@pytest.mark.parametrize("name", INTERVAL)
def test_intervals_narrow_with_more_batches(name: str) -> None:
    few, many = ([width(figures(seed, batches), name) for seed in range(8)] for batches in (100, 1600))
    assert np.mean(many) < np.mean(few) / 1.8


def iid_width(values: Floats, seed: int) -> float:
    """The width of a plain bootstrap interval of the mean, for which single batches are drawn."""
    rng = np.random.default_rng(seed)
    means = [rng.choice(values, len(values)).mean() for _ in range(400)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(high - low)


def test_intervals_of_the_mean_are_wider_for_batches_that_resemble_their_neighbours() -> None:
    rng, slow, fast = np.random.default_rng(0), [], []
    for seed in range(6):
        noise = rng.standard_normal(1024 + 20)
        alike = np.convolve(noise, np.ones(21), mode="valid")  # a moving sum over 21 batches
        slow.append(width(alike, "mean") / iid_width(alike, seed))
        independent = rng.permutation(alike)
        fast.append(width(independent, "mean") / iid_width(independent, seed))
    assert np.mean(slow) > 2.5
    assert np.mean(fast) == pytest.approx(1, abs=0.2)


def test_intervals_are_the_same_in_every_run_and_scale_with_the_figure() -> None:
    values = figures(1, 300)
    both = confidence({"x": values, "y": 2 * values})
    assert confidence({"x": values})["x"] == both["x"]
    assert [bound for name in INTERVAL for bound in both["y"][name]] == pytest.approx(
        [2 * bound for name in INTERVAL for bound in both["x"][name]]
    )


def test_the_interval_of_a_mean_covers_it_about_as_often_as_is_said() -> None:
    truth, held = np.exp(0.3**2 / 2), 0
    for seed in range(200):
        low, high = confidence({"x": figures(seed, 400)})["x"]["mean"]
        held += low <= truth <= high
    assert 0.88 <= held / 200 <= 0.99


def test_a_report_has_intervals_of_all_its_figures() -> None:
    report = run(FOUR, [[[1], [2]], [[3], [0]]], [[0, 0]] * 2)
    assert set(report.confidence()) == set(FIGURES)
    assert report.network == Network(MESH, "row", "rings", 0.79)
    constant = run(FOUR, [[[1]]] * 5, [[0]] * 5)
    assert constant.confidence()["latency_us"]["p99"] == pytest.approx((constant.latency_us[0],) * 2)
