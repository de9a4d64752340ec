"""The inference servers' token-level routing (DOMAIN section 4): responses, bare arrays and routing lines."""

from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces.formats.request import BadRequestError, Request
from optimizer.traces.formats.sniff import Format
from optimizer.traces.formats.untrusted import (
    INTEGERS,
    LARGEST_ID,
    UnusableError,
    array_from_lists,
    array_from_npy,
    bytes_from_base64,
    count_from,
    json_values,
)

Response = dict[str, object]


def read_requests(path: Path, kind: Format, model: Model | None) -> Iterator[Request | BadRequestError]:
    """Read the requests of a file in its order; in place of one that cannot be used comes a BadRequestError.

    Only SGLang's responses need the model, for its top-k. The native format has a reader of its own. Raises
    InputError for a file that cannot be opened, SGLang's without a model, and formats that only count.
    """
    match kind:
        case Format.NPY:
            return _bare_array(path)
        case Format.VLLM:
            return _responses(path, "routed_experts", _vllm_request)
        case Format.ROUTING_JSONL:
            return _routing_lines(path)
        case Format.SGLANG:
            if model is None:
                said = f"{path}: SGLang writes flat ids, so the top-k must be known; give it, or the model"
                raise InputError(said, "top_k")
            return _responses(path, "meta_info", partial(_sglang_request, model=model))
    raise InputError(f"{path}: format {kind} does not say what each token chose; name requests, not counts")


def _bare_array(path: Path) -> Iterator[Request | BadRequestError]:
    """Read vLLM's `routed_experts` from a `.npy` file; as it does not tell prompt and output apart, all is output."""
    try:
        with path.open("rb") as file:
            yield Request(_three_axes(array_from_npy(file, path.stat().st_size, INTEGERS)), 0)
    except UnusableError as error:
        yield BadRequestError(f"the array {error}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a file that you may read") from None


def _three_axes(array: Ints) -> Ints:
    """The array, if it has the axes token, layer and choice."""
    if array.ndim != 3:
        raise UnusableError(f"has shape {array.shape}, not [token, layer, top_k]")
    return array


def _responses(
    path: Path, field: str, read: Callable[[Response, Response, bool], Request]
) -> Iterator[Request | BadRequestError]:
    """Yield every request of every response, made by `read(part, response, whether it is the only part)`."""
    for where, value in json_values(path):
        try:
            response = _object(value)
            parts = _parts(response, field)
        except UnusableError as error:
            yield BadRequestError(f"{where}{error}")
            continue
        for name, part in parts:
            try:
                yield read(_object(part), response, len(parts) == 1)
            except UnusableError as error:
                yield BadRequestError(f"{where}{name}{error}")


def _object(value: object) -> Response:
    """The value, if it is a JSON object."""
    if isinstance(value, UnusableError):
        raise value
    if not isinstance(value, dict):
        raise UnusableError("not a JSON object")
    return value


def _parts(response: Response, field: str) -> list[tuple[str, object]]:
    """The parts of a response that may hold the field, each with its place: its `choices`, its `outputs`, or itself."""
    for name in ("choices", "outputs"):
        listed = response.get(name)
        if isinstance(listed, list) and response.get(field) is None:
            return [(f"{name}[{number}]: ", part) for number, part in enumerate(listed)]
    return [("", response)]


def _vllm_request(part: Response, response: Response, alone: bool) -> Request:
    encoded = bytes_from_base64(part.get("routed_experts"), "routed_experts")
    try:
        experts = _three_axes(array_from_npy(BytesIO(encoded), len(encoded), INTEGERS))
    except UnusableError as error:
        raise UnusableError(f"routed_experts {error}") from None
    usage = response.get("usage")
    prompt = _length(part, "prompt_token_ids") or _length(response, "prompt_token_ids")
    output = _length(part, "token_ids")
    if output is None and alone:  # usage adds up the outputs of all choices
        output = count_from(usage, "completion_tokens")
    return Request(experts, _prompt_part(len(experts), prompt or count_from(usage, "prompt_tokens") or 0, output))


def _length(holder: Response, key: str) -> int | None:
    """How many token ids a field lists, None where it is no list."""
    ids = holder.get(key)
    return len(ids) if isinstance(ids, list) else None


