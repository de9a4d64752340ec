"""Which model a trace is of, where the user does not say."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from optimizer.errors import InputError
from optimizer.model import Model
from optimizer.presets import load_model, names
from optimizer.traces.npz import read_request
from optimizer.traces.request import BadRequestError, Request

DEFAULT_MODEL = "deepseek-v3"


@dataclass(frozen=True)
class ModelChoice:
    """What the user said of the model; None where nothing was said."""

    name: str | None = None
    routed_experts: int | None = None
    shared_experts: int | None = None
    top_k: int | None = None

    def applied(self, base: Model) -> Model:
        """`base` with what was said; a model that then differs from its preset is called custom."""
        said = {
            key: value
            for key in ("routed_experts", "shared_experts", "top_k")
            if (value := getattr(self, key)) is not None and value != getattr(base, key)
        }
        if not said:
            return base
        ungrouped = {"groups": 1, "groups_per_token": 1} if "routed_experts" in said else {}
        return replace(base, name="custom", **said, **ungrouped)


def model_without_trace(choice: ModelChoice) -> Model:
    """The model that was named, DeepSeek-V3 by default, with what else was said of it."""
    return choice.applied(load_model(choice.name or DEFAULT_MODEL))


def model_of_array(choice: ModelChoice, top_k: int, largest_id: int) -> Model:
    """The model of explicit batches: the named one, DeepSeek-V3 where the array fits it, else as the array shows."""
    default = load_model(DEFAULT_MODEL)
    if choice.name or (top_k == default.top_k and largest_id < default.routed_experts):
        return model_without_trace(choice)
    return choice.applied(Model("custom", choice.routed_experts or largest_id + 1, 0, top_k))


def model_of_files(choice: ModelChoice, files: Sequence[Path]) -> Model:
    """The model of request files: the named one, else the only preset with their layers and top-k, else custom.

    A custom model has as many routed experts as the largest id in any file shows, and no shared one, unless
    the user says otherwise.
    """
    if choice.name:
        return model_without_trace(choice)
    first = _first_usable(files)
    _, axis, top_k = first.experts.shape
    presets = [load_model(name) for name in names("models")]
    fitting = [
        model
        for model in presets
        if model.top_k == top_k
        and axis in (model.moe_layers, model.layers)
        and int(first.experts.max()) < model.routed_experts
    ]
    if len(fitting) == 1:
        return choice.applied(fitting[0])
    return choice.applied(Model("custom", choice.routed_experts or _largest_id(files) + 1, 0, top_k))


def _first_usable(files: Sequence[Path]) -> Request:
    fault = ""
    for path in files:
        try:
            return read_request(path)
        except BadRequestError as error:
            fault = fault or f"{path}: {error}"
    others = f" ({len(files)} requests, none usable)" if len(files) > 1 else ""
    raise InputError(f"{fault}{others}; record it again, or name other requests")


def _largest_id(files: Sequence[Path]) -> int:
    largest = 0
    for path in files:
        try:
            largest = max(largest, int(read_request(path).experts.max()))
        except BadRequestError:  # counted when the requests are read for good
            continue
    return largest
