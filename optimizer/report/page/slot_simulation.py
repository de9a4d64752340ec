"""The simulator with what a map of slots shows besides: what each slot serves."""

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.report.page.facts import JudgedRun
from optimizer.report.page.request import PageRequest, Placed
from optimizer.routing.capacity import Coactivation
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import Simulation
from optimizer.traces.batches import Batches


class SlotSimulation(Simulation):
    """The simulator, which also keeps what slots serve: the pairs and the tiles of all batches, `[device, slot]`."""

    def __init__(self, placed: Placed, asked: PageRequest, conditions: Conditions, guess: Coactivation | None) -> None:
        plan = placed.plan
        part, before = plan.layers[placed.layer], plan.before(placed.layer)
        super().__init__(
            part.placement, asked.plan.model, plan.mesh, asked.cost, conditions, part.learned, guess, before
        )
        self.owner = placed.name
        self.slot_load = np.zeros(self.placement.slots.shape)
        self.slot_tiles = np.zeros(self.placement.slots.shape)

    def _chosen(self, batches: Batches, source: Ints) -> Ints:
        chosen = super()._chosen(batches, source)
        slots = self.placement.slots.size
        place = chosen + np.arange(batches.count)[:, None, None] * slots
        load = np.bincount(place[chosen >= 0], minlength=batches.count * slots).reshape(batches.count, slots)
        self.slot_load += load.sum(axis=0).reshape(self.slot_load.shape)
        self.slot_tiles += self.cost.tiles(load).sum(axis=0).reshape(self.slot_load.shape)
        return chosen

    def run(self) -> JudgedRun:
        """What came of all batches."""
        load, tiles = self.slot_load / self.batches, self.slot_tiles / self.batches
        return JudgedRun(self.owner, self.placement, self.report(), load, tiles)