def _prompt_part(tokens: int, prompt: int, output: int | None) -> int:
    """How many recorded tokens belong to the prompt: a cached prefix may lack, the last output token always does."""
    left = tokens if output is None else tokens - max(output - 1, 0)
    return max(0, min(prompt, left))


def _sglang_request(part: Response, response: Response, alone: bool, model: Model) -> Request:
    meta = part.get("meta_info")
    encoded = bytes_from_base64(meta.get("routed_experts") if isinstance(meta, dict) else None, "routed_experts")
    if not encoded or len(encoded) % (4 * model.top_k):
        raise UnusableError(f"routed_experts has {len(encoded)} bytes, which are no rows of {model.top_k} int32 each")
    prompt, output = count_from(meta, "prompt_tokens") or 0, count_from(meta, "completion_tokens")
    ids = np.frombuffer(encoded, "<i4").reshape(-1, model.top_k)
    layers = _layer_count(len(ids), prompt + output - 1 if prompt and output else None, model)
    experts = ids.reshape(-1, layers, model.top_k)
    return Request(experts, _prompt_part(len(experts), prompt, output))


def _layer_count(rows: int, tokens: int | None, model: Model) -> int:
    """How many layers a flat array of `rows` top-k choices has.

    It has as many as its number of tokens says, if the model can have as many. Else it has as many as the model: where
    a cached prefix was left out, the array holds fewer tokens than are said.
    """
    said = rows // tokens if tokens and rows % tokens == 0 else 0
    possible = [layers for layers in (model.layers, model.moe_layers) if layers and rows % layers == 0]
    fitting = [layers for layers in possible if tokens is None or rows <= layers * tokens]
    if said and (said in fitting or not fitting):
        return said
    if fitting:
        return fitting[0]
    raise UnusableError(
        f"routed_experts has {rows} rows of top-{model.top_k}, which do not divide into "
        f"{f'{tokens} tokens' if tokens else 'tokens'} or the layers of {model.name}; name the model"
    )


def _routing_lines(path: Path) -> Iterator[Request | BadRequestError]:
    """Read one request for each `batch_id`, whose tokens are all output; its lines may be anywhere in the file.

    Each line holds one layer. The field `origin_rows`, from where the tokens came, is not read.
    """
    batches: dict[int, dict[int, Ints]] = {}
    faults: dict[int, BadRequestError] = {}
    for where, value in json_values(path):
        try:
            line = _object(value)
            batch, layer = (_id(line, key) for key in ("batch_id", "layer"))
        except UnusableError as error:
            yield BadRequestError(f"{where}{error}")
            continue
        try:
            _add(batches.setdefault(batch, {}), layer, line)
        except UnusableError as error:
            faults.setdefault(batch, BadRequestError(f"{where}{error}"))
    for batch, choices in batches.items():
        yield faults.get(batch) or _joined(choices)


def _id(line: Response, key: str) -> int:
    """The whole number of a field that a line must have."""
    value = count_from(line, key)
    if value is None:
        raise UnusableError(f"has no {key}")
    return value


def _add(choices: dict[int, Ints], layer: int, line: Response) -> None:
    """Add a line's `[token, k]` choices to those of the other layers of its batch."""
    experts = array_from_lists(line.get("topk_experts"), "topk_experts")
    if experts.dtype.kind not in INTEGERS or experts.ndim != 2 or experts.min() < 0 or experts.max() > LARGEST_ID:
        raise UnusableError(f"topk_experts is no [token, top_k] of expert ids from 0 to {LARGEST_ID}")
    if layer in choices:
        raise UnusableError(f"has layer {layer} of its batch a second time")
    other = next(iter(choices.values()), experts)
    if other.shape != experts.shape:
        raise UnusableError(f"topk_experts is {experts.shape} where another layer of its batch is {other.shape}")
    choices[layer] = experts.astype(np.uint16)


def _joined(choices: dict[int, Ints]) -> Request:
    """One request from the choices of its layers."""
    layers = sorted(choices)
    return Request(np.stack([choices[layer] for layer in layers], axis=1), 0, tuple(layers))
