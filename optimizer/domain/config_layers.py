"""Which layers of a model have experts, by the settings in its config.json.

Models say so in several ways, each of which is a rule here. A layer has experts if all rules whose settings are there
allow it. Sources are the model code of transformers and vLLM for the model families that are named beside each rule.
"""

from collections.abc import Callable, Collection
from typing import Any

from optimizer.domain.config_values import Settings, list_of, number_of
from optimizer.domain.model import MOST_LAYERS
from optimizer.errors import InputError

LEADING = ("first_k_dense_replace", "num_dense_layers", "n_dense_layers")
"""How many layers at the beginning are dense: DeepSeek, Kimi, GLM; LFM2 and others."""

STEPS = ("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval", "moe_layer_frequency")
"""Every how many layers there is one with experts, the last of each stretch: Qwen; Llama 4; ERNIE; Arctic."""

KNOWN = (
    *LEADING, *STEPS, "moe_layer_freq", "expert_layer_period", "expert_layer_offset", "moe_layer_start_index",
    "moe_layer_end_index", "mlp_only_layers", "moe_layers", "moe_layers_enum", "mlp_layer_types",
    "hybrid_override_pattern",
)  # fmt: skip
"""All settings that are looked at here."""


def moe_layers_of(settings: Settings, layers: int) -> tuple[int, ...]:
    """The ids of the layers with experts, of this many layers. Raises InputError for settings of another type and for
    lists that do not fit the number of layers."""
    if layers > MOST_LAYERS:
        raise InputError(f"{layers} layers are more than the {MOST_LAYERS} that are read")
    if (listed := _listed(settings, layers)) is not None:
        return listed
    rules = [*_steps(settings), *_stretch(settings), *_exceptions(settings, layers)]
    return tuple(layer for layer in range(layers) if all(rule(layer) for rule in rules))


def _listed(settings: Settings, layers: int) -> tuple[int, ...] | None:
    """The layers that a list names one by one (Llama 4 and, in a text, Step-3), which goes before all rules."""
    named = list_of(settings, "moe_layers", int, "layer ids")
    text = settings.get("moe_layers_enum")
    if named is None and text:
        parts = text.split(",") if isinstance(text, str) else []
        if not parts or not all(part.strip().isdecimal() and len(part) < 8 for part in parts):  # a layer id is short
            raise InputError("moe_layers_enum is not a text of layer ids with commas between them")
        named = [int(part) for part in parts]
    if not named:
        return None  # Llama 4 writes an empty list where the step says which layers they are
    if not all(0 <= layer < layers for layer in named):
        raise InputError(f"moe_layers names layers that are not among the {layers} of num_hidden_layers")
    return tuple(sorted(set(named)))


def _steps(settings: Settings) -> list[Callable[[int], bool]]:
    """The rules by which every so many layers there is one with experts; a step of 0 means none at all."""
    found: list[Callable[[int], bool]] = []
    for name in STEPS:
        if (step := number_of(settings, [name])) is not None:
            found.append(lambda layer, step=step: step > 0 and (layer + 1) % step == 0)  # type: ignore[misc]
    period = number_of(settings, ["expert_layer_period"])  # Jamba
    if period:
        offset = number_of(settings, ["expert_layer_offset"]) or 0
        found.append(lambda layer: layer % period == offset % period)
    return found


def _stretch(settings: Settings) -> list[Callable[[int], bool]]:
    """The rules that name the first and the last layer with experts; ERNIE writes -1 for the last layer there is."""
    leading = max(number_of(settings, [name]) or 0 for name in (*LEADING, "moe_layer_start_index"))
    found: list[Callable[[int], bool]] = [lambda layer: layer >= leading]
    last = None if settings.get("moe_layer_end_index") == -1 else number_of(settings, ["moe_layer_end_index"])
    return found if last is None else [*found, lambda layer: layer <= last]


def _exceptions(settings: Settings, layers: int) -> list[Callable[[int], bool]]:
    """The rules that say of each layer, by a list, whether it has experts, and DeepSeek's step, which counts from 0."""
    found: list[Callable[[int], bool]] = []
    if dense := list_of(settings, "mlp_only_layers", int, "layer ids"):  # Qwen
        found.append(lambda layer: layer not in dense)
    step = settings.get("moe_layer_freq")
    if isinstance(step, list):  # MiniMax, MiMo: 0 or 1 for each layer
        found.append(_each("moe_layer_freq", list_of(settings, "moe_layer_freq", int, "0 and 1") or [], {1}, layers))
    elif (every := number_of(settings, ["moe_layer_freq"])) is not None:
        found.append(lambda layer: every > 0 and layer % every == 0)
    types = list_of(settings, "mlp_layer_types", str, "dense and sparse")  # transformers 5
    if types is not None:
        found.append(_each("mlp_layer_types", types, {"sparse"}, layers))
    pattern = settings.get("hybrid_override_pattern")  # Nemotron-H: a letter for each layer, E for experts
    if isinstance(pattern, str):
        found.append(_each("hybrid_override_pattern", pattern, {"E"}, layers))
    return found


def _each(name: str, values: Collection[Any], moe: set[Any], layers: int) -> Callable[[int], bool]:
    """The rule of a list with one value for each layer; moe: the values that mean experts."""
    if len(values) != layers:
        raise InputError(f"{name} has {len(values)} values, but num_hidden_layers is {layers}")
    every = list(values)
    return lambda layer: every[layer] in moe
