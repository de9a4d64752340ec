"""Models from the `config.json` that their makers publish beside the weights."""

import json
import re
import warnings
from os.path import isdir  # unlike Path.is_dir it takes any text, and a name too long is no folder
from pathlib import Path
from typing import Any

from optimizer.domain import config_layers
from optimizer.domain.config_values import Settings, number_of
from optimizer.domain.model import Model
from optimizer.errors import InputError

CONFIG = "config.json"

EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts", "num_routed_experts")
TOP_K = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_top_k", "moe_topk", "moe_k",
         "num_selected_experts", "top_k_experts")  # fmt: skip
SHARED = ("n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts")
SHARED_WIDTH = ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "share_expert_dim")
LAYERS = ("num_hidden_layers", "n_layers", "num_layers")
MTP = ("num_nextn_predict_layers", "mtp_num_hidden_layers")
HIDDEN = ("hidden_size", "d_model")
WIDTHS = ("moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size", "intermediate_size",
          "ffn_hidden_size")  # fmt: skip
GROUPS, GROUPS_PER_TOKEN = ("n_group", "num_expert_group"), ("topk_group",)
"""The names under which models of different makers have each number, as in their files and in the code of transformers
and vLLM. Of the widths the first that is there counts, as the last two are those of dense layers where experts have one
of their own, and that of the experts else (Mixtral, OLMoE, gpt-oss, Llama 4, DBRX)."""

KNOWN = {
    *EXPERTS, *TOP_K, *SHARED, *SHARED_WIDTH, *LAYERS, *MTP, *HIDDEN, *WIDTHS, *GROUPS, *GROUPS_PER_TOKEN,
    *config_layers.KNOWN,
}  # fmt: skip

NESTED = ("text_config", "llm_config", "language_config", "ffn_config")
"""Where models for pictures and sound keep the settings of their language model, and DBRX those of its experts."""

ONE_SHARED = re.compile(r"llama4(_text)?")
"""Model types with one shared expert of which their files say nothing."""

NOT_SIZES = {"act", "aux", "bias", "capacity", "coef", "coeff", "dropout", "eps", "factor", "gate", "group", "jitter",
             "loss", "norm", "quant", "renormalize", "router", "scale", "scaling", "weight"}  # fmt: skip
"""Words in the names of settings of experts that do not bear on where experts are placed."""

MOST_BYTES = 1 << 24
"""No config.json comes near 16 MB: a larger file is another one, and would take long to read."""


def is_config(name: str) -> bool:
    """Whether a model's name is meant as the path of a config.json, or of a folder that may hold one."""
    return name.endswith(".json") or "/" in name or "\\" in name or isdir(name)


def model_of_config(name: str) -> Model:
    """The model of a config.json, or of a folder that holds one; it is called like the folder.

    Warns of settings that look like those of experts and that nothing is known of. Raises InputError, which names the
    file and the setting, for a file that cannot be read, a model without experts, a number that lacks, and numbers
    that no model can have.
    """
    path = Path(name) / CONFIG if isdir(name) else Path(name)
    try:
        settings = _language_model(_read(path))
        model = _model(path.resolve().parent.name or "custom", settings)
    except InputError as error:
        raise InputError(f"{path}: {error}", "model") from None
    if strange := _unknown(settings):
        said = f"{path}: {', '.join(strange)} look like settings of experts, but are not known here and not used"
        warnings.warn(said, stacklevel=2)
    return model


def _read(path: Path) -> dict[str, Any]:
    """The settings in a file. Raises InputError where it is not JSON with names and values."""
    if path.parent.is_dir() and not path.exists():
        raise InputError(f"no such file; give a model's {CONFIG}, a folder that holds one, or the name of a preset")
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise InputError(f"larger than {MOST_BYTES >> 20} MB, so it is no {CONFIG} of a model")
        found = json.loads(text)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error}); give a model's {CONFIG}") from None
    except (ValueError, RecursionError) as error:  # of JSON, of Unicode, and of numbers with thousands of digits
        raise InputError(f"not JSON ({str(error)[:80]}); give a model's {CONFIG}") from None
    if not isinstance(found, dict):
        raise InputError(f"holds no names and values; give a model's {CONFIG}")
    return found


def _language_model(settings: dict[str, Any]) -> Settings:
    """The settings of the language model: where a nested part has the experts, that part before all else."""
    nested = [part for name in NESTED if isinstance(part := settings.get(name), dict)]
    held = next((part for part in nested if any(part.get(name) is not None for name in EXPERTS)), None)
    if held is None:
        return settings
    outer, inner = number_of(settings, EXPERTS), number_of(held, EXPERTS)
    if outer is not None and outer != inner:
        raise InputError(f"names {outer} experts, but {inner} in a nested part; remove the wrong number")
    return settings | held


def _model(name: str, settings: Settings) -> Model:
    """The model that the settings describe."""
    experts = number_of(settings, EXPERTS)
    if not experts:
        kind = settings.get("model_type")
        what = f"a model of type {kind}" if isinstance(kind, str) else "this model"
        raise InputError(
            f"{what[:60]} has no experts, so that there is nothing to place: none of {', '.join(EXPERTS)} is there"
        )
    layers = _needed(settings, LAYERS, "number of layers", "the layers and the number of experts")
    moe = config_layers.moe_layers_of(settings, layers)
    if not moe:
        raise InputError(f"none of its {layers} layers has experts, so that there is nothing to place")
    hidden, width = number_of(settings, HIDDEN), _width(settings)
    known = bool(hidden and width)
    return Model(
        name,
        routed_experts=experts,
        shared_experts=_shared(settings, width),
        top_k=_needed(settings, TOP_K, "number of experts per token", "the number of experts and the top-k"),
        layers=layers,
        first_moe_layer=moe[0],
        groups=number_of(settings, GROUPS) or 1,
        groups_per_token=number_of(settings, GROUPS_PER_TOKEN) or 1,
        mtp_layers=number_of(settings, MTP) or 0,
        dense_layers=tuple(sorted({*range(moe[0], layers)} - set(moe))),
        hidden_size=hidden or 0 if known else 0,
        expert_width=width or 0 if known else 0,
    )


def _needed(settings: Settings, names: tuple[str, ...], what: str, instead: str) -> int:
    """A number without which nothing can be planned."""
    found = number_of(settings, names)
    if found is None:
        raise InputError(
            f"no {what}: none of {', '.join(names)} is there; add one of them, or give {instead} without this file"
        )
    return found


def _width(settings: Settings) -> int | None:
    """The inner size of an expert."""
    return next((found for name in WIDTHS if (found := number_of(settings, [name])) is not None), None)


def _shared(settings: Settings, width: int | None) -> int:
    """How many shared experts of the size of a routed one there are. Qwen has a single one, whose width is that of
    several, or of a part of one."""
    said = number_of(settings, SHARED)
    if said is not None:
        return said
    together = number_of(settings, SHARED_WIDTH)
    if together and width:
        return -(-together // width)
    kind = settings.get("model_type")
    return int(isinstance(kind, str) and ONE_SHARED.fullmatch(kind) is not None)


def _unknown(settings: Settings) -> list[str]:
    """The names of settings that look like numbers of experts or of layers with experts, and are not known."""
    return [
        name[:60]
        for name, value in settings.items()
        if isinstance(value, int | list) and not isinstance(value, bool)
        if re.search(r"expert|moe", name) and name not in KNOWN and not NOT_SIZES & {*name.split("_")}
    ]
