"""What a router does for a layer, in plain numpy: as a server's author would write it without a compiler."""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.routing.hints import SETTLE, SWEEPS


class PlainHints:
    """Shares and table of one layer. slots: the flat slots of each expert; load `[expert]` is expected at first."""

    def __init__(self, slots: list[Ints], depth: int, devices: int, sources: int, load: Floats, kept: float) -> None:
        self.slots, self.device = slots, [each // depth for each in slots]
        self.kept, self.devices = kept, devices
        self.average = np.broadcast_to(load / sources, (sources, len(load))).copy()
        self.share = [np.full(len(each), 1 / len(each)) for each in slots]
        self.table = np.array([[each[source % len(each)] for each in slots] for source in range(sources)])
        self.depth = depth
        self.level(SETTLE)
        self.assign(SETTLE)

    def observe(self, counts: Ints) -> None:
        """Let the average learn of a batch."""
        self.average = self.kept * self.average + (1 - self.kept) * counts

    def level(self, sweeps: int = SWEEPS) -> None:
        """Fill the lightest devices of one expert after the other to one level."""
        load, heavy = self.average.sum(axis=0), np.zeros(self.devices)
        for expert, device in enumerate(self.device):
            heavy[device] += self.share[expert] * load[expert]
        for sweep in range(sweeps):
            for expert in range(len(load))[:: 1 if sweep % 2 == 0 else -1]:
                device = self.device[expert]
                if len(device) > 1 and load[expert] > 0:
                    heavy[device] -= self.share[expert] * load[expert]
                    light = np.sort(heavy[device])
                    goals = (load[expert] + light.cumsum()) / np.arange(1, len(light) + 1)
                    goal = goals[np.flatnonzero(np.append(light[1:], np.inf) >= goals)[0]]
                    self.share[expert] = np.maximum(0, goal - heavy[device]) / load[expert]
                    heavy[device] += self.share[expert] * load[expert]

    def assign(self, sweeps: int = SWEEPS) -> None:
        """Move each (source, expert) in turn to the device that is the lightest without it."""
        heavy = np.bincount((self.table // self.depth).ravel(), self.average.ravel(), self.devices)
        for sweep in range(sweeps):
            for expert in range(len(self.slots))[:: 1 if sweep % 2 == 0 else -1]:
                device = self.device[expert]
                for source in range(len(self.table) if len(device) > 1 else 0):
                    heavy[self.table[source, expert] // self.depth] -= self.average[source, expert]
                    best = heavy[device].argmin()
                    self.table[source, expert] = self.slots[expert][best]
                    heavy[device[best]] += self.average[source, expert]
