"""Which model a trace is of, where the user does not say."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from formulations.kit.arrays import Ints
from optimizer.domain.model import MOST_EXPERTS, Model
from optimizer.domain.presets import load_model, names
from optimizer.traces.columns import refuse_constant_columns, surplus_columns, without_columns
from optimizer.traces.corpus import Faults, TraceFile, stream
from optimizer.traces.formats.layer_axis import fits
from optimizer.traces.formats.npz import EXPERTS
from optimizer.traces.formats.request import BadRequestError, Request
from optimizer.traces.kept import NOT_CAPTURED
from optimizer.traces.mending import AS_RECORDED, Mending

DEFAULT_MODEL = "deepseek-v3"

LEAST_SEEN = 0.9
"""The share of a model's ids up to the largest one in a request, below which another preset that fits is likelier. Not
tuned: of the presets with the same top-k and layers, none has more than 0.8 times as many experts as the next."""


@dataclass(frozen=True)
class ModelChoice:
    """What the user said of the model; a field is None where nothing was said of it."""

    name: str | None = None
    routed_experts: int | None = None
    shared_experts: int | None = None
    top_k: int | None = None

    def for_reading(self) -> Model | None:
        """A model by which a format can be read that needs the top-k, before the model of the trace is known."""
        if self.name:
            return model_without_trace(self)
        return Model("unknown", MOST_EXPERTS, 0, self.top_k) if self.top_k else None

    def applied(self, base: Model) -> Model:
        """Change `base` by what was said; a model that then differs from its preset is called custom."""
        said: dict[str, Any] = {
            key: value
            for key in ("routed_experts", "shared_experts", "top_k")
            if (value := getattr(self, key)) is not None and value != getattr(base, key)
        }
        if not said:
            return base
        ungrouped: dict[str, Any] = {"groups": 1, "groups_per_token": 1} if "routed_experts" in said else {}
        return replace(base, name="custom", **said, **ungrouped)


def model_without_trace(choice: ModelChoice) -> Model:
    """The model that was named, DeepSeek-V3 by default, with what else was said of it."""
    return choice.applied(load_model(choice.name or DEFAULT_MODEL))


def model_of_array(choice: ModelChoice, top_k: int, largest_id: int) -> Model:
    """The model of explicit batches: the named one, or DeepSeek-V3 where the array fits it, or what the array shows."""
    default = load_model(DEFAULT_MODEL)
    if choice.name or (top_k == default.top_k and largest_id < default.routed_experts):
        return model_without_trace(choice)
    return choice.applied(Model("custom", choice.routed_experts or largest_id + 1, 0, top_k))


def model_of_files(choice: ModelChoice, files: Sequence[TraceFile], mending: Mending = AS_RECORDED) -> Model:
    """The model of trace files: the named one, else the preset that their first request fits best, else custom.

    A custom model has as many routed experts as the largest id in any file shows, and no shared one, unless the user
    says otherwise. mending: says how many experts there are where ids are physical, or are of no-op experts. Warns
    where several presets fit equally well, of which none is taken then. Raises InputError where a column of choices is
    constant and nobody says the top-k.
    """
    if choice.name:
        return model_without_trace(choice)
    path, first = _first_usable(files, choice)
    if choice.top_k is None:
        refuse_constant_columns(first.experts, f"{path}: {EXPERTS}")
    first, told = replace(first, experts=_choices(first, choice)), _told_by(mending)
    best = _best_fitting(first, told)
    if len(best) == 1:
        return choice.applied(best[0])
    if best and choice.routed_experts is None:
        said = " and ".join(model.name for model in best)
        warnings.warn(f"the traces may be of {said}: name the model; they are taken as of none of them", stacklevel=2)
    top_k = first.experts.shape[2]
    routed = choice.routed_experts or told or _fewest_experts(files, choice, top_k)
    return choice.applied(Model("custom", routed, 0, top_k))


def _best_fitting(request: Request, told: int) -> list[Model]:
    """The presets that a request fits; where there are several, those that it fits best.

    told: how many routed experts there are, 0 where only the request tells.

    Those are the ones with experts in just the layers that have routing, and of these the ones of which the request
    names experts up to the last: a router seldom leaves the upper tenth of its experts unused in a whole request.
    """
    highest = told - 1 if told else int(request.experts.max())
    fitting = [model for name in names("models") if _fits(request, model := load_model(name), highest)]
    if len(fitting) > 1 and request.layers is None:
        fitting = [model for model in fitting if _routed_layers(request) >= set(model.moe_layer_ids)] or fitting
    if len(fitting) > 1:
        fitting = [model for model in fitting if highest + 1 >= LEAST_SEEN * model.routed_experts] or fitting
    return fitting


def _fits(request: Request, model: Model, highest: int) -> bool:
    """Whether a request has the top-k and the layers of a model, no routing where the model has no experts, and no id
    beyond the model's experts."""
    if model.top_k != request.experts.shape[2] or highest >= model.routed_experts:
        return False
    moe = {*model.moe_layer_ids, *model.mtp_layer_ids}
    if request.layers is not None:
        return moe.issuperset(request.layers)
    axis = request.experts.shape[1]
    whole = fits(axis, model.layers, model) and moe >= _routed_layers(request)
    return whole or fits(axis, model.moe_layers, model)


def _routed_layers(request: Request) -> set[int]:
    """The places of the layer axis with any routing; a dense layer names expert 0 alone."""
    return {place for place in range(request.experts.shape[1]) if (request.experts[:, place] > 0).any()}


def _told_by(mending: Mending) -> int:
    """How many routed experts there are, as far as the mending says so; else 0."""
    if mending.no_op_from is not None:
        return mending.no_op_from
    return 0 if mending.placement is None else mending.placement.largest + 1


def _first_usable(files: Sequence[TraceFile], choice: ModelChoice) -> tuple[Path, Request]:
    """The first request that can be read, and its file. Raises InputError where there is none."""
    faults = Faults(strict=False)
    for path, request in stream(files, choice.for_reading()):
        if isinstance(request, Request) and (request.experts.shape[-1] == 1 or request.experts.any()):
            return path, request
        faults.add(path, BadRequestError(NOT_CAPTURED) if isinstance(request, Request) else request)
    faults.warnings(good=0)  # raises
    raise AssertionError


def _fewest_experts(files: Sequence[TraceFile], choice: ModelChoice, top_k: int) -> int:
    """How many experts the largest id of all requests shows, at least as many as a token uses.

    Bad requests are passed over here, and counted when the trace is read.
    """
    largest = max(
        int(_choices(request, choice).max())
        for _, request in stream(files, choice.for_reading())
        if isinstance(request, Request)
    )
    return max(largest + 1, top_k)


def _choices(request: Request, choice: ModelChoice) -> Ints:
    """The experts of a request without constant columns beyond the top-k, where the user says the top-k."""
    routed = choice.routed_experts or MOST_EXPERTS
    surplus = surplus_columns(request.experts, choice.top_k, routed) if choice.top_k else {}
    return without_columns(request.experts, surplus) if surplus else request.experts
