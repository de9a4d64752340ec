"""Descent over the placements of one mesh row: exchanges and replacements, with the exact peak after each."""

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.clock import Clock
from formulations.kit.outcome import PROVEN
from formulations.rows.mesh_row import MeshRow
from formulations.rows.row_split import Moves, RowGoal, find_better, peaks, tail_mean, work_for

TRIES = 200  # moves between two looks at the clock, which take 10-40 ms at 24 slots and 64 batches
SHAKES, EXCHANGES = 10, 3  # shaken placements tried in vain before the end, and exchanges in each; a compromise


def first_slots(row: MeshRow) -> Ints:
    """A placement to start from, `[device, slot]`: each expert in turn on the least loaded device with room.

    Experts without a replica outside come first, and among them the heaviest.
    """
    order = np.lexsort((-row.load.mean(axis=0), row.elsewhere.any(axis=1)))
    return fill(row, [(int(expert), np.arange(row.devices)) for expert in order])


def fill(row: MeshRow, wanted: list[tuple[int, Ints]]) -> Ints:
    """Slots `[device, slot]` with each wanted expert on the least loaded of its devices, as long as there is room."""
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
    """Exchanges within the row and with the rest of the pool while they help, and again from shaken placements.

    Returns slots `[device, slot]` that are no worse than the ones given; ends early when the clock is over, and where
    they meet the bound that holds for all fillings of the row, so that there is nothing to look for.
    """
    least = float(tail_mean(row.floor(), row.level)) * (1 + PROVEN)
    best: Ints = slots.astype(np.int64)
    vain = 0
    if row.worth(best) > least:
        best = _to_rest(row, best, rng, clock)
    while vain < SHAKES and row.worth(best) > least and not clock.over():
        tried = _to_rest(row, _shaken(row, best, rng), rng, clock)
        better = row.worth(tried) < row.worth(best) * (1 - 1e-9)
        best, vain = (tried, 0) if better else (best, vain + 1)
    return best


def _to_rest(row: MeshRow, slots: Ints, rng: np.random.Generator, clock: Clock) -> Ints:
    """Descent until no move helps, or time is up; moves are tried in a random order."""
    places, experts = slots.size, row.load.shape[1]
    place, other = np.divmod(rng.permutation(places * (places + 1 + experts)), places + 1 + experts)
    kept = (other > place) & (other != places)  # every exchange is listed once, and no slot is emptied
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
    """The slots after a few exchanges at random, of which only valid ones are made."""
    shaken = slots.copy()
    for _ in range(EXCHANGES):
        tried = shaken.ravel().copy()
        one, two = rng.integers(tried.size, size=2)
        tried[[one, two]] = tried[[two, one]]
        if not row.violations(tried.reshape(slots.shape)):
            shaken = tried.reshape(slots.shape)
    return shaken
