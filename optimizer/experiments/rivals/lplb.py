"""LPLB: two copies at most along a fixed graph of devices, balanced by a linear program for every batch (README of
deepseek-ai/LPLB, "How LPLB Works" and "Typical Topologies").

From the README and the rules of its planner: EPLB orders the experts over the devices without copies. A topology then
says for each device which other devices it backs: its i-th redundant slot holds a copy of the i-th heaviest expert of
the device that it backs in column i. So a copy is an edge between two devices, and no expert has more than two
replicas. For each batch a linear program shares each copied expert's tokens out over its edge, so that the largest
number of tokens on a device is the least. That is what our policy `optimal` finds in tokens, in whole numbers; the
solver takes about 100 us, which is that policy's price. The cube is the topology of the README's example, for 8
devices: two rings of 4, edges between them, and diagonals. In the torus a device backs a neighbour in its node and a
neighbour in the next node.

Filled in: nodes are mesh rows, and cubes are of 8 consecutive devices. Where a device has room for one redundant expert
alone, some back in the one column and some in the other, so that each device is backed once and load flows as far as it
can: the cube's edges then make one ring of 8, and the torus has rings that run zigzag over rows and columns. The
heaviest expert of a device is copied first. Where a device has more room than columns, the next heaviest experts are
copied, as in LPLB. Shared experts have the slots that they have in all placements here, and where they leave no room
for a redundant expert there is none.
"""

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.problem import Problem
from optimizer.experiments.rivals.one_each import OneEach
from optimizer.search.seeds.packing import Packing

CUBE = np.array([[3, 0, 1, 2, 7, 4, 5, 6], [6, 7, 4, 5, 0, 1, 2, 3]])
"""The devices that are backed, `[column, device]`: `r2o` of the README's example."""
RING = np.array([1, 0, 0, 0, 0, 0, 0, 1])
"""The columns that make one ring of a cube's devices, `[device]`."""


def lplb_cube(problem: Problem) -> Placement:
    """The placement with copies along cubes of 8 devices; see `has_cubes`."""
    devices = problem.mesh.devices
    return copied(problem, cubes(devices), np.resize(RING, devices))


def lplb_torus(problem: Problem) -> Placement:
    """The placement with copies along the rows and columns of the mesh."""
    row, col = np.divmod(np.arange(problem.mesh.devices), problem.mesh.cols)
    return copied(problem, torus(problem.mesh), (row + col) % 2)


def has_cubes(mesh: Mesh) -> bool:
    """Whether the devices can be cut into cubes."""
    return mesh.devices % int(CUBE.shape[1]) == 0


def cubes(devices: int) -> Ints:
    """The cube's topology on each 8 of the devices, `[column, device]`."""
    size = CUBE.shape[1]
    return np.concatenate([CUBE + first for first in range(0, devices, size)], axis=1)


def torus(mesh: Mesh) -> Ints:
    """Each device backs its left neighbour in the row, and the one above it; `[column, device]`.

    A direction with one device alone has no neighbours, and its column is left out.
    """
    device = np.arange(mesh.devices).reshape(mesh.rows, mesh.cols)
    sizes = mesh.cols, mesh.rows
    columns = [np.roll(device, 1, axis=axis).ravel() for axis, size in zip((1, 0), sizes, strict=True) if size > 1]
    return np.array(columns, dtype=np.int64).reshape(-1, mesh.devices)


def copied(problem: Problem, backs: Ints, only: Ints) -> Placement:
    """EPLB's order of the experts with copies along a topology.

    backs `[column, device]`: as `r2o` of LPLB; only `[device]`: where no device has room for all columns, the column
    that it begins with.
    """
    task, devices = OneEach.of(problem), range(problem.mesh.devices)
    device_of, packing = task.dealt(), Packing(problem, np.zeros(problem.model.experts))
    heaviest: list[list[int]] = [[] for _ in devices]
    for place in np.argsort(-task.load, kind="stable"):
        heaviest[device_of[place]].append(int(task.experts[place]))
        packing.place(int(task.experts[place]), int(device_of[place]))
    spare, made = (packing.slots == EMPTY).sum(axis=1), np.zeros(problem.mesh.devices, dtype=np.int64)
    for turn in range(int(spare.max()) if len(backs) else 0):
        for device in devices:
            begin = 0 if spare.max() >= len(backs) else int(only[device])
            backed = backs[(begin + turn) % len(backs), device]
            held = heaviest[backed][made[backed] :]
            if held and packing.fits(held[0])[device]:
                packing.place(held[0], device)
                made[backed] += 1
    return packing.placement()
