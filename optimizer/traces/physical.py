"""Ids that servers recorded as physical ids, which number the slots of the placement in force, and the experts
there."""

from dataclasses import dataclass, replace

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.arrays import fitting, frozen
from optimizer.domain.placement import EMPTY
from optimizer.errors import InputError
from optimizer.traces.formats.counts import Counts
from optimizer.traces.trace import RoutingTrace


@dataclass(frozen=True, eq=False)
class PhysicalToLogical:
    """Which expert lay in which slot while it was recorded.

    experts `[layer, slot]` int32 logical ids, -1 for an empty slot; layers: the model layer id of each entry of the
    first axis; source: where this is from, in words. The array is copied and read-only. Raises ValueError for shapes
    that do not fit together, and for a layer that is named twice.
    """

    experts: Ints
    layers: tuple[int, ...]
    source: str

    def __post_init__(self) -> None:
        if self.experts.ndim != 2 or len(self.layers) != len(self.experts) or len({*self.layers}) < len(self.layers):
            raise ValueError(f"experts {self.experts.shape} are not [layer, slot] for layers {self.layers}")
        object.__setattr__(self, "experts", frozen(fitting("experts", self.experts, np.int32, lowest=EMPTY)))

    @property
    def slots(self) -> int:
        """How many physical ids there are."""
        return int(self.experts.shape[1])

    @property
    def largest(self) -> int:
        """The largest logical id in any slot."""
        return int(self.experts.max())

    def of(self, layer: int) -> Ints:
        """The logical id in each slot of a layer, `[slot]`. Raises InputError for a layer that is not there."""
        if layer not in self.layers:
            held = f"{min(self.layers)}..{max(self.layers)}" if self.layers else "none"
            raise InputError(
                f"{self.source} has layers {held}, not layer {layer}, so its ids stay unknown", "placement"
            )
        found: Ints = self.experts[self.layers.index(layer)]
        return found

    def logical(self, ids: Ints, layer: int) -> Ints:
        """The logical ids for physical ids of a layer, of any shape. Raises InputError for what is no filled slot."""
        low, high = int(ids.min(initial=0)), int(ids.max(initial=0))
        if low < 0 or high >= self.slots:
            strange = low if low < 0 else high
            raise InputError(
                f"physical id {strange} in layer {layer} is no slot of {self.source}, which has 0..{self.slots - 1}; "
                "name the placement that was in force",
                "placement",
            )
        found: Ints = self.of(layer)[ids]
        if (found == EMPTY).any():
            slot = int(ids[found == EMPTY].flat[0])
            raise InputError(
                f"physical id {slot} in layer {layer} is an empty slot of {self.source}; name the placement that was "
                "in force",
                "placement",
            )
        return found


def logical_ids(recorded: RoutingTrace | Counts, placement: PhysicalToLogical) -> RoutingTrace | Counts:
    """The same recording with logical ids instead of physical ones; of counts, those of an expert's slots are added up.

    Raises InputError for layers that the placement lacks, and for ids that are no filled slots of it.
    """
    if isinstance(recorded, Counts):
        return logical_counts(recorded, placement)
    places = [placement.logical(recorded.experts[:, n], layer) for n, layer in enumerate(recorded.layers)]
    return replace(recorded, experts=np.stack(places, axis=1).astype(np.uint16), candidates=None)


def logical_counts(counts: Counts, placement: PhysicalToLogical) -> Counts:
    """Counts by expert from counts by slot. Raises InputError as `logical_ids` does."""
    slots = counts.load.shape[2]
    if slots != placement.slots:
        raise InputError(
            f"{counts.source} counts {slots} physical ids, but {placement.source} has {placement.slots} slots; name "
            "the placement that was in force",
            "placement",
        )
    load = np.zeros((*counts.load.shape[:2], placement.largest + 1), dtype=np.int64)
    for place, layer in enumerate(counts.layers):
        held = np.flatnonzero(counts.load[:, place].any(axis=0))
        experts = placement.logical(held, layer) if len(held) else held
        for step in range(len(load)):
            np.add.at(load[step, place], experts, counts.load[step, place, held])
    return replace(counts, load=load)
