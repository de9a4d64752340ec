"""Under what a layer is simulated."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from formulations.kit.arrays import Floats
from optimizer.domain.model import Model
from optimizer.domain.placement import EMPTY, Placement
from optimizer.errors import InputError
from optimizer.routing.context import Unit


@dataclass(frozen=True)
class Conditions:
    """What a layer is run under: the routing policy's name; the unit in which it counts loads (None: what the compute
    cost counts); timing; a capacity factor for each replica (None: no limit, and the default one for the policies that
    need it), with `drop` for pairs that find no room; slow: factors by which devices compute slower; dead devices.
    """

    routing: str = "even"
    unit: Unit | None = None
    timing: Literal["barrier", "overlap"] = "barrier"
    capacity_factor: float | None = None
    drop: bool = False
    slow: dict[int, float] = field(default_factory=dict)
    dead: tuple[int, ...] = ()

    def alive(self, placement: Placement, model: Model) -> Placement:
        """The placement without the replicas on dead devices.

        Raises InputError if a slow or dead device is not in the mesh, or if an expert has no replica left.
        """
        last = len(placement.slots) - 1
        for name, devices in (("slow", self.slow), ("dead", self.dead)):
            for device in devices:
                if not 0 <= device <= last:
                    raise InputError(f"there is no device {device}; the mesh has devices 0..{last}", field=name)
        slots = placement.slots.copy()
        slots[list(self.dead)] = EMPTY
        lost = sorted(set(range(model.experts)) - set(slots.ravel().tolist()))
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            raise InputError(
                f"expert {lost[0]}{more} would have no replica left if devices {', '.join(map(str, self.dead))} were "
                "dead; replicate it elsewhere, or name other devices",
                field="dead",
            )
        return Placement(slots)

    def slowdown(self, devices: int) -> Floats:
        """The factor of each device, `[device]`."""
        factor = np.ones(devices)
        factor[list(self.slow)] = list(self.slow.values())
        return factor
