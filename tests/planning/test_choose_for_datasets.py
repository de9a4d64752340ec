"""Plans for many data sets: chosen and judged as plain loops do it, blind to what was left out, and reported whole."""

import json
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import random_placement, small_problem
from rich.console import Console
from rich.table import Table

from formulations.choice.robust_choice import Criterion, criterion_value
from formulations.kit.arrays import Floats
from formulations.kit.solver import Limits
from optimizer.domain.placement import Placement
from optimizer.planning.choose_for_datasets import (
    FIGURES,
    Choices,
    LayerPool,
    Pools,
    Robustness,
    choose_plans,
    latency_figures,
)
from optimizer.report.page.robustness_page import robustness_page
from optimizer.report.rendering import WIDTH, print_parts
from optimizer.report.robustness import (
    WITHOUT,
    as_json,
    drift_table,
    latency_table,
    lines,
    parts,
    regret_table,
)
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import simulate
from optimizer.statistics.drift import Drift
from optimizer.traces.datasets import MIX, ROBUST, mix_without

LIMITS = Limits(seconds=20)
CRITERIA = st.sampled_from(Criterion)


def pools_of(seed: int, sets: int, layers: int, mix: bool = True, weights: Floats | None = None) -> Pools:
    """Each layer has a candidate or two of each data set, in mixed order, and if wanted of the mix."""
    rng = np.random.default_rng(seed)
    names = tuple("abcdef"[:sets])
    made = []
    for layer in range(layers):
        on = [*names, *rng.choice(names, 1)]
        on += (
            [MIX] * int(rng.integers(1, 3)) + [mix_without(name) for name in names if rng.random() < 0.7] if mix else []
        )
        rng.shuffle(on)
        scores = rng.integers(400, 500, (len(on), sets)).astype(float)
        placements = tuple(Placement(np.array([[layer, place]])) for place in range(len(on)))
        made.append(LayerPool(3 + layer, placements, tuple(on), scores))
    return Pools(names, np.full(sets, 1 / sets) if weights is None else weights, tuple(made))


def judged(pools: Pools, seed: int = 0) -> list[Floats]:
    """Test figures of all candidates."""
    rng = np.random.default_rng(seed)
    return [rng.uniform(400, 500, (*pool.selection.shape, len(FIGURES))) for pool in pools.layers]


@st.composite
def drawn(draw: st.DrawFn) -> Pools:
    """Few layers, data sets and candidates; some data sets without a weight."""
    sets = draw(st.integers(1, 3))
    raw = draw(st.lists(st.integers(0, 3), min_size=sets, max_size=sets).filter(any))
    weights = np.array(raw) / sum(raw)
    return pools_of(draw(st.integers(0, 10**6)), sets, draw(st.integers(1, 3)), draw(st.booleans()), weights)


@given(drawn(), CRITERIA)
def test_plans_made_on_one_data_set_or_the_mix_are_the_best_of_these(pools: Pools, criterion: Criterion) -> None:
    choices = choose_plans(pools, criterion, LIMITS)
    mixed = all(MIX in pool.made_on for pool in pools.layers)
    assert choices.names == (*pools.names, *([MIX] if mixed else []), ROBUST)
    for name, plan in zip(choices.names[:-1], choices.plans.tolist(), strict=False):
        for pool, place in zip(pools.layers, plan, strict=True):
            score = pool.selection @ pools.weights if name == MIX else pool.selection[:, pools.names.index(name)]
            assert pool.made_on[place] == name
            assert score[place] == min(s for s, on in zip(score, pool.made_on, strict=True) if on == name)


@given(drawn(), CRITERIA)
def test_the_robust_plan_is_the_best_of_all_candidates(pools: Pools, criterion: Criterion) -> None:
    choices = choose_plans(pools, criterion, LIMITS)
    every = product(*(range(len(pool.made_on)) for pool in pools.layers))
    best = min(criterion_value(pools.scores, np.array(plan), pools.weights, criterion) for plan in every)
    assert choices.outcome.objective == pytest.approx(best, abs=1e-3)
    assert criterion_value(pools.scores, choices.plans[-1], pools.weights, criterion) == pytest.approx(best, abs=1e-3)
    slots = [placement.slots.tolist() for placement in choices.placements.values()]
    assert list(choices.placements) == [pool.layer for pool in pools.layers]
    assert slots == [[[layer, place]] for layer, place in enumerate(choices.plans[-1].tolist())]


def without(pools: Pools, left: int) -> Pools:
    """The candidates and scores there would be without a data set, whose mix would be of the others."""
    keep = [place for place in range(len(pools.names)) if place != left]
    layers = []
    for pool in pools.layers:
        apart = mix_without(pools.names[left])
        rows = [row for row, on in enumerate(pool.made_on) if on == apart or on in {*pools.names} - {pools.names[left]}]
        placements = tuple(pool.placements[row] for row in rows)
        on = tuple(pool.made_on[row].replace(apart, MIX) for row in rows)
        layers.append(LayerPool(pool.layer, placements, on, pool.selection[np.ix_(rows, keep)]))
    weights = pools.weights[keep] if pools.weights[keep].any() else np.ones(len(keep))
    return Pools(tuple(pools.names[place] for place in keep), weights / weights.sum(), tuple(layers))


