"""How long each of many tasks may take, played with a clock that the test turns."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.planning.many_layers.shares import LEAST_SECONDS, TimeShares

END = 1000.0
WORKERS = st.integers(1, 8)


@dataclass
class Played:
    """One after another the tasks' beginnings and seconds, and when each worker that had any ended its last."""

    begun: list[float]
    seconds: list[float]
    ended: list[float]


def played(
    weights: Sequence[float], workers: int, end: float = END, takes: Callable[[int, float], float] = lambda _, of: of
) -> Played:
    """Whichever worker is free first begins the next task, which takes what is said, by default what it was given."""
    now, free, out = [0.0], [0.0] * workers, Played([], [], [])
    shares = TimeShares(weights, workers, end, lambda: now[0])
    for number in range(len(weights)):
        now[0] = heapq.heappop(free)
        out.begun.append(now[0])
        out.seconds.append(shares.next())
        heapq.heappush(free, now[0] + takes(number, out.seconds[-1]))
    out.ended = [until for until in free if until > 0]
    return out


def falling(least: int = 1, most: int = 40) -> st.SearchStrategy[list[float]]:
    """Weights as runs have them, the largest first, none below a twentieth of another."""
    return st.lists(st.floats(1, 20), min_size=least, max_size=most).map(lambda found: sorted(found, reverse=True))


@given(falling(), WORKERS)
def test_all_tasks_end_in_time(weights: list[float], workers: int) -> None:
    done = played(weights, workers)
    assert max(done.ended) <= END + 1e-6
    assert min(done.seconds) > LEAST_SECONDS


@given(falling(), WORKERS)
def test_time_is_used_up(weights: list[float], workers: int) -> None:
    done, busy = played(weights, workers), min(workers, len(weights))
    rounds = len(weights) / workers
    assert sum(done.seconds) >= (0.95 if rounds >= 6 else 0.75) * busy * END


@given(st.floats(1, 20), WORKERS, st.integers(1, 6))
def test_even_rounds_of_alike_tasks_take_the_same(weight: float, workers: int, rounds: int) -> None:
    assert played([weight] * (workers * rounds), workers).seconds == pytest.approx([END / rounds] * workers * rounds)


@given(st.integers(1, 40), WORKERS)
def test_of_alike_tasks_none_gets_less_than_rounds_allow(number: int, workers: int) -> None:
    rounds = -(-number // workers)
    assert min(played([1.0] * number, workers).seconds) >= END / rounds - 1e-6


@given(falling(), WORKERS, st.floats(1.01, 3))
def test_a_larger_weight_gets_more_seconds(weights: list[float], workers: int, factor: float) -> None:
    heavier = [weights[0] * factor, *weights[1:]]
    more, less = (played(of, workers).seconds[0] for of in (heavier, weights))
    assert more > less or [more, less] == pytest.approx([END, END])


@given(st.lists(st.tuples(st.floats(1, 20), st.floats(0, 2)), min_size=1, max_size=20))
def test_one_worker_shares_what_is_left_by_weight(tasks: list[tuple[float, float]]) -> None:
    """Whatever the tasks before took, in multiples of what they were given."""
    weights = [weight for weight, _ in tasks]
    done = played(weights, 1, takes=lambda number, seconds: seconds * tasks[number][1])
    for number, (begun, seconds) in enumerate(zip(done.begun, done.seconds, strict=True)):
        share = (END - begun) * weights[number] / sum(weights[number:])
        assert seconds == pytest.approx(max(LEAST_SECONDS, share))


@given(falling(), WORKERS, st.lists(st.floats(0.3, 1.7), min_size=40, max_size=40))
def test_overruns_and_what_is_left_over_are_made_up_for(weights: list[float], workers: int, took: list[float]) -> None:
    done = played(weights, workers, takes=lambda number, seconds: seconds * took[number])
    for number, (begun, seconds) in enumerate(zip(done.begun, done.seconds, strict=True)):
        assert seconds >= LEAST_SECONDS
        assert begun + seconds <= max(END, begun + LEAST_SECONDS) + 1e-6, number
        left = workers * (END - begun) * weights[number] / sum(weights[number:])
        assert seconds <= max(LEAST_SECONDS, left) + 1e-6, number


@given(falling(most=10), WORKERS, st.floats(0.1, 1.5))
def test_overruns_do_not_add_up(weights: list[float], workers: int, over: float) -> None:
    """Every task takes as much longer; the run does so once, as long as shares are larger than what overruns take from
    them: of ten tasks the smallest has 5.5 s at least, and the last of them loses 2.9 overruns (1 + 1/2 + ... + 1/10).
    """
    done = played(weights, workers, takes=lambda number, seconds: seconds + over)
    assert min(done.seconds) > LEAST_SECONDS
    assert max(done.ended) <= END + over + 1e-6


def test_a_task_that_begins_too_late_gets_a_little() -> None:
    done = played([1, 1, 1], 1, 2.0, takes=lambda number, seconds: 5.0)
    assert done.seconds == pytest.approx([2 / 3, LEAST_SECONDS, LEAST_SECONDS])


def test_what_one_leaves_goes_to_those_that_come_after() -> None:
    assert played([2, 1, 1], 1, 100).seconds == pytest.approx([50, 25, 25])
    assert played([2, 1, 1], 1, 100, lambda number, seconds: seconds if number else 10).seconds == pytest.approx(
        [50, 45, 45]
    )
