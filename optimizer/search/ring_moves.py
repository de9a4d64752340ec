"""What a move of `moves.py` would change on the links of column rings, and making the change.

As in `split_moves`, `delta` works on a second state, `trial`, which equals the current one before the move; then
either `apply` makes the change in the current state too, or `forget` takes it back in trial.
"""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.copying import copy
from formulations.kit.kernels import kernel
from optimizer.search.moves import decode
from optimizer.search.ring_state import (
    RingState,
    busiest,
    carry_alone,
    nearest,
    recount_results,
    recount_way,
)
from optimizer.search.split_moves import rehouse


class TouchedRings(NamedTuple):
    """What of trial may differ from the current state after `delta`.

    change `[4]`: a, b, x and y of `moves.Move`; way `[source, column, direction]`: whether what the source sends that
    way may differ; device `[source, 4]`: devices whose results for the source may differ, only the first
    `many [source]` valid.
    """

    change: Ints
    way: Bools
    device: Ints
    many: Ints


def touched_for(rings: RingState) -> TouchedRings:
    """Working memory of `delta` and `apply`."""
    sources = len(rings.sent)
    return TouchedRings(
        np.full(4, -1, dtype=np.int64),
        np.zeros(rings.sent.shape[:3], dtype=np.bool_),
        np.zeros((sources, 4), dtype=np.int64),
        np.zeros(sources, dtype=np.int64),
    )


@kernel
def communication(rings: RingState, weight: Floats) -> float:
    """About how long links are busy, in the unit of weight `[3]`: the price of a message on the busiest link of each
    kind."""
    total = 0.0
    for kind in range(len(weight)):
        total += weight[kind] * busiest(rings.load[kind])
    return total


@kernel
def delta(move: int, current: RingState, trial: RingState, touched: TouchedRings, weight: Floats) -> float:
    """The value of `communication` after a legal move, which is left in trial."""
    _rearrange(move, trial, touched)
    touched.way[:], touched.many[:] = False, 0
    for expert in touched.change[2:]:
        if expert >= 0:
            _find_nearest(expert, current, trial, touched)
            _recount_alone(expert, current, trial)
    for source in range(len(trial.sent)):
        for place in range(touched.many[source]):
            recount_results(source, touched.device[source, place], trial)
        for col in range(trial.sent.shape[1]):
            for direction in range(2):
                if touched.way[source, col, direction]:
                    recount_way(source, col, direction, trial)
    return communication(trial, weight)


@kernel
def apply(current: RingState, trial: RingState, touched: TouchedRings) -> None:
    """Make the move that `delta` has left in trial."""
    _copy(trial, current, touched)


@kernel
def forget(current: RingState, trial: RingState, touched: TouchedRings) -> None:
    """Take a move back: trial equals the current state again."""
    _copy(current, trial, touched)


@kernel
def _rearrange(move: int, rings: RingState, touched: TouchedRings) -> None:
    """Change slots, copies and held, and note in touched what has changed."""
    slots, depth = rings.slots, rings.slots.shape[1]
    a, b, x, y = decode(move, slots, len(rings.copies))
    at_a, at_b = a // depth, b // depth if b >= 0 else -1
    slots[at_a, a % depth] = y
    if b >= 0:
        slots[at_b, b % depth] = x
    if x >= 0:
        rehouse(rings.held[x], rings.copies, x, at_a, at_b)
    if y >= 0:
        rehouse(rings.held[y], rings.copies, y, at_b, at_a)
    touched.change[0], touched.change[1], touched.change[2], touched.change[3] = a, b, x, y


@kernel
def _find_nearest(expert: int, current: RingState, trial: RingState, touched: TouchedRings) -> None:
    """Find the devices that serve the sources now; where one has changed, the old and the new one are touched."""
    for source in range(len(trial.sent)):
        before, after = current.nearest[source, expert], nearest(source, expert, trial)
        if before != after:
            trial.nearest[source, expert] = after
            _touch(source, before, touched)
            _touch(source, after, touched)


@kernel
def _touch(source: int, device: int, touched: TouchedRings) -> None:
    """List a device for a source, and the ways from the source along its column that reach the device."""
    rows, cols = touched.way.shape[:2]
    climb = (device // cols - source) % rows
    for direction in range(2):
        if 0 < 2 * (climb if direction == 0 else rows - climb) <= rows:
            touched.way[source, device % cols, direction] = True
    for place in range(touched.many[source]):
        if touched.device[source, place] == device:
            return
    touched.device[source, touched.many[source]] = device
    touched.many[source] += 1


@kernel
def _recount_alone(expert: int, current: RingState, trial: RingState) -> None:
    """Move the results of an expert's only replica: off the old links if it was the only one, onto the new if it is."""
    if current.copies[expert] == 1:
        carry_alone(expert, current.held[expert, 0], -1.0, trial)
    if trial.copies[expert] == 1:
        carry_alone(expert, trial.held[expert, 0], 1.0, trial)


@kernel
def _copy(source: RingState, target: RingState, touched: TouchedRings) -> None:
    """Copy all that was touched from one state to the other."""
    depth = source.slots.shape[1]
    for home in range(len(source.sent)):
        for place in range(touched.many[home]):
            device = touched.device[home, place]
            target.returned[home, device] = source.returned[home, device]
        for col in range(source.sent.shape[1]):
            for direction in range(2):
                if touched.way[home, col, direction]:
                    copy(source.sent[home, col, direction], target.sent[home, col, direction])
    kinds, columns, directions, _ = source.load.shape
    for kind in range(kinds):
        for col in range(columns):
            for direction in range(directions):
                copy(source.load[kind, col, direction], target.load[kind, col, direction])
    for slot in touched.change[:2]:
        if slot >= 0:
            target.slots[slot // depth, slot % depth] = source.slots[slot // depth, slot % depth]
    for expert in touched.change[2:]:
        if expert >= 0:
            for place in range(max(source.copies[expert], target.copies[expert])):
                target.held[expert, place] = source.held[expert, place]
            target.copies[expert] = source.copies[expert]
            copy(source.nearest[:, expert], target.nearest[:, expert])