@given(drawn(), CRITERIA)
def test_what_is_left_out_has_no_part_in_the_choice(pools: Pools, criterion: Criterion) -> None:
    choices = choose_plans(pools, criterion, LIMITS)
    assert len(choices.left_out) == (len(pools.names) if len(pools.names) > 1 else 0)
    for left, plan in enumerate(choices.left_out.tolist()):
        alone = choose_plans(without(pools, left), criterion, LIMITS)
        placed = [pool.placements[place] for pool, place in zip(pools.layers, plan, strict=True)]
        assert placed == list(alone.placements.values())


@given(drawn(), CRITERIA, st.integers(0, 99))
def test_latencies_are_sums_over_layers(pools: Pools, criterion: Criterion, seed: int) -> None:
    choices, test = choose_plans(pools, criterion, LIMITS), judged(pools, seed)
    found = Robustness.of(choices, test)
    for place, plan in enumerate(choices.plans.tolist()):
        for one in range(len(pools.names)):
            for number, figure in enumerate(FIGURES):
                total = sum(float(layer[chosen, one, number]) for layer, chosen in zip(test, plan, strict=True))
                assert found.of_figure(figure)[place, one] == pytest.approx(total)
                own = choices.plans[one].tolist()
                best = sum(float(layer[chosen, one, number]) for layer, chosen in zip(test, own, strict=True))
                assert found.own(figure)[one] == pytest.approx(best)
                assert found.regret(figure)[place, one] == pytest.approx(total - best, abs=1e-6)
        weighed = [found.of_figure("p99")[place, one] for one in np.flatnonzero(pools.weights)]
        assert found.worst("p99")[place] == max(weighed)
    for one, plan in enumerate(choices.left_out.tolist()):
        for number in range(len(FIGURES)):
            total = sum(float(layer[chosen, one, number]) for layer, chosen in zip(test, plan, strict=True))
            assert found.left_out[one, number] == pytest.approx(total)


@given(drawn(), CRITERIA)
def test_only_what_was_chosen_needs_test_figures(pools: Pools, criterion: Criterion) -> None:
    choices, whole = choose_plans(pools, criterion, LIMITS), judged(pools)
    few = [np.full(layer.shape, np.nan) for layer in whole]
    for layer, (known, needed) in enumerate(zip(few, choices.needed.values(), strict=True)):
        known[needed] = whole[layer][needed]
    one, other = Robustness.of(choices, whole), Robustness.of(choices, few)
    assert one.summary() == other.summary()
    few[-1][choices.needed[pools.layers[-1].layer][-1]] = np.nan
    with pytest.raises(ValueError, match="are missing"):
        Robustness.of(choices, few)


def test_a_layer_without_a_candidate_of_a_data_set_is_refused() -> None:
    placement = Placement(np.array([[0]]))
    for made_on, scores in ((("a",), np.ones((1, 2))), (("a", "b"), np.ones((2, 3)))):
        with pytest.raises(ValueError, match="layer 7"):
            Pools(("a", "b"), np.array([0.5, 0.5]), (LayerPool(7, (placement,) * len(made_on), made_on, scores),))
    with pytest.raises(ValueError, match="do not fit together"):
        LayerPool(7, (placement,), ("a", "b"), np.ones((1, 2)))


def test_figures_are_those_of_the_latency() -> None:
    problem, sets = small_problem(0)
    placement = random_placement(np.random.default_rng(0), problem.model.experts, problem.mesh)
    report = simulate(placement, sets.test, problem.model, problem.mesh, problem.cost, Conditions())
    said: Any = report.summary()["latency_us"]
    assert latency_figures(report) == pytest.approx([said[name] for name in FIGURES])


def found_by(sets: int, mix: bool = True, names: tuple[str, ...] | None = None) -> Robustness:
    """A whole result."""
    pools = pools_of(1, sets, 4, mix)
    if names is not None:
        called = dict(zip(pools.names, names, strict=True))
        layers = [
            LayerPool(pool.layer, pool.placements, tuple(called.get(on, on) for on in pool.made_on), pool.selection)
            for pool in pools.layers
        ]
        pools = Pools(names, pools.weights, tuple(layers))
    choices: Choices = choose_plans(pools, Criterion.WORST, LIMITS)
    return Robustness.of(choices, judged(pools))


def text_of(table: Table) -> list[list[str]]:
    """The cells of each row, as a terminal shows them."""
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    rows = [line.split("│")[1:-1] for line in captured.get().splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in row] for row in rows]


