"""Placements in the order of ids, as made where nothing is known of the load."""

from itertools import islice

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.packing import Packing


def row_major(problem: Problem) -> Placement:
    """Expert ids dealt out one to each device, row by row, round after round."""
    return _dealt(problem, np.arange(problem.mesh.devices))


def column_major(problem: Problem) -> Placement:
    """Expert ids dealt out one to each device, column by column, round after round."""
    mesh = problem.mesh
    return _dealt(problem, np.arange(mesh.devices).reshape(mesh.rows, mesh.cols).T.ravel())


def _dealt(problem: Problem, devices: Ints) -> Placement:
    """Deal each expert to the next of the devices that it fits on, in turn; further rounds add replicas in the same way
    until the slots are full."""
    packing = Packing(problem, np.zeros(problem.model.experts))
    experts = np.flatnonzero(~problem.spread)
    rounds = (int(expert) for _ in range(len(devices)) for expert in experts)
    turn = 0
    for expert in islice(rounds, problem.most_free_replicas):
        fitting = np.flatnonzero(packing.fits(expert)[np.roll(devices, -turn)])
        if len(fitting) == 0:
            packing.place_first(expert)
            continue
        turn = (turn + int(fitting[0])) % len(devices)
        packing.place(expert, int(devices[turn]))
        turn = (turn + 1) % len(devices)
    return packing.placement()
