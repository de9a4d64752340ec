"""Budgets of expert weights that devices may load: what a user gives, and for which parts of it layers are searched."""

from dataclasses import dataclass
from math import inf

from optimizer.errors import InputError

PARTS = (1 / 8, 1 / 4, 1 / 2)
"""The parts of a budget for which a curve has points, besides the budget itself; as small budgets win most."""

SHARES_OF_LAYERS = (1 / 4, 1 / 2, 1, 2, 4)
"""The budgets that a layer of several may get, as multiples of its equal part; not tuned."""

USUAL_PARTS = (0.05, 0.1, 0.25, 0.5)
"""The points of a curve where no budget is given, as shares of all slots."""


@dataclass(frozen=True)
class MoveLimits:
    """What a rebalancing may do.

    most_moves: expert weights that devices may load, all layers together, None for any number. most_bytes: the same in
    bytes of weights. min_gain: the share of the mean latency that moves must save at least, such as 0.02, None for any.
    layers_each: how many layers change together. Raises InputError for numbers out of range.
    """

    most_moves: int | None = None
    most_bytes: float | None = None
    min_gain: float | None = None
    layers_each: int = 1

    def __post_init__(self) -> None:
        for name, least in (("most_moves", 0), ("most_bytes", 0), ("layers_each", 1)):
            value = getattr(self, name)
            if value is not None and not least <= value < inf:
                raise InputError(f"{value} is not a number from {least} on", name)
        if self.min_gain is not None and not 0 <= self.min_gain < 1:
            raise InputError(f"a share of the latency lies in 0..1, not at {self.min_gain}", "min_gain")
        if self.most_moves is not None and self.most_bytes is not None:
            raise InputError("a budget is given in moves or in bytes, not in both", "most_bytes")

    def moves(self, expert_bytes: float | None) -> int | None:
        """The budget in moves, None for no limit. Raises InputError for a budget in bytes where those of an expert are
        not known."""
        if self.most_bytes is None:
            return self.most_moves
        if expert_bytes is None:
            raise InputError("the hardware does not say how many bytes an expert has; limit the moves", "most_bytes")
        return int(self.most_bytes // expert_bytes)


def parts_of(budget: int) -> tuple[int, ...]:
    """The budgets of a curve up to this budget, ascending; none that is 0."""
    return tuple(sorted({round(part * budget) for part in (*PARTS, 1)} - {0}))


def totals(budget: int | None, slots: int) -> list[int | None]:
    """The budgets of a curve's points: nothing, parts of the budget, all of it, and no limit. slots: of all layers."""
    if budget is None:
        return [0, *sorted({round(part * slots) for part in USUAL_PARTS} - {0}), None]
    return [0, *parts_of(budget), None]


def budgets_of_layers(budget: int | None, layers: int, slots: int) -> tuple[int, ...]:
    """The budgets for which each layer is searched, ascending: what it may get of the points of the curve. slots: of a
    layer."""
    found = [most for most in totals(budget, layers * slots) if most]
    if layers > 1 and found:
        found = [round(share * found[-1] / layers) for share in SHARES_OF_LAYERS]
    return tuple(sorted({min(most, slots) for most in found} - {0}))
