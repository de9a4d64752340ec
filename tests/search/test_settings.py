"""Settings of searches: impossible values are refused with a sentence that names the field, and each setting acts."""

from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from random_problems import small_problem

from optimizer.domain.cost import Cost
from optimizer.domain.network import Network
from optimizer.domain.presets import load_hardware
from optimizer.search.annealing import AnnealingSchedule
from optimizer.search.latency import LatencyAnnealer, LatencySchedule, LatencyWork, prices_of
from optimizer.search.moves import MoveRules, decode, propose
from optimizer.search.multistart import DescentGoal, DescentWeights, latency_goal
from optimizer.search.neighbourhood import NeighbourhoodSettings, objective
from optimizer.search.ring_moves import communication
from optimizer.search.ring_state import RingDemand
from optimizer.search.seeds.greedy import greedy
from optimizer.search.tabu import TabuMemory

HOME = "tt-wormhole-quad-galaxy"
NAN = float("nan")
WRONG: dict[Callable[..., object], dict[str, list[float]]] = {
    AnnealingSchedule: {
        "worsening": [0.0, 1.5, NAN],
        "cooling": [0.0, 1.5, NAN],
        "descent": [-0.1, 1.0, NAN],
        "tail": [0.0, 1.5, NAN],
        "tail_weight": [-1.0, np.inf, NAN],
        "swaps_anywhere": [-0.1, 1.1, NAN],
        "swaps_at_peak": [-0.1, 0.6, NAN],
        "replicas_to_peak": [-0.1, 0.5, NAN],
    },
    LatencySchedule: {
        "hot": [0.0, 1.5, NAN],
        "cold": [0.0, 0.1, NAN],
        "swaps": [-0.1, 1.1, NAN],
        "tail": [-1.0, np.inf, NAN],
    },
    NeighbourhoodSettings: {
        "sample": [1, 0],
        "tail": [0.0, 1.5, NAN],
        "tail_weight": [-1.0, np.inf, NAN],
        "reaction": [-0.1, 1.1, NAN],
        "least_weight": [0.0, 1.1, NAN],
    },
    TabuMemory: {"candidates": [0], "elite": [0], "tenure": [-1], "patience": [0], "swaps": [-0.1, 1.1, NAN]},
    DescentWeights: {"tail_weight": [-1], "token_ns": [-1]},
}
"""Values that each field of each class of settings refuses."""


@pytest.mark.parametrize("settings", WRONG)
def test_every_field_refuses_what_is_impossible(settings: Callable[..., object]) -> None:
    assert list(WRONG[settings]) == [field.name for field in fields(settings())]  # type: ignore[arg-type]
    for name, values in WRONG[settings].items():
        for value in values:
            with pytest.raises(ValueError, match=rf"{name}( \+ \w+)* is \S+; it has to be \w"):
                settings(**{name: value})


def test_goals_refuse_arrays_of_other_shapes_and_negative_weights() -> None:
    value, together = np.arange(5), np.zeros((3, 3), dtype=np.int64)
    for wrong in ((value[None], together), (value, together[0]), (value, together[:2])):
        with pytest.raises(ValueError, match=r"the goal has arrays of shapes .*; they are \[load\] and"):
            DescentGoal(*wrong)
    with pytest.raises(ValueError, match="tail_weight is -1"):
        DescentGoal(value, together, -1)


def test_peaks_above_the_usual_one_count_as_often_as_the_tail_weight_says() -> None:
    problem, sets = small_problem(5)
    goal = latency_goal(problem, sets.train, DescentWeights(tail_weight=7))
    usual = goal.usual_peak(problem.load, [greedy(problem)])
    assert usual is not None
    state = goal.state(greedy(problem), problem.load, usual)
    above = np.maximum(state.leading[0].astype(np.int64) - usual, 0).sum()
    plain = replace(goal, tail_weight=0)
    assert state.objective == plain.state(greedy(problem), problem.load).objective + 7 * above
    assert plain.usual_peak(problem.load, [greedy(problem)]) is None


def test_tokens_count_what_the_weight_says() -> None:
    problem, sets = small_problem(5)
    goals = [latency_goal(problem, sets.train, DescentWeights(token_ns=ns)) for ns in (0, 1, 1000)]
    steps = [(after.value - before.value).tolist() for before, after in pairwise(goals)]
    assert steps == [[factor * tokens for tokens in range(len(goals[0].value))] for factor in (1, 999)]


def test_the_share_of_swaps_decides_which_moves_are_drawn() -> None:
    slots, rng = np.arange(12).reshape(4, 3), np.random.default_rng(0)
    for swaps, expected in ((0.0, {True}), (1.0, {False}), (0.5, {True, False})):
        moves = [propose(draw, slots, 12, swaps) for draw in rng.random((200, 3))]
        assert {decode(move, slots, 12).b < 0 for move in moves} == expected


def test_the_tail_of_large_neighbourhoods_is_their_share_and_weight() -> None:
    peaks = np.array([1.0, 2.0, 3.0, 10.0])
    assert objective(peaks, NeighbourhoodSettings(tail=0.5, tail_weight=2)) == 4 + 2 * 6.5
    assert objective(peaks, NeighbourhoodSettings(tail_weight=0)) == 4


def test_a_latency_schedule_sets_temperatures_and_the_weight_of_tiles() -> None:
    problem, sets = small_problem(6, rows=6, cols=3, routed=30, slots=3, tokens=200)
    network, cost = Network(problem.mesh), Cost(HOME, load_hardware(HOME))
    demand, prices = RingDemand.of(sets.train, network, 31), prices_of(cost, network)
    work, rules = LatencyWork(problem.cost.tiles(problem.load), demand, prices), MoveRules.of(problem)

    def annealer(schedule: LatencySchedule) -> LatencyAnnealer:
        """An annealer of latency at the greedy placement."""
        return LatencyAnnealer(greedy(problem), work, rules, schedule, np.random.default_rng(0))

    links, twice = annealer(LatencySchedule(hot=0.01, cold=0.001, tail=0.0)), annealer(LatencySchedule(tail=2.0))
    carried = communication(links.rings, prices.message)
    assert links.objective() == carried
    once = annealer(LatencySchedule(tail=1.0)).objective() - carried
    assert twice.objective() - carried == pytest.approx(2 * once)
    assert [links.temperature(share) / carried for share in (0, 1)] == pytest.approx([0.01, 0.001])
