"""Which model a trace is of, where the user does not say."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from optimizer.domain.model import MOST_EXPERTS, Model
from optimizer.domain.presets import load_model, names
from optimizer.traces.corpus import Faults, TraceFile, stream
from optimizer.traces.formats.layer_axis import fits_axis
from optimizer.traces.formats.request import Request

DEFAULT_MODEL = "deepseek-v3"


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
    """The model of explicit batches: the named one, or DeepSeek-V3 where the array fits it, or what the array shows."""
    default = load_model(DEFAULT_MODEL)
    if choice.name or (top_k == default.top_k and largest_id < default.routed_experts):
        return model_without_trace(choice)
    return choice.applied(Model("custom", choice.routed_experts or largest_id + 1, 0, top_k))


def model_of_files(choice: ModelChoice, files: Sequence[TraceFile]) -> Model:
    """The model of trace files: the named one, else the only preset with their layers and top-k, else custom.

    A custom model has as many routed experts as the largest id in any file shows, and no shared one, unless
    the user says otherwise.
    """
    if choice.name:
        return model_without_trace(choice)
    first = _first_usable(files, choice)
    _, axis, top_k = first.experts.shape
    presets = [load_model(name) for name in names("models")]
    fitting = [
        model
        for model in presets
        if model.top_k == top_k
        and (first.layers is not None or fits_axis(axis, model))
        and int(first.experts.max()) < model.routed_experts
    ]
    if len(fitting) == 1:
        return choice.applied(fitting[0])
    return choice.applied(Model("custom", choice.routed_experts or _fewest_experts(files, choice, top_k), 0, top_k))


def _first_usable(files: Sequence[TraceFile], choice: ModelChoice) -> Request:
    """The first request that can be read. Raises InputError where there is none."""
    faults = Faults(strict=False)
    for path, request in stream(files, choice.for_reading()):
        if isinstance(request, Request):
            return request
        faults.add(path, request)
    faults.warnings(good=0)  # raises
    raise AssertionError


def _fewest_experts(files: Sequence[TraceFile], choice: ModelChoice, top_k: int) -> int:
    """How many experts the largest id of all requests shows, at least as many as a token uses.

    Bad requests are passed over here, and counted when the trace is read.
    """
    largest = max(
        int(request.experts.max()) for _, request in stream(files, choice.for_reading()) if isinstance(request, Request)
    )
    return max(largest + 1, top_k)
