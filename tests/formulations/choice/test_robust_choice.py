"""One candidate per layer for many data sets equals brute force, and at full size it is near its bound."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulations.choice import robust_choice
from formulations.choice.robust_choice import TAIL, Criterion, choose_robustly, criterion_value
from formulations.kit.arrays import Floats
from formulations.kit.outcome import SolveStatus
from formulations.kit.solver import Limits

LIMITS = Limits(seconds=30)
SEVERAL = [Criterion.WORST, Criterion.REGRET, Criterion.CVAR]


def measured(scores: list[list[list[float]]], chosen: tuple[int, ...], weights: list[float], criterion: str) -> float:
    """The value of the criterion from its definition, number by number; scores `[layer][candidate][data set]`."""
    sets = [d for d, weight in enumerate(weights) if weight > 0]
    total = {d: sum(layer[c][d] for layer, c in zip(scores, chosen, strict=True)) for d in sets}
    if criterion == "mean":
        return sum(weights[d] * total[d] for d in sets)
    if criterion == "worst":
        return max(total.values())
    if criterion == "regret":
        return max(total[d] - sum(min(c[d] for c in layer) for layer in scores) for d in sets)
    return min(t + sum(weights[d] * max(0.0, total[d] - t) for d in sets) / TAIL for t in total.values())


def ragged(scores: list[list[list[float]]]) -> Floats:
    """Scores `[layer][candidate][data set]` as an array, with nan where a layer has fewer candidates."""
    whole = np.full((len(scores), max(map(len, scores)), len(scores[0][0])), np.nan)
    for place, layer in enumerate(scores):
        whole[place, : len(layer)] = layer
    return whole


@st.composite
def choices(draw: st.DrawFn) -> tuple[list[list[list[float]]], list[float]]:
    """Random scores of few layers, candidates and data sets, and weights of which some may be 0."""
    sets = draw(st.integers(1, 4))
    score = st.one_of(st.integers(0, 12).map(float), st.floats(0, 900, width=32))
    candidate = st.lists(score, min_size=sets, max_size=sets)
    layers = draw(st.lists(st.lists(candidate, min_size=1, max_size=4), min_size=1, max_size=4))
    raw = draw(st.lists(st.integers(0, 5), min_size=sets, max_size=sets).filter(any))
    return layers, [weight / sum(raw) for weight in raw]


@given(choices(), st.sampled_from(Criterion))
def test_the_choice_equals_brute_force(case: tuple[list[list[list[float]]], list[float]], criterion: Criterion) -> None:
    scores, weights = case
    every = {c: measured(scores, c, weights, criterion) for c in product(*(range(len(layer)) for layer in scores))}
    outcome = choose_robustly(ragged(scores), np.array(weights), criterion, LIMITS)
    assert outcome.value is not None
    assert outcome.objective == pytest.approx(every[tuple(outcome.value.tolist())], abs=1e-6)
    assert outcome.objective == pytest.approx(min(every.values()), rel=1e-5, abs=1e-4)
    assert outcome.lower_bound <= min(every.values()) + 1e-4


@given(choices(), st.sampled_from(Criterion), st.data())
def test_the_evaluator_equals_the_definition(
    case: tuple[list[list[list[float]]], list[float]], criterion: Criterion, data: st.DataObject
) -> None:
    scores, weights = case
    chosen = tuple(data.draw(st.integers(0, len(layer) - 1)) for layer in scores)
    found = criterion_value(ragged(scores), np.array(chosen), np.array(weights), criterion)
    assert found == pytest.approx(measured(scores, chosen, weights, criterion), abs=1e-6)


def model(sets: int, layers: int = 58, candidates: int = 12) -> tuple[Floats, Floats]:
    """A model of full size, whose candidates are each good on a data set of their own; equal weights."""
    rng = np.random.default_rng(sets)
    scores = rng.uniform(450, 520, (layers, 1, 1)) + rng.gamma(2, 6, (layers, candidates, sets))
    own = rng.integers(sets, size=(layers, candidates))
    scores[np.arange(layers)[:, None], np.arange(candidates), own] -= 8
    return scores, np.full(sets, 1 / sets)


@pytest.mark.parametrize("criterion", SEVERAL)
def test_a_whole_model_is_chosen_near_its_bound_and_better_than_by_any_data_set_alone(criterion: Criterion) -> None:
    scores, weights = model(4)
    outcome = choose_robustly(scores, weights, criterion, LIMITS)
    assert outcome.value is not None
    assert outcome.objective is not None
    assert outcome.objective - outcome.lower_bound < 2  # us, of some 28,000
    alone = [criterion_value(scores, scores[:, :, d].argmin(axis=1), weights, criterion) for d in range(4)]
    mean = criterion_value(scores, scores.mean(axis=2).argmin(axis=1), weights, criterion)
    assert outcome.objective < min(*alone, mean)


@pytest.mark.parametrize("criterion", SEVERAL)
def test_the_same_scores_give_the_same_choice(criterion: Criterion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robust_choice, "NODES", 20)
    scores, weights = model(6, layers=16)
    first, second = (choose_robustly(scores, weights, criterion, LIMITS) for _ in range(2))
    assert first.status is SolveStatus.FEASIBLE
    assert first.value is not None
    assert second.value is not None
    assert (first.value == second.value).all()


def test_worst_takes_from_each_data_set_what_mean_would_not() -> None:
    scores = np.array([[[10.0, 10.0], [0.0, 19.0]], [[5.0, 5.0], [0.0, 9.0]]])
    weights, chosen = np.array([0.5, 0.5]), {}
    for criterion in Criterion:
        value = choose_robustly(scores, weights, criterion, LIMITS).value
        assert value is not None
        chosen[criterion] = value.tolist()
    assert chosen == {
        Criterion.MEAN: [1, 1],  # 0 and 28
        Criterion.WORST: [0, 0],  # 15 and 15
        Criterion.REGRET: [1, 0],  # 5 and 24, of at best 0 and 15
        Criterion.CVAR: [0, 0],  # with two equal weights, the worse half is the worst one
    }


def test_cvar_is_the_mean_of_the_worse_half() -> None:
    scores = np.array([[[8.0, 6.0, 1.0, 1.0], [7.5, 7.5, 7.5, 7.5], [9.0, 4.0, 4.0, 0.0]]])
    outcome = choose_robustly(scores, np.full(4, 0.25), Criterion.CVAR, LIMITS)
    assert outcome.objective == pytest.approx(6.5)
    assert choose_robustly(scores, np.full(4, 0.25), Criterion.WORST, LIMITS).objective == pytest.approx(7.5)


def test_where_one_candidate_is_best_everywhere_no_solver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robust_choice, "milp", None)
    scores = np.array([[[3.0, 4.0], [2.0, 4.0]], [[1.0, 1.0], [5.0, 6.0]]])
    for criterion in Criterion:
        outcome = choose_robustly(scores, np.array([0.3, 0.7]), criterion, LIMITS)
        assert outcome.value is not None
        assert (outcome.value.tolist(), outcome.status) == ([1, 0], SolveStatus.OPTIMAL)


@pytest.mark.parametrize("criterion", SEVERAL)
def test_without_time_there_is_a_choice_and_a_bound(criterion: Criterion) -> None:
    scores, weights = model(8)
    outcome = choose_robustly(scores, weights, criterion, Limits(seconds=0))
    assert outcome.value is not None
    assert outcome.objective == pytest.approx(criterion_value(scores, outcome.value, weights, criterion))
    best = scores.min(axis=1).sum(axis=0)
    assert outcome.lower_bound >= (0 if criterion is Criterion.REGRET else best.mean() - 1e-6)


@pytest.mark.parametrize(
    ("scores", "weights", "fault"),
    [
        ([[[1.0, np.nan]]], [0.5, 0.5], "some data sets only"),
        ([[[1.0, 1.0]], [[np.nan, np.nan]]], [0.5, 0.5], "layer 1 of the scores has no candidate"),
        ([[[1.0, 1.0]]], [0.5, 0.6], "add up to 1"),
        ([[[1.0, 1.0]]], [1.5, -0.5], "negative"),
        ([[[1.0, 1.0]]], [1.0], "of 2 data sets"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(
    scores: list[list[list[float]]], weights: list[float], fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        choose_robustly(np.array(scores), np.array(weights), Criterion.WORST, LIMITS)
