"""The conditions under which a layer is simulated: routing policy, timing, capacity, slow and dead devices."""

from dataclasses import dataclass, field
from math import inf
from typing import Literal

import numpy as np

from formulations.kit.arrays import Floats
from optimizer.domain.model import Model
from optimizer.domain.placement import EMPTY, Placement
from optimizer.errors import InputError
from optimizer.routing.context import Unit
from optimizer.routing.hints import USUAL_HINTS, HintSettings


@dataclass(frozen=True)
class Conditions:
    """The conditions under which a layer is simulated.

    routing: name of the policy, see `policies.POLICIES`.
    unit: what the policy counts loads in; None for the unit of the compute cost.
    timing: "barrier" if dispatch, compute and combine follow one another, "overlap" if each token goes on when it can.
    capacity_factor: limits what each replica takes (`capacity.limit_replicas`), as a multiple of a replica's equal part
    of the pairs; None for no limit, where policies that need a factor use `CAPACITY_FACTOR`.
    drop: whether pairs that find no room are dropped instead of being served over capacity.
    slow: how many times longer devices take to compute, by device. dead: devices that serve nothing.
    hints: how load hints are made, for the policies that choose by them.

    Raises InputError if a factor is not a positive number.
    """

    routing: str = "even-source"
    unit: Unit | None = None
    timing: Literal["barrier", "overlap"] = "barrier"
    capacity_factor: float | None = None
    drop: bool = False
    slow: dict[int, float] = field(default_factory=dict)
    dead: tuple[int, ...] = ()
    hints: HintSettings = USUAL_HINTS

    def __post_init__(self) -> None:
        """Raise InputError for factors that are not positive numbers."""
        if self.capacity_factor is not None and not 0 < self.capacity_factor < inf:
            raise InputError(f"a capacity factor of {self.capacity_factor} is not a positive number", "capacity_factor")
        for device, factor in self.slow.items():
            if not 0 < factor < inf:
                raise InputError(f"a factor of {factor} for device {device} is not a positive number", field="slow")

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
        """How many times longer each device takes to compute, `[device]` float64."""
        factor = np.ones(devices)
        factor[list(self.slow)] = list(self.slow.values())
        return factor
