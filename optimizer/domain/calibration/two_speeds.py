"""Fits where the slower of two speeds decides: the roofline of a slot, or the ports inside and between nodes.

Only the ratio of the two constants decides which side of the maximum an item is on, so that the best fit is found by
trying every ratio at which an item changes sides.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import fdtrc, fdtri

from formulations.kit.arrays import Bools, Floats
from optimizer.domain.calibration.design import Design, nonnegative

CHANCE = 0.01
"""Two speeds are believed only where one alone would fit so much worse by chance this rarely. The place of the bend is
chosen by the same timings, which is why it is less than the usual 0.05."""

FEW_SPARE, FAR = 4, 0.25
"""With fewer rows to spare than this no test tells chance from a second speed. It is believed then where one speed
alone misses a timing by more than this share of it, which is more than timings of one thing scatter."""

EXACT = 1e-8
"""A fit whose residuals are this share of the timings has none but rounding and what `design.PULL` makes, which was
1.2e-9 at most where exact times were fitted."""


class Candidate(NamedTuple):
    """Constants of a model with two speeds; side: the ratio by which items are all on one side, else None."""

    constants: Floats
    side: float | None


def two_speeds(design: Design, measured: Floats, start: Floats) -> tuple[Candidate, Floats | None]:
    """The best constants of a model with two speeds, or with one of them where the other is not seen; and a rival."""

    def loss(candidate: Candidate) -> float:
        return float(((design.times(candidate.constants) - measured) ** 2).sum())

    candidates = list(_candidates(design, measured, start))
    both = min(candidates, key=loss)
    single = [each for each in candidates if each.side is not None and each.constants[-2:].all()]
    one = _nearest_of_equals(single, [loss(each) for each in single], measured, start) if single else both
    far = bool((np.abs(design.times(one.constants) - measured) > FAR * measured).any())
    believed = _believed(loss(both), loss(one), far, measured, len(start))
    best, others = (both, candidates) if believed else (one, single)
    near = _near(loss(best), measured, len(start))
    rivals = [each for each in others if loss(each) <= near and differs(each.constants, best.constants).any()]
    return best, min(rivals, key=loss).constants if rivals else None


def _nearest_of_equals(single: list[Candidate], losses: list[float], measured: Floats, start: Floats) -> Candidate:
    """The best candidate with one speed. Where both sides fit equally, as with slots of one size, that one whose
    constants are the nearer to the start, in proportion."""
    least = min(losses) + EXACT * float((measured**2).sum())
    equals = [each for each, loss in zip(single, losses, strict=True) if loss <= least]
    return min(equals, key=lambda each: float(np.abs(np.log(each.constants[-2:] / start[-2:])).sum()))


def differs(other: Floats, constants: Floats) -> Bools:
    """Which constants are farther than FAR from others, as a share of them."""
    among: Bools = np.abs(other - constants) > FAR * constants
    return among


def _near(least: float, measured: Floats, constants: int) -> float:
    """The sum of squares up to which a fit is about as good as the best: what chance exceeds once in 20 times."""
    freedom = len(measured) - constants
    rounding = EXACT**2 * float((measured**2).sum())
    return max(rounding, least * (1 + 2 / freedom * float(fdtri(2, freedom, 0.95)))) if freedom > 0 else rounding


def _believed(both: float, one: float, far: bool, measured: Floats, constants: int) -> bool:
    """Whether there are two speeds, by the sums of squares with both and with one; far: whether one alone misses a
    timing by FAR."""
    rounding = EXACT**2 * float((measured**2).sum())
    freedom = len(measured) - constants
    if one <= rounding:
        return False
    if freedom > 0 and both <= rounding:
        return True
    if freedom < FEW_SPARE:
        return far
    ratio = (one - both) / 2 / (both / freedom)  # the second speed and the place of the bend
    return bool(fdtrc(2, freedom, ratio) < CHANCE)


def _candidates(design: Design, measured: Floats, start: Floats) -> Iterator[Candidate]:
    """The best constants for each way in which items can be on the two sides.

    The optimum is inside such a way, or at a ratio at which an item is on both sides.
    """
    assert design.low is not None
    assert design.high is not None
    there = (design.low > 0) & (design.high > 0)
    bends = np.unique(design.high[there] / design.low[there])
    for ratio in [0.0, *bends]:
        columns = design.columns(ratio)
        empty: Bools = np.logical_not(columns[:, -2:].any(axis=0))
        constants = nonnegative(columns, measured, start)
        yield Candidate(_within(constants, empty, bends), float(ratio) if empty.any() else None)
        if ratio > 0:
            tied = np.maximum(ratio * design.low, design.high).sum(axis=1)
            *rest, second = nonnegative(np.column_stack([design.plain, tied]), measured, np.delete(start, -2))
            yield Candidate(np.array([*rest, ratio * second, second]), None)


def _within(constants: Floats, empty: Bools, bends: Floats) -> Floats:
    """The constants with that of a side without items so small that it stays without."""
    first, second = constants[-2:]
    if empty[0] and len(bends):
        first = min(first, bends[0] * second)
    if empty[1] and len(bends):
        second = min(second, first / bends[-1])
    return np.array([*constants[:-2], first, second])


def ratio_of(constants: Floats) -> float:
    """The first of the two last constants as a multiple of the second, a little more so that rounding is no other
    side."""
    first, second = map(float, constants[-2:])
    return first / second * (1 + EXACT) if second > 0 else 1e200  # beyond the ratio of any counts
