"""The placement that was in force while ids were recorded as physical ones, read from its file."""

from pathlib import Path

import numpy as np

from optimizer.errors import InputError
from optimizer.exchange.formats import PLAN, formats_of, read_placement
from optimizer.planning.plan_file import read_plan
from optimizer.traces.physical import PhysicalToLogical


def read_physical_map(path: Path, first_moe_layer: int | None = None) -> PhysicalToLogical:
    """The experts in the slots of a plan, or of a server's placement file.

    Physical ids of a plan number the slots of device 0, then those of device 1, and so on. first_moe_layer: the model's
    first layer with experts, which files need that count only such layers. Raises InputError for what is neither, and
    for a file whose layers cannot be numbered.
    """
    if formats_of(path) != [PLAN]:
        return _of_server(path, first_moe_layer)
    plan = read_plan(path)
    layers = sorted(plan.layers)
    slots = np.stack([plan.layers[layer].placement.slots.ravel() for layer in layers])
    return PhysicalToLogical(slots, tuple(layers), str(path))


def _of_server(path: Path, first_moe_layer: int | None) -> PhysicalToLogical:
    """The experts in the slots of a server's file."""
    placement = read_placement(path)
    if placement.numbering == "moe" and first_moe_layer is None:
        raise InputError(
            f"{path}: counts only layers with experts, so it does not say which layers of the model these are; give "
            "the first of them",
            "first_moe_layer",
        )
    numbered = placement.numbered(first_moe_layer or 0)
    return PhysicalToLogical(numbered.physical_to_logical, numbered.layers, str(path))
