"""Fewer batches to judge candidates on, where simulating all of them would take too much of the time limit.

A candidate is simulated on all selection batches under every policy, and the best ones on all test batches. That takes
a second or less on a hundred devices, and minutes on thousands, where a time limit would not hold. So it is measured
first on a few batches, and where it would take too long, stretches of batches are left out.
"""

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from formulations.kit.compiling import CompilationEnded, compiling_until
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.planning.options import Effort, SolveOptions
from optimizer.planning.pool import LayerJudge
from optimizer.search.seeds.greedy import greedy
from optimizer.traces.batches import Batches, Sets

JUDGING = 0.02
"""The share of the time limit that one candidate under all policies may take on selection batches, and again on test
batches. Some twenty are judged altogether, so that more than half of the time is left for searches; not tuned."""

QUICK, LONG, PAIRS = 146_000, 60.0, 3
"""Sources times devices, and pairs at a third of that, of all batches of a set for each second of the time limit, and
for the first 60 at most, up to which nothing is measured: from 24 s on at 128 devices with 512 tokens. A pair takes
more where tokens are many: with 65,536 of them four policies take 88 ms a batch instead of 1.3; and `optimal` takes 1.1
s a batch on 2,048 devices, so that a longer limit alone does not make that quick."""

ALONGSIDE = ("weights", "candidates", "source")  # what `Batches` may have of each batch besides experts and rows
TRIED = 4  # batches on which it is measured, besides one before them in which kernels are compiled
STRETCH = 16
"""Batches that stay together, as policies that are told of recent loads need the batch before; one in 16 lacks it."""

FEWEST = 4  # batches that stay in any case
TOO_LONG = 2.0
"""Times the share `JUDGING` that a policy may take for one stretch of batches: one that takes longer is left out, where
there are others. `optimal` evens out links token by token, which takes 1.9 s for 8,192 tokens on 2,048 devices."""


GROUPING = 30.0
"""Seconds of time limit from which bounds look at groups of experts. That nearly doubles the time that they take, 8.2 s
in place of 4.6 in the home case on a slow machine, and with 2,048 tokens proves .5 % more of its latency."""


@dataclass(frozen=True)
class Affordable:
    """The batches and the options for which there is time, and what was left out, in sentences."""

    sets: Sets
    options: SolveOptions
    says: tuple[str, ...] = ()


class Pace(NamedTuple):
    """Seconds that a simulation takes besides its batches, and for each of them."""

    fixed: float
    each: float


def affordable(problem: Problem, sets: Sets, options: SolveOptions, effort: Effort) -> Affordable:
    """As many selection and test batches, and as many of the policies, as there is time to judge on and under. Where
    moves are counted the clock is to decide nothing, so all stay."""
    cells = problem.network.sources * problem.mesh.devices + sets.test.experts[0].size // PAIRS
    quick = sets.test.count * cells <= QUICK * min(effort.deadline.seconds, LONG)
    if effort.iterations is not None or quick or effort.cancel.asked:
        return Affordable(sets, options)
    placement, seconds, paces = greedy(problem), JUDGING * effort.deadline.seconds, dict[str, Pace]()
    with suppress(CompilationEnded), compiling_until(lambda: effort.cancel.asked):
        paces |= {name: _pace(problem, sets, options, name, placement, seconds) for name in options.routings}
    if not paces:
        return Affordable(sets, options)
    short = [name for name, pace in paces.items() if pace.fixed + STRETCH * pace.each <= TOO_LONG * seconds]
    kept = short or [min(paces, key=lambda name: paces[name].each)]
    says = [
        f"The policy {name} was left out, as a simulation of it takes {pace.each:.2g} s a batch here; it is tried "
        "where it is the only one, or with a longer time limit."
        for name, pace in paces.items()
        if name not in kept
    ]
    at_once = min(effort.jobs, len(kept))  # policies that are simulated side by side
    each = max(sum(paces[name].each for name in kept) / at_once, 1e-9)
    most = int((seconds - sum(paces[name].fixed for name in kept) / at_once) / each)
    most = max(FEWEST, most if most < STRETCH else most // STRETCH * STRETCH)
    if most < max(sets.selection.count, sets.test.count):
        counts = [min(most, of.count) for of in (sets.selection, sets.test)]
        says.append(
            f"Candidates were compared on {counts[0]} of {sets.selection.count} selection batches and judged on "
            f"{counts[1]} of {sets.test.count} test batches, as simulations take {1000 * each:.0f} ms a batch here; a "
            "longer time limit uses more."
        )
        sets = sets._replace(selection=stretches(sets.selection, most), test=stretches(sets.test, most))
    return Affordable(sets, replace(options, routings=tuple(kept)), tuple(says))


def has_time_for_groups(effort: Effort) -> bool:
    """Whether bounds are to look at groups of experts; where moves are counted the clock is to decide nothing."""
    return effort.iterations is not None or effort.deadline.seconds >= GROUPING


def _pace(
    problem: Problem, sets: Sets, options: SolveOptions, policy: str, placement: Placement, seconds: float
) -> Pace:
    """What a simulation of a placement takes under a policy, by one batch alone where a few would take too long against
    what a candidate may take in seconds."""
    judge, taken = LayerJudge(problem, sets, replace(options.conditions, routing=policy)), list[float]()
    for count in (1, 1, 1 + TRIED):  # the first one compiles
        started = time.monotonic()
        judge.on(placement, sets.selection.part(0, count))
        taken.append(time.monotonic() - started)
        if len(taken) == 2 and TRIED * taken[1] > seconds:
            return Pace(0.0, taken[1])
    each = max(taken[2] - taken[1], 0.0) / TRIED
    return Pace(max(taken[1] - each, 0.0), each)


def stretches(batches: Batches, count: int) -> Batches:
    """`count` of the batches, all where there are no more, in stretches of `STRETCH` at most that lie evenly in time;
    beyond one stretch, count is a multiple of it. Stretches do not overlap where there are twice as many batches."""
    if count >= batches.count:
        return batches
    length = min(STRETCH, count)
    first = np.linspace(0, batches.count - length, count // length).astype(np.int64)
    chosen = np.unique(first[:, None] + np.arange(length))
    more = {name: None if (held := getattr(batches, name)) is None else held[chosen] for name in ALONGSIDE}
    return Batches(batches.experts[chosen], batches.source_row[chosen], **more)
