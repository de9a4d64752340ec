"""What forces the peaks of a plan: named sets prove the exact peak of their batch, without any solver."""

from dataclasses import replace
from fractions import Fraction
from itertools import chain, combinations
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import cost, small_problem
from reference import best_split_peak
from running_commands import fault, run, solve

from formulations.batches.replica_routing import CriticalSet, least_peaks
from optimizer.domain.placement import Placement
from optimizer.planning import certificates as module
from optimizer.planning.certificates import Certificate, certificates
from optimizer.search.seeds.orders import random_permutation

pytestmark = pytest.mark.usefixtures("few_batches")


def proves(found: Certificate, units: np.ndarray, placement: Placement) -> bool:
    """Whether a certificate's experts have their load and their devices, counted slot by slot."""
    devices = {
        device
        for device, held in enumerate(placement.slots.tolist())
        if any(expert in found.critical.experts for expert in held)
    }
    load = sum(int(units[found.batch, expert]) for expert in found.critical.experts)
    return (
        devices == set(found.critical.devices)
        and load == found.critical.total
        and ceil(Fraction(load, len(devices))) == found.peak
    )


@given(st.integers(0, 10**6), st.sampled_from([(3, 2, 3, 9), (1, 4, 2, 6), (2, 3, 2, 8)]))
def test_each_certificate_proves_the_exact_peak_of_its_batch(seed: int, shape: tuple[int, int, int, int]) -> None:
    rows, cols, slots, routed = shape
    problem, _ = small_problem(seed, rows=rows, cols=cols, slots=slots, routed=routed)
    placement, load = random_permutation(problem, np.random.default_rng(seed)), problem.load
    holders = [set(np.flatnonzero((placement.slots == e).any(axis=1)).tolist()) for e in range(load.shape[1])]
    units = {"tokens": load, "tiles": -(-load // 32)}
    found = certificates(load, placement, problem.cost)
    assert [(each.critical.unit, each.which) for each in found] == [
        ("tokens", "median"), ("tokens", "worst"), ("tiles", "median"), ("tiles", "worst"),
    ]  # fmt: skip
    for each in found:
        of = units[each.critical.unit]
        assert proves(each, of, placement)
        assert each.peak == best_split_peak(of[each.batch].tolist(), holders)
        assert each.mean == pytest.approx(of[each.batch].sum() / (rows * cols))
    for unit, (median, worst) in zip(units, (found[:2], found[2:]), strict=True):
        ratios = sorted(best_split_peak(batch.tolist(), holders) * rows * cols / batch.sum() for batch in units[unit])
        assert worst.peak / worst.mean == pytest.approx(ratios[-1])
        assert median.peak / median.mean == pytest.approx(ratios[(len(ratios) - 1) // 2])


def test_the_set_is_the_tightest_of_all() -> None:
    """By brute force over all sets of experts."""
    problem, _ = small_problem(3, rows=1, cols=4, slots=2, routed=5, shared=0, top_k=2)
    placement, load = random_permutation(problem, np.random.default_rng(1)), problem.load
    found = certificates(load, placement, problem.cost)[1]
    sets = chain.from_iterable(combinations(range(5), size) for size in range(1, 6))
    ratios = []
    for chosen in sets:
        devices = np.isin(placement.slots, chosen).any(axis=1).sum()
        ratios.append(Fraction(int(load[found.batch, list(chosen)].sum()), int(devices)))
    assert ceil(max(ratios)) == found.peak


def test_words_name_experts_devices_and_what_follows() -> None:
    placement = Placement(np.array([[0, 1], [0, 2], [3, 4], [5, -1]]))
    load = np.array([[30, 5, 26, 4, 4, 3], [1, 1, 1, 1, 1, 1]])
    worst = certificates(load, placement, cost())[1]
    assert worst.in_words() == (
        "Worst of 2 batches, number 0: experts 0, 1, 2 can only use devices 0, 1: 61 tokens over 2, so some device has "
        "31 or more with any routing, 1.722 times the mean."
    )
    assert worst.as_json()["critical"]["experts"] == (0, 1, 2)


def test_it_says_where_no_placement_is_better() -> None:
    """Two devices that hold both experts share all work, and other replicas would not make them fewer."""
    placement = Placement(np.array([[0, 1], [1, 0]]))
    found = certificates(np.array([[6, 5], [4, 4]]), placement, cost())[0]
    assert (found.peak, found.best) == (4, True)
    assert found.in_words().endswith("1.000 times the mean, which no placement can better.")
    apart = certificates(np.array([[6, 5, 0], [8, 1, 0]]), Placement(np.array([[0, 2], [1, -1]])), cost())[1]
    assert (apart.peak, apart.best) == (8, False)
    assert "better" not in apart.in_words()


def test_a_certificate_that_proves_nothing_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names the set, its load and its devices are counted again."""
    real, placement, load = least_peaks, Placement(np.array([[0, 1], [2, 3]])), np.array([[9, 1, 2, 3]])
    wrong = CriticalSet((0,), (0,), 9, "tokens")
    monkeypatch.setattr(module, "least_peaks", lambda *given: real(*given)._replace(critical=[wrong]))
    with pytest.raises(ValueError, match="proves a peak of 9, not 10"):
        certificates(load, placement, cost())
    with pytest.raises(ValueError, match="no replica"):
        certificates(load, Placement(np.array([[0, 1], [2, -1]])), cost())


def test_validate_tells_why_and_says_what_goes_with_it(traces: Path) -> None:
    plan, _ = solve(traces)
    shown = run("validate", plan, traces, "--why")
    assert shown.exit_code == 0
    lines = " ".join(shown.stdout.split())
    assert "is valid" in lines
    assert "test batches of 24 tokens: with the best routing of each, peak / mean load is" in lines
    assert "Worst of" in lines
    assert "with any routing" in lines
    assert '"why"' in run("validate", plan, traces, "--why", "--json").stdout
    assert "TRACES go with --why" in fault(run("validate", plan, traces))
    assert "the plan has no layer 7" in fault(run("validate", plan, traces, "--why", "--layer", 7))


def test_bound_takes_a_plan_of_the_same_mesh(traces: Path) -> None:
    plan, _ = solve(traces)
    asked = ("bound", traces, "--layer", 1, "--batch-tokens", 24, "--plan", plan)
    shown = run(*asked, "--mesh", "2x2")
    assert shown.exit_code == 0
    assert "this_placement" in shown.stdout
    assert "Worst of" in shown.stdout
    assert '"certificates"' in run(*asked, "--mesh", "2x2", "--json").stdout
    assert "--plan: the plan is for 8 experts on 2x2" in fault(run(*asked, "--mesh", "4x2"))


def test_an_empty_batch_has_no_peak_to_explain() -> None:
    problem, _ = small_problem(0)
    load = np.zeros_like(problem.load)
    found = certificates(load, random_permutation(problem, np.random.default_rng(0)), replace(problem.cost))
    assert all(each.peak == 0 for each in found)
