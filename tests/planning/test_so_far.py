"""What is told of the best plan so far, and how fast searches are."""

import numpy as np
import pytest

from optimizer.planning.options import silent
from optimizer.planning.so_far import short, told_so_far
from optimizer.search.stop import Deadline, SearchBudget


class Pool:
    """A pool of candidates with their figures on selection batches: the last one is the best."""

    def __init__(self, *p99: float) -> None:
        self.judged = [np.array([0.0, 0.0, value, 0.0]) for value in p99]

    def best(self) -> int:
        return len(self.judged) - 1


class Pools:
    """Pools by policy, as `JudgedPools` has them."""

    def __init__(self, **pools: Pool) -> None:
        self.pools = pools

    @property
    def candidates(self) -> int:
        return sum(len(pool.judged) for pool in self.pools.values())


def test_the_best_of_all_policies_and_the_rate_stand_behind_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    pools, deadline = Pools(optimal=Pool(), hint=Pool()), Deadline(60.0)
    clock = iter((1.0, 2.0, 3.0, 5.0))
    monkeypatch.setattr(deadline, "elapsed", lambda: next(clock))
    tell = told_so_far(lambda stage, share: said.append(stage), pools, deadline)  # type: ignore[arg-type]
    tell("seeds", 0.0)
    pools.pools["optimal"] = Pool(900.0)
    pools.pools["hint"] = Pool(990.0, 880.0)
    tell("descent", 0.1)
    SearchBudget(deadline, 60.0).spend(6000)
    tell("descent", 0.2)
    assert said == [
        "seeds",
        "descent, best p99 880.0 us (hint)",
        "descent, best p99 880.0 us (hint), 1.5k moves/s",
    ]


def test_who_does_not_watch_costs_nothing() -> None:
    assert told_so_far(silent, Pools(), Deadline(1.0)) is silent  # type: ignore[arg-type]


def test_rates_are_short() -> None:
    assert [short(rate) for rate in (3.14159, 999.0, 1234.5, 2_345_678.0)] == ["3.14", "999", "1.23k", "2.35M"]
