"""Descent over the placements of one mesh row: exchanges and replacements, with the exact peak after each."""

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.clock import Clock
from formulations.rows.mesh_row import MeshRow
from formulations.rows.row_split import Moves, RowGoal, find_better, peaks, work_for

TRIES = 200  # moves between two looks at the clock, 10-40 ms at 24 slots and 64 batches
SHAKES, EXCHANGES = 10, 3  # shaken placements tried in vain, and exchanges in each


def first_slots(row: MeshRow) -> Ints:
    """The experts that need the row first, the heaviest first, each to the least loaded device with room."""
    order = np.lexsort((-row.load.mean(axis=0), row.elsewhere.any(axis=1)))
    return fill(row, [(int(expert), np.arange(row.devices)) for expert in order])


def fill(row: MeshRow, wanted: list[tuple[int, Ints]]) -> Ints:
    """Slots `[device, slot]` with each of these experts on one of these devices, as long as there is room."""
    slots = np.full((row.devices, row.slots_per_device), -1, dtype=np.int64)
    load, mean = np.zeros(row.devices), row.load.mean(axis=0)
    for expert, devices in wanted:
        room = devices[slots[devices, -1] < 0]
        if len(room):
            device = room[load[room].argmin()]
            slots[device, (slots[device] >= 0).sum()] = expert
            load[device] += mean[expert]
    return slots


def descend_row(row: MeshRow, slots: Ints, rng: np.random.Generator, clock: Clock) -> Ints:
    """Exchanges within the row and with the rest of the pool while they help, and again from shaken placements."""
    best, vain = _to_rest(row, slots, rng, clock), 0
    while vain < SHAKES and not clock.over():
        tried = _to_rest(row, _shaken(row, best, rng), rng, clock)
        better = row.worth(tried) < row.worth(best) * (1 - 1e-9)
        best, vain = (tried, 0) if better else (best, vain + 1)
    return best


def _to_rest(row: MeshRow, slots: Ints, rng: np.random.Generator, clock: Clock) -> Ints:
    """Descent to where no move helps, or time is up."""
    places, experts = slots.size, row.load.shape[1]
    place, other = np.divmod(rng.permutation(places * (places + 1 + experts)), places + 1 + experts)
    kept = (other > place) & (other != places)  # an exchange once, and no slot is emptied
    moves, split, slots = Moves(place[kept], other[kept]), row.split(), slots.astype(np.int64, order="C")
    there, number, idle = row.there(slots), 0, 0
    work, goal = work_for(there), RowGoal.below(peaks(split, there), row.level, split)
    while idle < len(moves.place) and not clock.over():
        number, tried, found = find_better(split, goal, slots, there, moves, number, TRIES, work)
        if found:
            goal = RowGoal.below(goal.fresh, row.level, split)
        idle = 0 if found else idle + tried
    return slots


def _shaken(row: MeshRow, slots: Ints, rng: np.random.Generator) -> Ints:
    """A few slots of different devices exchanged at random."""
    shaken = slots.copy()
    for _ in range(EXCHANGES):
        tried = shaken.ravel().copy()
        one, two = rng.integers(tried.size, size=2)
        tried[[one, two]] = tried[[two, one]]
        if not row.violations(tried.reshape(slots.shape)):
            shaken = tried.reshape(slots.shape)
    return shaken
