"""Constants that fit timings best, how sure each is, and which the timings do not tell apart."""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Bools, Floats
from optimizer.domain.calibration.design import Design, nonnegative
from optimizer.domain.calibration.two_speeds import EXACT, differs, ratio_of, two_speeds

BLIND = 1e-6
"""Directions with a smaller share of the largest singular value are not told: beyond rounding of what was counted."""

WEAK = 1 / 30
"""Directions with a smaller share are told badly: a condition index of 30 (Belsley, Kuh and Welsch, Regression
Diagnostics, 1980, chapter 3)."""

INVOLVED = 0.1
"""A constant belongs to a direction where it has this share of the direction's largest part."""


class Fit(NamedTuple):
    """Constants that fit best.

    constants `[constant]`; errors `[constant]` standard errors, nan where there are none; unseen, blind and weak
    `[constant]`: whether a constant is in no time at all, is not told apart from others, or badly. open_directions
    `[constant, direction]`: changes of the constants, each times `scale`, that hardly change any time. ratio: that of
    the two speeds, see `Design.columns`; rival: quite other constants that fit about as well, None if there are none.
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
        constants, ratio = nonnegative(design.plain, measured, start), 0.0
        columns = design.plain
    else:
        best, rival = two_speeds(design, measured, start)
        constants, ratio = best.constants, ratio_of(best.constants)
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
        weak |= differs(rival, constants)
        weak[-2:] |= unseen[-2:].any()  # the rival does not see the other of the two speeds, whatever it is there
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


def _errors(columns: Floats, spread: Floats, constants: Floats, told: Bools) -> Floats:
    """Standard errors, `[constant]`; nan for what is not told, at its limit of 0, or rests on a single row.

    They hold also where long times scatter more than short ones, as they mostly do: HC3 of MacKinnon and White (Journal
    of Econometrics 29, 1985), where each residual stands for its own row, as if that had been left out of the fit.
    """
    errors = np.full(len(constants), np.nan)
    free = told & (constants > 0)
    weights = np.linalg.pinv(columns[:, free])
    alone = 1 - np.einsum("rc,cr->r", columns[:, free], weights)  # how much of a row's error the fit leaves to be seen
    seen = alone > EXACT
    unseen = (np.abs(weights) > EXACT) & ~seen
    left_out = spread / np.where(seen, alone, 1)
    errors[free] = np.where(unseen.any(axis=1), np.nan, np.sqrt((weights**2) @ (left_out**2)))
    return errors
