"""Constants of 0 or above that fit timings best, how sure each is, and which the timings do not tell apart.

A time is `plain @ constants`, plus, for a stage with two speeds, the sum over items of `max(a * low, b * high)`: the
roofline of a slot, or the ports inside and between nodes. Only the ratio a / b decides which side of the maximum an
item is on, so that the best fit is found by trying every ratio at which an item changes sides.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import lsq_linear
from scipy.special import fdtrc, fdtri

from formulations.kit.arrays import Bools, Floats

PULL = 1e-7
"""How strongly constants are pulled to their start, beside what timings say: enough to decide on what these leave open,
and too little to move anything that they tell (a squared share of 1e-14)."""

BLIND = 1e-6
"""Directions with a smaller share of the largest singular value are not told: beyond rounding of what was counted."""

WEAK = 1 / 30
"""Directions with a smaller share are told badly: a condition index of 30 (Belsley, Kuh and Welsch, Regression
Diagnostics, 1980, chapter 3)."""

INVOLVED = 0.1
"""A constant belongs to a direction where it has this share of the direction's largest part."""

CHANCE = 0.01
"""Two speeds are believed only where one alone would fit so much worse by chance this rarely. The place of the bend is
chosen by the same timings, which is why it is less than the usual 0.05."""

FEW_SPARE, FAR = 4, 0.25
"""With fewer rows to spare than this no test tells chance from a second speed. It is believed then where one speed
alone misses a timing by more than this share of it, which is more than timings of one thing scatter."""

EXACT = 1e-9
"""A fit whose residuals are this share of the timings has no residuals but rounding."""


@dataclass(frozen=True)
class Design:
    """What each timing is made of.

    plain `[row, plain constant]`; low and high `[row, item]` are what the two constants after the plain ones multiply,
    None where there are no such two.
    """

    plain: Floats
    low: Floats | None = None
    high: Floats | None = None

    def columns(self, ratio: float) -> Floats:
        """What each constant multiplies, `[row, constant]`, where a of the two is `ratio` x b."""
        if self.low is None or self.high is None:
            return self.plain
        second = self.high > ratio * self.low
        sides = [np.where(second, 0, self.low).sum(axis=1), np.where(second, self.high, 0).sum(axis=1)]
        return np.column_stack([self.plain, *sides])

    def times(self, constants: Floats) -> Floats:
        """The time of each row, `[row]` microseconds."""
        time: Floats = self.plain @ constants[: self.plain.shape[1]]
        if self.low is not None and self.high is not None:
            first, second = constants[-2:]
            time = time + np.maximum(first * self.low, second * self.high).sum(axis=1)
        return time


class Fit(NamedTuple):
    """Constants that fit best.

    constants `[constant]`; errors `[constant]` standard errors, nan where there are none; unseen, blind and weak
    `[constant]`: whether a constant is in no time at all, is not told apart from others, or badly. open_directions
    `[constant, direction]`: changes of the constants, each times `scale`, that hardly change any time.
    """

    constants: Floats
    errors: Floats
    unseen: Bools
    blind: Bools
    weak: Bools
    scale: Floats
    open_directions: Floats
    ratio: float
    rival: Floats | None


def fit(design: Design, measured: Floats, start: Floats) -> Fit:
    """The constants of 0 or above with the least squares of residuals.

    measured `[row]` microseconds; start `[constant]` is what constants are where timings do not tell.
    """
    rival = None
    if design.low is None:
        constants, ratio = _plain_fit(design.plain, measured, start), 0.0
        columns = design.plain
    else:
        best, rival = _bent(design, measured, start)
        constants, ratio = best.constants, _ratio(best.constants)
        columns = design.columns(ratio if best.side is None else best.side)
    scale = np.linalg.norm(columns, axis=0)
    unseen = scale == 0
    scale[unseen] = 1
    _, singular, directions = np.linalg.svd(columns / scale, full_matrices=True)
    share = np.zeros(len(start))
    share[: len(singular)] = singular / max(singular[0], np.finfo(float).tiny)
    blind = _involved(directions[share < BLIND].T) & ~unseen
    weak = _involved(directions[(share < WEAK) & (share >= BLIND)].T)
    if rival is not None:
        weak |= _differs(rival, constants)
    weak &= ~blind & ~unseen
    spread = measured - design.times(constants)
    if np.linalg.norm(spread) <= EXACT * np.linalg.norm(measured):
        spread = np.zeros_like(spread)
    errors = _errors(columns / scale, spread, constants, ~(blind | unseen)) / scale
    return Fit(constants, errors, unseen, blind, weak, scale, directions[share < WEAK].T, ratio, rival)


