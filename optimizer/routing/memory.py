"""What the policies that choose by load hints carry from batch to batch."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.routing import static
from optimizer.routing.forecast import first_weights, to_lighter
from optimizer.routing.hints import DeviceHints, HintSettings, LoadHints

HOP_PAIRS = 1.0
"""How many pairs a source counts against a device for each hop to it. On selection batches of the built-in trace, of
V2-Lite and of GPT-OSS, half a pair to two pairs are best or as good as any (benchmarks/README.md)."""


def own_weights(distance: Ints) -> Floats:
    """How many pairs sources count against devices for being far, and to tell them apart, `[source, device]` float64;
    distance `[source, device]` hops."""
    weight: Floats = first_weights(*distance.shape) + HOP_PAIRS * distance
    return weight


@dataclass(eq=False)
class HintMemory:
    """What the sources of one layer remember. It is made anew for each simulation, and changes with each batch.

    start `[expert + 1]`, slot and device `[replica]` say where replicas are; load `[expert]` float64: expected pairs of
    a batch before any was seen; distance `[source, device]` hops.
    """

    start: Ints
    slot: Ints
    device: Ints
    load: Floats
    distance: Ints
    settings: HintSettings

    @property
    def sources(self) -> int:
        """How many sources there are."""
        return len(self.distance)

    @cached_property
    def loads(self) -> LoadHints:
        """The hints on loads of experts."""
        return LoadHints(self.start, self.device, self.sources, self.load, self.settings)

    @cached_property
    def credit(self) -> Ints:
        """What weighted round robin owes each replica, `[source, replica]` int64; sources begin apart."""
        part, whole = self.loads.parts()
        return static.first_credit(self.sources, self.start, part[None], whole[None])

    @cached_property
    def devices(self) -> DeviceHints:
        """The hints on loads of devices."""
        return DeviceHints(self.distance.shape[1], self.sources, self.settings)

    def spilled(self, experts: Ints, source: Ints) -> Ints:
        """The flat slots of the policy `hint-device`, `[batch, token, k]` int32, of batches in the order of time."""
        chosen = np.empty(experts.shape, dtype=np.int32)
        served = np.zeros(self.distance.shape[1], dtype=np.int32)
        first = own_weights(self.distance)
        for batch in range(len(experts)):
            weight = first + self.devices.held()
            to_lighter(experts[batch], source[batch], weight, self.start, self.slot, self.device, chosen[batch], served)
            self.devices.observe(served)
        return chosen
