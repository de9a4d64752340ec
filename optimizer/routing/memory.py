"""What the policies that choose by load hints carry from batch to batch."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.routing import static
from optimizer.routing.forecast import first_weights, to_lighter
from optimizer.routing.hints import DeviceHints, HintSettings, LoadHints

MILLION = 1_000_000
"""Learned loads and shares are kept as whole millionths, which is the precision of a plan file, so that a plan that was
written and read back routes exactly as before."""


@dataclass(eq=False)
class HintMemory:
    """What the sources of one layer remember. It is made anew for each simulation, and changes with each batch.

    start, slot and device `[replica]` say where replicas are; load `[expert]` float64: expected pairs of a batch before
    any was seen; sources and devices: how many there are.
    """

    start: Ints
    slot: Ints
    device: Ints
    load: Floats
    distance: Ints
    sources: int
    devices: int
    settings: HintSettings

    @cached_property
    def loads(self) -> LoadHints:
        """The hints on loads of experts."""
        return LoadHints(self.start, self.device, self.sources, self.load, self.settings)

    @cached_property
    def credit(self) -> Ints:
        """What weighted round robin owes each replica, `[source, replica]` int64; sources begin apart."""
        return static.first_credit(self.sources, self.start, *self.parts())

    def parts(self) -> tuple[Ints, Ints]:
        """The present shares `[replica]` in millionths, and their sums `[expert]`."""
        return static.whole_shares(self.start, np.rint(self.loads.shares() * MILLION).astype(np.int64))

    @cached_property
    def _held(self) -> DeviceHints:
        return DeviceHints(self.devices, self.sources, self.settings)

    def spilled(self, experts: Ints, source: Ints) -> Ints:
        """The flat slots of the policy `hint-device`, `[batch, token, k]` int32, of batches in the order of time."""
        chosen = np.empty(experts.shape, dtype=np.int32)
        first, served = first_weights(self.sources, self.devices), np.zeros(self.devices, dtype=np.int32)
        for batch in range(len(experts)):
            weight = first + self._held.held()
            where = self.start, self.slot, self.device
            import os
            away = float(os.environ.get("FAR", "0")) * self.distance
            to_lighter(experts[batch], source[batch], weight, away, *where, chosen[batch], served)
            self._held.observe(served)
        return chosen
