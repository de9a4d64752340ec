"""Budgets of moves: what may be given, and for which parts of it layers are searched."""

import pytest

from optimizer.errors import InputError
from optimizer.planning.rebalancing.budgets import MoveLimits, budgets_of_layers, parts_of, totals


@pytest.mark.parametrize(("budget", "parts"), [(0, ()), (1, (1,)), (2, (1, 2)), (24, (3, 6, 12, 24))])
def test_parts_of_a_budget(budget: int, parts: tuple[int, ...]) -> None:
    assert parts_of(budget) == parts
    assert totals(budget, 96) == ([0, *parts, None] if budget else [0, None])


def test_without_a_budget_there_are_shares_of_the_slots() -> None:
    assert totals(None, 96) == [0, 5, 10, 24, 48, None]
    assert budgets_of_layers(None, 1, 96) == (5, 10, 24, 48)


def test_a_layer_of_several_may_get_more_than_its_part_but_no_more_than_its_slots() -> None:
    assert budgets_of_layers(24, 1, 96) == (3, 6, 12, 24)
    assert budgets_of_layers(32, 4, 96) == (2, 4, 8, 16, 32)
    assert budgets_of_layers(32, 4, 12) == (2, 4, 8, 12)
    assert budgets_of_layers(0, 4, 12) == ()


def test_bytes_are_whole_experts() -> None:
    assert MoveLimits(most_bytes=59).moves(20) == 2
    assert MoveLimits(most_moves=7).moves(None) == 7
    assert MoveLimits().moves(20) is None
    with pytest.raises(InputError, match="does not say how many bytes"):
        MoveLimits(most_bytes=59).moves(None)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"most_moves": -1}, "most_moves"),
        ({"most_bytes": float("inf")}, "most_bytes"),
        ({"most_bytes": float("nan")}, "most_bytes"),
        ({"min_gain": 1.0}, "min_gain"),
        ({"layers_each": 0}, "layers_each"),
        ({"most_moves": 1, "most_bytes": 1.0}, "most_bytes"),
    ],
)
def test_numbers_out_of_range_name_their_field(wrong: dict[str, float], field: str) -> None:
    with pytest.raises(InputError) as caught:
        MoveLimits(**wrong)  # type: ignore[arg-type]
    assert caught.value.field == field
