"""Which layers of the model the entries of a recorded layer axis are."""

from optimizer.domain.model import Model
from optimizer.errors import InputError


def numbered(axis: int, dense_seen: bool, model: Model | None, first_moe_layer: int | None) -> range:
    """The model layer id of each of the `axis` entries of a layer axis, which are consecutive layers.

    An axis that begins with a dense layer (`dense_seen`: nothing is recorded in it) counts all layers from 0. Else it
    starts at `first_moe_layer` where that is given; at the model's first MoE layer where it is as long as the model's
    MoE layers, with or without MTP layers; and at 0 otherwise, or where no model is known. Raises InputError where an
    axis is as long as all layers and as long as the MoE layers with the MTP layers.
    """
    if dense_seen:
        return range(axis)
    if first_moe_layer is not None:
        return range(first_moe_layer, first_moe_layer + axis)
    if model is None or not model.layers:
        return range(axis)
    moe, whole = (axis in _lengths(layers, model) for layers in (model.moe_layers, model.layers))
    first = model.first_moe_layer
    if moe and whole and first:
        raise InputError(
            f"{axis} recorded layers are layers 0..{axis - 1} of {model.name}, or its MoE layers and the MTP layer, "
            f"{first}..{first + axis - 1}; say whether they begin with layer 0 or {first}",
            "first_moe_layer",
        )
    start = first if moe else 0
    return range(start, start + axis)


def fits_axis(axis: int, model: Model) -> bool:
    """Whether a recording of this model has an axis of so many layers: its MoE layers or all of its layers, with or
    without MTP layers."""
    return axis in (*_lengths(model.moe_layers, model), *_lengths(model.layers, model))


def _lengths(layers: int, model: Model) -> tuple[int, int]:
    """The length of an axis of these layers, without and with MTP layers."""
    return layers, layers + model.mtp_layers
