"""Which model a server's file is for: what the user says, or the only built-in one that the file fits."""

from dataclasses import replace

from optimizer.domain.model import Model
from optimizer.domain.presets import load_model, names
from optimizer.errors import InputError
from optimizer.exchange.formats import FORMATS
from optimizer.exchange.server_placement import ServerPlacement
from optimizer.traces.infer import ModelChoice


def model_of(placement: ServerPlacement, choice: ModelChoice, first_moe_layer: int | None) -> tuple[Model, list[str]]:
    """The model of a placement, and notes on what was inferred.

    Where the format does not name shared experts the model has none, as they are not in slots. first_moe_layer: the
    model's, None where the user does not say. Raises InputError where neither the user nor the file tells the model.
    """
    base = known_model(placement, choice)
    if base is not None:
        keeps = FORMATS[placement.format].names_shared and placement.experts == base.experts
        shared = choice.shared_experts if choice.shared_experts is not None else None if keeps else 0
        model = replace(choice, shared_experts=shared).applied(base)
        if first_moe_layer is not None:
            model = replace(model, first_moe_layer=first_moe_layer)
        return model, [] if choice.name else [f"the file fits {base.name}, which it is taken to be for"]
    if choice.top_k is None:
        said = (
            f"the file has {placement.experts} experts, but does not say which model they are of nor how many of them"
        )
        raise InputError(f"{said} a token uses", "top_k")
    return _custom(placement, choice, first_moe_layer)


def known_model(placement: ServerPlacement, choice: ModelChoice) -> Model | None:
    """The built-in model that was named, or the only one that a placement fits; None if there is none."""
    fitting = [choice.name] if choice.name else [name for name in names("models") if fits(load_model(name), placement)]
    return load_model(fitting[0]) if len(fitting) == 1 else None


def fits(model: Model, placement: ServerPlacement) -> bool:
    """Whether a placement has a model's experts, and a row for each layer that its format asks for."""
    form = FORMATS[placement.format]
    experts = (model.routed_experts, model.experts) if form.names_shared else (model.routed_experts,)
    rows = len(placement.layers)
    if placement.experts not in experts or not model.layers:
        return False
    if form.rows == "hidden":
        return rows == model.layers
    if form.rows == "moe":
        return rows == model.moe_layers
    inside = all(
        model.first_moe_layer <= layer <= model.layers for layer in placement.layers
    )  # the last is the MTP one
    return form.rows == "one" or (inside and (form.rows == "planned" or rows >= model.moe_layers))


def _custom(placement: ServerPlacement, choice: ModelChoice, first_moe_layer: int | None) -> tuple[Model, list[str]]:
    """A model that has what the file shows."""
    first, notes = first_moe_layer or 0, []
    if placement.numbering == "moe":
        layers = first + len(placement.layers)
        if first_moe_layer is None:
            notes.append("the file counts layers with experts alone; the first one is taken to be layer 0")
    else:
        layers = placement.layers[-1] + 1
        by_id = FORMATS[placement.format].rows == "ids"
        first = placement.layers[0] if by_id and first_moe_layer is None else first
    named = choice.routed_experts or placement.routed
    routed = named or placement.experts
    shared = placement.experts - routed if FORMATS[placement.format].names_shared else 0
    if FORMATS[placement.format].names_shared and named is None:
        notes.append(f"all {routed} experts are taken to be routed ones; say how many are, where some are shared")
    assert choice.top_k is not None, "model_of asks for it"
    return Model("custom", routed, max(0, shared), choice.top_k, layers, first), notes
