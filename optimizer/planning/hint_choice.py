"""How hints are made for a plan: over how many batches they forget, how often they are made, how old they may be."""

import time
from dataclasses import replace

import numpy as np

from optimizer.domain.placement import Placement
from optimizer.interrupts import Cancel
from optimizer.planning.pool import LayerJudge
from optimizer.routing.hints import USUAL_HINTS, HintSettings
from optimizer.search.choose import LATENCIES, figures

HALF_LIVES = (1.0, 2.0, 4.0, 8.0, 16.0)
LAGS = (1, 2, 4)
REFRESHES = (1, 2, 4, 8)
SETTINGS = 1 + len(HALF_LIVES) + len(LAGS) + len(REFRESHES) - 2  # that are simulated at most, to choose one of them
WORTH = 0.002  # share of the latency that it may cost to have hints later, or more seldom: a fifth of a per cent, which
# is below the noise of a 99th percentile, for a fraction of what a server does to make hints
LOOKED_AT = 256  # selection batches by which settings are compared; a compromise between time and noise, not tuned
TIMED, FEWEST = 4, 16  # batches by which it is measured how many there is time for, and those that are taken anyway
HINTING = 0.05  # the share of the time limit that choosing may take; not tuned


def choose_hints(judge: LayerJudge, placement: Placement, cancel: Cancel, seconds: float = np.inf) -> HintSettings:
    """The settings with which the judge's policy does best on selection batches, on as many of the first ones as there
    are seconds for.

    The half-life is that of the least latency. Then the lag is the longest, and the refresh the rarest, that cost at
    most the share `WORTH` of it, each. Once the token is asked, the best settings so far are taken.
    """
    judge = _looking_at(judge, placement, cancel, seconds)
    best, least = USUAL_HINTS, _latency(judge, placement, USUAL_HINTS)
    for half_life in HALF_LIVES:
        tried = replace(USUAL_HINTS, half_life=half_life)
        if not cancel.asked and (latency := _latency(judge, placement, tried)) < least:
            best, least = tried, latency
    best, least = _laxest(judge, placement, [replace(best, lag=lag) for lag in LAGS], least, cancel)
    best, _ = _laxest(judge, placement, [replace(best, refresh=refresh) for refresh in REFRESHES], least, cancel)
    return best


def _looking_at(judge: LayerJudge, placement: Placement, cancel: Cancel, seconds: float) -> LayerJudge:
    """The judge with the first selection batches alone, as many as all settings can be compared on in the seconds."""
    batches, count = judge.sets.selection, LOOKED_AT
    if np.isfinite(seconds) and batches.count > FEWEST and not cancel.asked:
        started = time.monotonic()
        judge.on(placement, batches.part(0, TIMED))
        each = max(time.monotonic() - started, 1e-9) / TIMED
        count = min(count, max(FEWEST, int(seconds / (SETTINGS * each))))
    return replace(judge, sets=judge.sets._replace(selection=batches.part(0, count)))


def _laxest(
    judge: LayerJudge, placement: Placement, ways: list[HintSettings], least: float, cancel: Cancel
) -> tuple[HintSettings, float]:
    """The last of the ways, which get laxer, before one that costs more than it is worth, and its latency; least: that
    of the first way."""
    best, latency = ways[0], least
    for tried in ways[1:]:
        found = np.inf if cancel.asked else _latency(judge, placement, tried)
        if found > least * (1 + WORTH):
            break
        best, latency = tried, found
    return best, latency


def _latency(judge: LayerJudge, placement: Placement, settings: HintSettings) -> float:
    """The mean of the latency figures on selection batches, in microseconds."""
    tried = replace(judge, conditions=replace(judge.conditions, hints=settings))
    return float(figures(tried.selection(placement))[LATENCIES].mean())
