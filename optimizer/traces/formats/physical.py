"""From counts of slots (physical experts) to counts of the experts that they held."""

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.traces.formats.untrusted import LARGEST_ID, Array, UnusableError


def slot_map(array: Array, field: str) -> Ints:
    """A map of slots to experts `[layer, slot]` as int64, in which -1 is a slot without an expert.

    Raises UnusableError for another shape, and for what are no expert ids.
    """
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise UnusableError(f"{field} is {array.dtype.name} {array.shape}, not integers [layer, slot]")
    if array.min() < -1 or array.max() > LARGEST_ID:
        raise UnusableError(f"{field} names experts {array.min()}..{array.max()}, not within 0..{LARGEST_ID}")
    return array.astype(np.int64)


def logical_counts(physical: Ints, experts_of: Ints, experts: int, field: str) -> Ints:
    """Add up the counts of the slots of each expert, `[layer, expert]` int64.

    physical `[layer, slot]` counts; experts_of `[layer, slot]` as of `slot_map`; experts: how many there are. Raises
    UnusableError, which begins with `field`, for shapes that differ, for an expert that there is not, and for counts of
    a slot without an expert.
    """
    if physical.shape != experts_of.shape:
        raise UnusableError(f"{field} has shape {physical.shape}, but its map of slots has {experts_of.shape}")
    if experts_of.max() >= experts:
        raise UnusableError(f"{field} has a map that names expert {experts_of.max()}, but there are {experts} experts")
    empty = experts_of < 0
    if physical[empty].any():
        layer, slot = np.argwhere(empty & (physical > 0))[0].tolist()
        raise UnusableError(f"{field} counts {physical[layer, slot]} in slot {slot} of layer {layer}, which is empty")
    found = np.zeros((len(physical), experts), dtype=np.int64)
    np.add.at(found, (np.arange(len(physical))[:, None], np.where(empty, 0, experts_of)), physical)
    return found
