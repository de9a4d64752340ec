"""The clock that formulations look at: how much time it says is left, and that cancelling ends it."""

import math
import time

from formulations.kit.clock import Clock


def test_a_clock_is_over_when_its_seconds_have_passed_and_never_says_less_than_none() -> None:
    assert not Clock.start(3600).over()
    assert 3500 < Clock.start(3600).left() <= 3600
    late = Clock(time.monotonic() - 10, 5)
    assert late.over()
    assert late.left() == 0
    assert late.elapsed() >= 10
    assert Clock.start(math.inf).left() == math.inf


def test_a_deadline_and_a_part_of_the_time_count_from_now_and_from_the_start() -> None:
    assert Clock.until(time.monotonic() - 1).over()
    assert not Clock.until(math.inf).over()
    started = time.monotonic() - 6
    assert not Clock(started, 100).part(0.5).over()
    assert Clock(started, 100).part(0.05).over()


def test_cancelling_ends_a_clock_and_its_parts_but_not_the_count_of_seconds() -> None:
    clock = Clock(time.monotonic() - 1, 3600, lambda: True)
    assert clock.over()
    assert clock.part(0.5).over()
    assert clock.elapsed() >= 1
