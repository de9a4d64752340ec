"""Options are checked when they are made, name the field at fault, and become an effort with a clock and a token."""

from typing import Any

import pytest

from optimizer.errors import InputError
from optimizer.interrupts import Cancel
from optimizer.planning.options import AUTO, SolveOptions
from optimizer.planning.portfolio_shares import PortfolioShares
from optimizer.search.stop import Deadline, SearchBudget


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("time_limit", 0.0),
        ("time_limit", float("nan")),
        ("seed", -1),
        ("iterations", -1),
        ("jobs", 0),
        ("search", "luck"),
        ("seeds", ("greedy", "luck")),
        ("seeds", ()),
        ("routings", ()),
        ("routings", ("even-source", "odd")),
        ("unit", "pounds"),
        ("max_rerouted", 1.5),
    ],
)
def test_what_no_planning_can_take_is_refused_by_the_name_of_its_field(field: str, value: Any) -> None:
    with pytest.raises(InputError) as refused:
        SolveOptions(**{field: value})
    assert refused.value.field == field
    assert "--" not in str(refused.value)


@pytest.mark.parametrize(("field", "value"), [("even", 1.1), ("latency", -0.1), ("formulation_seconds", -1.0)])
def test_shares_of_time_are_shares_and_seconds_are_not_negative(field: str, value: float) -> None:
    with pytest.raises(InputError) as refused:
        PortfolioShares(**{field: value})
    assert refused.value.field == f"shares.{field}"


def test_an_effort_has_what_the_options_say_and_the_token_and_clock_that_it_is_given() -> None:
    cancel = Cancel()
    effort = SolveOptions(9.0, seed=3, iterations=7, jobs=4, search="tabu").effort(cancel, started=5.0)
    assert (effort.seed, effort.iterations, effort.jobs, effort.search) == (3, 7, 4, "tabu")
    assert (effort.deadline.seconds, effort.deadline.started) == (9.0, 5.0)
    assert effort.cancel is cancel
    assert SolveOptions().routings == AUTO
    assert not SolveOptions().effort().cancel.asked


def test_a_budget_is_spent_once_the_token_is_asked() -> None:
    deadline = Deadline(1e9)
    budget = SearchBudget(deadline, 1e9, 100)
    assert budget.grant(10) == 10
    assert deadline.remaining() > 0
    deadline.cancel.ask()
    assert (budget.grant(10), budget.share(), deadline.remaining()) == (0, 1.0, 0.0)
