"""Which layers of the model the entries of a recorded layer axis are."""

from optimizer.domain.model import Model, in_stretches
from optimizer.errors import InputError


def numbered(axis: int, dense_seen: bool, model: Model | None, first_moe_layer: int | None) -> tuple[int, ...]:
    """The model layer id of each of the `axis` entries of a layer axis.

    An axis that begins with a dense layer (`dense_seen`: nothing is recorded in it) counts all layers from 0. Else it
    starts at `first_moe_layer` where that is given. An axis as long as the model has MoE layers, with or without MTP
    layers, is these layers; and any other counts from 0. Raises InputError where an axis is as long as all layers and
    as long as the MoE layers with the MTP layers.
    """
    every = tuple(range(axis))
    if dense_seen or (first_moe_layer is None and (model is None or not model.layers)):
        return every
    if first_moe_layer is not None:
        return tuple(range(first_moe_layer, first_moe_layer + axis))
    assert model is not None
    moe = (*model.moe_layer_ids, *model.mtp_layer_ids)[:axis] if fits(axis, model.moe_layers, model) else every
    if moe != every and fits(axis, model.layers, model):
        raise InputError(
            f"{axis} recorded layers are layers 0..{axis - 1} of {model.name}, or its MoE layers and the MTP layer, "
            f"{in_stretches(moe)}; say whether they begin with layer 0 or {moe[0]}",
            "first_moe_layer",
        )
    return moe


def fits(axis: int, layers: int, model: Model) -> bool:
    """Whether an axis is as long as these layers of the model, with or without its MTP layers."""
    return axis in (layers, layers + model.mtp_layers)
