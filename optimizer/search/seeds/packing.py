"""A placement under construction, which never puts an expert twice on a device."""

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.problem import Problem


class Packing:
    """Slots filled so far, with the load that each device has taken on.

    weight `[expert]`: load of one replica. Spread experts (shared ones with a fixed count) are already in; begun
    `[device, slot]`: where another packing of the problem has put these, None to find that out.
    """

    def __init__(self, problem: Problem, weight: Floats, begun: Ints | None = None) -> None:
        mesh = problem.mesh
        self.slots = np.full((mesh.devices, mesh.slots_per_device), EMPTY, dtype=np.int32)
        self.load = np.zeros(mesh.devices)
        self.holds = np.zeros((problem.model.experts, mesh.devices), dtype=np.bool_)
        self.weight = weight
        if begun is not None:
            self.slots[:] = begun
            self.recount()
            return
        for expert in np.flatnonzero(problem.spread):
            self._spread(int(expert), problem)

    def _spread(self, expert: int, problem: Problem) -> None:
        """Put replica n in row n mod rows, on a diagonal of columns, so that rows and columns get replicas evenly."""
        mesh, replicas = problem.mesh, problem.shared_replicas or 0
        shared = expert - problem.model.routed_experts
        offset = shared * mesh.cols // max(problem.model.shared_experts, 1)
        for replica in range(replicas):
            row = replica % mesh.rows
            ideal = (row + replica // mesh.rows + offset) % mesh.cols
            self.place(expert, self._nearest_fitting(expert, row, ideal, mesh))

    def _nearest_fitting(self, expert: int, row: int, col: int, mesh: Mesh) -> int:
        """A device with room for this expert, in this row if there is one, at or after this column."""
        device = np.arange(mesh.devices)
        distance = (device // mesh.cols - row) % mesh.rows * mesh.cols + (device % mesh.cols - col) % mesh.cols
        return int(np.argmin(np.where(self.fits(expert), distance, mesh.devices)))

    def fits(self, expert: int) -> Bools:
        """Devices with room that do not hold the expert yet, `[device]`."""
        fitting: Bools = self.has_room() & ~self.holds[expert]
        return fitting

    def has_room(self) -> Bools:
        """Devices with an empty slot, `[device]`."""
        room: Bools = (self.slots == EMPTY).any(axis=1)
        return room

    def place(self, expert: int, device: int) -> None:
        """Put a replica on a device with room."""
        self.slots[device, np.argmax(self.slots[device] == EMPTY)] = expert
        self.holds[expert, device] = True
        self.load[device] += self.weight[expert]

    def recount(self) -> None:
        """Take note of what was put into slots by other means."""
        device, slot = np.nonzero(self.slots != EMPTY)
        expert = self.slots[device, slot]
        self.holds[:] = False
        self.holds[expert, device] = True
        self.load[:] = np.bincount(device, self.weight[expert], len(self.slots))

    def place_lightest(self, expert: int) -> None:
        """Put a replica on the lightest device that it fits, the lowest number on a tie."""
        self._place_by(expert, self.load)

    def place_first(self, expert: int) -> None:
        """Put a replica on the first device that it fits."""
        self._place_by(expert, np.arange(len(self.load)))

    def _place_by(self, expert: int, key: Floats | Ints) -> None:
        """Put a replica on the fitting device with the least key `[device]`, and make one fit where none does."""
        fits = self.fits(expert)
        if fits.any():
            self.place(expert, int(np.argmin(np.where(fits, key, np.inf))))
        else:
            self._make_way(expert)

    def _make_way(self, expert: int) -> None:
        """Where every device with room holds the expert, move another expert there from a full device.

        A full device without this expert holds one more expert than a device with room can share with it, so
        there is always one to move.
        """
        roomy = int(np.argmax(self.has_room()))
        donor = int(np.argmin(self.holds[expert]))
        movable = ~self.holds[self.slots[donor], roomy]
        place = int(np.argmax(movable))
        moved = int(self.slots[donor, place])
        self.slots[donor, place] = EMPTY
        self.holds[moved, donor] = False
        self.load[donor] -= self.weight[moved]
        self.place(moved, roomy)
        self.place(expert, donor)

    def placement(self) -> Placement:
        """The placement that has been built so far."""
        return Placement(self.slots)
