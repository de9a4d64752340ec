"""Expert ids that came without their shape: how many layers they have, told by what is said and what they hold."""

from pathlib import Path

from formulations.kit.arrays import Ints
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces.formats.untrusted import UnusableError


def shaped(path: Path, ids: Ints, tokens: int | None, model: Model) -> Ints:
    """Flat ids as `[token, layer, k]` for the model's top-k; tokens: how many there are, None where that is not said.

    They have as many layers as their number of tokens says, if the model can have as many. Else they have all of its
    layers, or those with experts: where a cached prefix was left out there are fewer tokens than are said. Raises
    UnusableError where nothing fits, and InputError where two readings do.
    """
    if len(ids) % model.top_k:
        raise UnusableError(
            f"routed_experts has no .npy header, and its {len(ids)} numbers are no rows of {model.top_k} each"
        )
    rows = ids.reshape(-1, model.top_k)
    said = len(rows) // tokens if tokens and len(rows) % tokens == 0 else 0
    possible = [layers for layers in dict.fromkeys((model.layers, model.moe_layers)) if layers]
    dividing = [layers for layers in possible if len(rows) % layers == 0]
    fitting = [layers for layers in dividing if tokens is None or len(rows) <= layers * tokens]
    if said and (said in fitting or not fitting):
        return rows.reshape(-1, said, model.top_k)
    if not fitting:
        whole = f"{tokens} tokens" if tokens else "tokens"
        raise UnusableError(
            f"routed_experts has {len(rows)} rows of top-{model.top_k}, which do not divide into {whole} or the layers "
            f"of {model.name}; name the model"
        )
    return rows.reshape(-1, _told_by_content(path, rows, fitting, model), model.top_k)


def _told_by_content(path: Path, rows: Ints, fitting: list[int], model: Model) -> int:
    """Which of the numbers of layers rows `[token * layer, k]` have: rows of dense layers are zero, and no others are.

    Raises InputError where that does not tell.
    """
    if len(fitting) == 1:
        return fitting[0]
    used = rows.any(axis=1)
    whole, routed = (used.reshape(-1, layers) for layers in (model.layers, model.moe_layers))
    dense_first = not whole[:, : model.first_moe_layer].any()
    if model.top_k > 1 and dense_first != bool(routed.all()):  # a single choice may be expert 0
        return model.layers if dense_first else model.moe_layers
    readings = " or ".join(f"{len(rows) // layers} tokens of {layers} layers" for layers in fitting)
    raise InputError(
        f"{path}: {len(rows)} rows of top-{model.top_k} are {readings}; record the numbers of tokens (prompt_tokens "
        "and completion_tokens) with them, or name a model with one of these numbers of layers",
        "model",
    )