def helpful(columns: Floats, found: Fit) -> list[int]:
    """Which of some possible measurements would tell what is open, the most telling first; columns `[row, constant]`.

    Each lowers the number of open directions by one.
    """
    scaled, open_directions, chosen = columns / found.scale, found.open_directions, []
    while open_directions.shape[1]:
        seen = scaled @ open_directions
        best = int(np.linalg.norm(seen, axis=1).argmax())
        told = seen[best] / max(np.linalg.norm(seen[best]), np.finfo(float).tiny)
        if best in chosen or np.linalg.norm(seen[best]) < BLIND:
            break
        chosen.append(best)
        rest = np.linalg.svd(told[None])[2][1:].T  # what is orthogonal to what this measurement sees
        open_directions = open_directions @ rest
    return chosen


def _involved(directions: Floats) -> Bools:
    """Which constants belong to any of these directions, `[constant, direction]`."""
    size = np.abs(directions)
    among: Bools = (size > INVOLVED * size.max(axis=0, initial=0)).any(axis=1)
    return among


def _plain_fit(columns: Floats, measured: Floats, start: Floats) -> Floats:
    """The best constants of a linear model; what it leaves open stays as near to the start as can be, in proportion."""
    units = np.where(start > 0, start, 1.0)
    scaled = columns * units
    pull = PULL * max(np.linalg.norm(scaled, 2), np.finfo(float).tiny)
    rows = np.vstack([scaled, pull * np.eye(len(start))])
    wanted = np.concatenate([measured, pull * start / units])
    best: Floats = lsq_linear(rows, wanted, (0, np.inf), method="bvls").x * units
    return best


class _Candidate(NamedTuple):
    """Constants of a model with two speeds; side: the ratio by which items are all on one side, else None."""

    constants: Floats
    side: float | None


def _bent(design: Design, measured: Floats, start: Floats) -> tuple[_Candidate, Floats | None]:
    """The best constants of a model with two speeds, or with one of them where the other is not seen; and a rival."""

    def loss(candidate: _Candidate) -> float:
        return float(((design.times(candidate.constants) - measured) ** 2).sum())

    candidates = list(_candidates(design, measured, start))
    both = min(candidates, key=loss)
    single = [each for each in candidates if each.side is not None and each.constants[-2:].all()]
    one = min(single, key=loss, default=both)
    far = bool((np.abs(design.times(one.constants) - measured) > FAR * measured).any())
    if not _believed(loss(both), loss(one), far, measured, len(start)):
        return one, None
    near = _near(loss(both), measured, len(start))
    rivals = [each for each in candidates if loss(each) <= near and _differs(each.constants, both.constants).any()]
    return both, min(rivals, key=loss).constants if rivals else None


def _differs(other: Floats, constants: Floats) -> Bools:
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


def _candidates(design: Design, measured: Floats, start: Floats) -> Iterator[_Candidate]:
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
        constants = _plain_fit(columns, measured, start)
        yield _Candidate(_within(constants, empty, bends), float(ratio) if empty.any() else None)
        if ratio > 0:
            tied = np.maximum(ratio * design.low, design.high).sum(axis=1)
            *rest, second = _plain_fit(np.column_stack([design.plain, tied]), measured, np.delete(start, -2))
            yield _Candidate(np.array([*rest, ratio * second, second]), None)


def _within(constants: Floats, empty: Bools, bends: Floats) -> Floats:
    """The constants with that of a side without items so small that it stays without."""
    first, second = constants[-2:]
    if empty[0] and len(bends):
        first = min(first, bends[0] * second)
    if empty[1] and len(bends):
        second = min(second, first / bends[-1])
    return np.array([*constants[:-2], first, second])


def _ratio(constants: Floats) -> float:
    """The first of the two last constants as a multiple of the second, a little more so that rounding is no other
    side."""
    first, second = map(float, constants[-2:])
    return first / second * (1 + EXACT) if second > 0 else np.inf


def _errors(columns: Floats, spread: Floats, constants: Floats, told: Bools) -> Floats:
    """Standard errors, `[constant]`; nan for what is not told or at its limit of 0, and without rows to spare."""
    errors = np.full(len(constants), np.nan)
    free = told & (constants > 0)
    freedom = len(spread) - np.linalg.matrix_rank(columns)
    if freedom > 0 and free.any():
        normal = columns[:, free].T @ columns[:, free]
        errors[free] = np.sqrt((spread**2).sum() / freedom * np.diag(np.linalg.pinv(normal)))
    return errors