def test_tables_have_a_row_for_each_plan_and_one_for_data_sets_left_out() -> None:
    found = found_by(3)
    labels = ["1 a", "2 b", "3 c", MIX, "robust (worst)", WITHOUT]
    fast, slow = text_of(latency_table(found)), text_of(regret_table(found))
    assert [row[0] for row in fast] == [row[0] for row in slow] == labels
    for place, row in enumerate(fast[:-1]):
        values = found.of_figure("p99")[place]
        assert row[1:] == [f"{value:,.0f}" for value in (*values, values.max())]
    own = found.own("p99")
    assert fast[-1][1:-1] == [f"{value:,.0f}" for value in found.left_out[:, FIGURES.index("p99")]]
    losses = found.of_figure("p99")[4] / own - 1
    assert slow[4][1:-1] == [f"{loss:+.1%}" if abs(loss) < 0.0995 else f"{loss:+.0%}" for loss in losses]
    assert [slow[place][place + 1] for place in range(3)] == ["+0.0%"] * 3


def test_a_dozen_data_sets_fit_on_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    pools = pools_of(0, 3, 58)
    names = tuple(f"a_long_data_set_name_{place}" for place in range(12))
    layers = [
        LayerPool(pool.layer, (pool.placements[0],) * 12, names, np.repeat(pool.selection[:1], 12, axis=0).repeat(4, 1))
        for pool in pools.layers
    ]
    whole = Pools(names, np.full(12, 1 / 12), tuple(layers))
    found = Robustness.of(choose_plans(whole, Criterion.MEAN, LIMITS), judged(whole))
    print_parts(parts(found, drift_of(names)), Console(width=WIDTH, highlight=False, soft_wrap=True))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 121
    assert "…" not in printed
    assert f" {found.of_figure('p99')[11, 0] / 1000:.2f} " in printed
    assert "a_long_data_set_name_11" in printed
    assert [row[0] for row in text_of(regret_table(found))][10:] == ["11", "12", "robust (mean)", WITHOUT]


def test_without_mix_or_other_data_sets_there_is_less_to_say() -> None:
    assert [row[0] for row in text_of(latency_table(found_by(2, mix=False)))][2:] == ["robust (worst)", WITHOUT]
    alone = found_by(1)
    assert [row[0] for row in text_of(regret_table(alone))] == ["1 a", MIX, "robust (worst)"]
    assert not any("Left out" in line for line in lines(alone))
    assert "mix" not in lines(found_by(2, mix=False))[0]


def test_what_the_tables_come_to_is_said_in_words() -> None:
    found = found_by(3)
    worst = found.worst("p99")
    slowest, left_out, proof = lines(found)
    assert f"robust {worst[-1]:,.0f} us" in slowest
    assert f"made on the mix {worst[3]:,.0f}" in slowest
    assert f"on one data set {min(worst[:3]):,.0f} ({found.datasets[int(worst[:3].argmin())]})" in slowest
    loss = found.left_out[:, FIGURES.index("p99")] / found.own("p99") - 1
    assert f"by {loss.mean():.1%} on average and {loss.max():.1%} at most" in left_out
    assert "better by more than 0.0 us" in proof


def drift_of(names: tuple[str, ...]) -> Drift:
    rng = np.random.default_rng(0)
    return Drift.of(names, [3, 4], *rng.integers(1, 9, (2, len(names), 2, 5)))


def test_drift_has_its_own_noise_on_the_diagonal() -> None:
    drift = drift_of(("a", "b"))
    cells = text_of(drift_table(drift))
    assert cells[0] == ["1 a", f"{drift.within[0].mean():.2f}", f"{drift.between[0, 1].mean():.2f}"]
    assert drift.between[0, 0].max() == 0  # the table's diagonal is not written into the figures


def test_json_is_json_and_says_all(capsys: pytest.CaptureFixture[str]) -> None:
    found, drift = found_by(3), drift_of(("a", "b", "c"))
    said = json.loads(json.dumps(as_json(found, drift)))
    of = said["robustness"]
    assert [plan["plan"] for plan in of["plans"]] == list(found.plans)
    assert of["plans"][0]["latency_us"]["p50"]["b"] == found.latency[0, 1, FIGURES.index("p50")]
    assert of["plans"][3]["regret_us"]["p99"]["c"] == found.regret("p99")[3, 2]
    assert of["plans"][4]["worst_us"]["p99"] == found.worst("p99")[4]
    assert of["left_out"][1]["dataset"] == "b"
    assert of["left_out"][1]["latency_us"]["mean"] == found.left_out[1, 0]
    assert of["left_out"][1]["own_us"]["mean"] == found.latency[1, 1, 0]
    assert (of["criterion"], of["weights"]) == ("worst", {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    assert said["drift"]["datasets"] == ["a", "b", "c"]
    print_parts(parts(found, drift), Console(width=WIDTH, highlight=False, soft_wrap=True))
    printed = capsys.readouterr().out
    assert all(line in printed for line in lines(found))


def test_names_are_shown_as_they_are_and_the_picture_needs_no_network() -> None:
    names = ("x[red]y", "</script><b>")
    found = found_by(2, names=names)
    assert [row[0] for row in text_of(latency_table(found))][:2] == ["1 x[red]y", "2 </script><b>"]
    assert text_of(drift_table(drift_of(names)))[0][0] == "1 x[red]y"
    page = robustness_page(found)
    assert "x[red]y" in page
    assert "</script><b>" not in page
    assert "robust (worst)" in page
    assert "<script src" not in page
