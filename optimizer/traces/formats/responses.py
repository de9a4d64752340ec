"""The responses of inference servers that say which experts each token chose: vLLM's, SGLang's, LMDeploy's and others.

They differ in where the field `routed_experts` stands and in what form; each response shows both. All count tokens
alike: rows cover the prompt and the output but for its last token, which is never run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces.formats.flat_ids import shaped
from optimizer.traces.formats.request import BadRequestError, Request
from optimizer.traces.formats.routed_values import Routed, named_type, routed_from
from optimizer.traces.formats.untrusted import UnusableError, count_from, json_values

Response = dict[str, object]
EXPERTS, PROMPT_EXPERTS = "routed_experts", "prompt_routed_experts"
PARTS = ("choices", "outputs")
INSIDE = ("meta_info", "sgl_ext", "sglext")  # objects of a response, or of a part of it, that may hold the field
START, TYPE = "routed_experts_start_len", "routed_experts_dtype"


def read_responses(path: Path, model: Model | None) -> Iterator[Request | BadRequestError]:
    """Yield a request for every choice of every response; a BadRequestError comes in place of one that is unusable.

    Raises InputError where ids are flat and their top-k is not known, and where they fit two readings.
    """
    for where, value in json_values(path):
        try:
            response = an_object(value)
            parts = _parts(response)
        except UnusableError as error:
            yield BadRequestError(f"{where}{error}")
            continue
        for name, part in parts:
            try:
                yield _request(path, an_object(part), response, len(parts) == 1, model)
            except UnusableError as error:
                yield BadRequestError(f"{where}{name}{error}")


def an_object(value: object) -> Response:
    """The value, if it is a JSON object."""
    if isinstance(value, UnusableError):
        raise value
    if not isinstance(value, dict):
        raise UnusableError("not a JSON object")
    return value


def _parts(response: Response) -> list[tuple[str, object]]:
    """The parts of a response that are requests, each with its place: its `choices`, its `outputs`, or itself."""
    for name in PARTS:
        listed = response.get(name)
        if isinstance(listed, list) and _holder(response) is None:
            return [(f"{name}[{number}]: ", part) for number, part in enumerate(listed)]
    return [("", response)]


def _holder(part: Response) -> Response | None:
    """The object that has the field: the part itself, or one inside it; None where there is none."""
    inside = [held for name in INSIDE if isinstance(held := part.get(name), dict)]
    having = [held for held in (part, *inside) if held.get(EXPERTS) is not None]
    if len(having) > 1:
        raise UnusableError(f"has {EXPERTS} in more than one place; leave one of them")
    return having[0] if having else None


@dataclass(frozen=True)
class Counted:
    """What a response says of its tokens: those of the prompt and of the output, and the place of the first row; None
    where it does not say them."""

    prompt: int | None
    output: int | None
    start: int | None

    def rows(self) -> int | None:
        """How many rows there should be, None where that is not said."""
        if not self.prompt or not self.output:
            return None
        rows = self.prompt + self.output - 1 - (self.start or 0)
        if rows <= 0:
            raise UnusableError(f"its rows begin at token {self.start}, behind the {self.prompt + self.output - 1} run")
        return rows

    def prompt_part(self, rows: int) -> int:
        """How many of the rows are of the prompt: a cached prefix may lack, the last output token always does."""
        left = rows if self.output is None else rows - max(self.output - 1, 0)
        return max(0, min((self.prompt or 0) - (self.start or 0), left))

    def skipped(self, rows: int) -> int:
        """How many tokens come before the first row."""
        wanted = self.rows()
        return (self.start or 0) + (max(0, wanted - rows) if wanted else 0)


def _request(path: Path, part: Response, response: Response, alone: bool, model: Model | None) -> Request:
    """The request of a part of a response; alone: whether it is the only part, so that counts of all are its own."""
    holder = _holder(part)
    places = [held for held in (holder, part, part.get("meta_info"), response) if isinstance(held, dict)]
    typed = next((held for held in places if held.get(TYPE) is not None), None)
    dtype = "int32" if typed is None else named_type(typed, TYPE, EXPERTS)
    first = _prompt_rows(path, part, response, dtype, model)
    value = None if holder is None else holder[EXPERTS]
    if first is not None and (holder is None or value == []):
        return Request(first, len(first))
    routed = routed_from(value, EXPERTS, dtype)
    counted = _counted(part, response, places, alone, routed)
    if first is not None:
        return _joined(first, _shaped(path, routed, None, model))
    wanted, experts = counted.rows(), _shaped(path, routed, counted.rows(), model)
    if wanted is not None and len(experts) > wanted + 1:  # some servers run the last token too
        raise UnusableError(f"{EXPERTS} has {len(experts)} tokens, but {wanted} were run after its start")
    return Request(experts, counted.prompt_part(len(experts)), skipped=counted.skipped(len(experts)))


def _counted(part: Response, response: Response, places: list[Response], alone: bool, routed: Routed) -> Counted:
    """What is said of a part's tokens, by the part itself before what the whole response says."""
    usage, meta = response.get("usage"), part.get("meta_info")
    listed = _length(part, "prompt_token_ids") or _length(response, "prompt_token_ids")
    prompt = listed or count_from(meta, "prompt_tokens") or count_from(usage, "prompt_tokens")
    output = _length(part, "token_ids")
    if output is None:
        output = count_from(meta, "completion_tokens")
    if output is None and alone:  # usage adds up the outputs of all choices
        output = count_from(usage, "completion_tokens")
    said = next((count_from(held, START) for held in places if held.get(START) is not None), None)
    if said is not None and routed.start not in (None, said):
        raise UnusableError(f"{START} is {said}, but the start of its payload {routed.start}")
    return Counted(prompt, output, said if routed.start is None else routed.start)


def _length(holder: Response, key: str) -> int | None:
    """How many token ids a field lists, None where it is no list."""
    ids = holder.get(key)
    return len(ids) if isinstance(ids, list) else None


def _prompt_rows(path: Path, part: Response, response: Response, dtype: str, model: Model | None) -> Ints | None:
    """The rows of the prompt that stand beside the choices, or in one, and serve it; None where there are none."""
    own = part.get(PROMPT_EXPERTS)
    value = response.get(PROMPT_EXPERTS) if own is None else own
    if value is None or (isinstance(value, list) and not value):
        return None
    return _shaped(path, routed_from(value, PROMPT_EXPERTS, dtype), None, model)


def _joined(prompt: Ints, output: Ints) -> Request:
    """The request of a prompt part and a generated part."""
    if prompt.shape[1:] != output.shape[1:]:
        raise UnusableError(
            f"{EXPERTS} is {output.shape}, whose layers or top-k are not those of {PROMPT_EXPERTS} {prompt.shape}"
        )
    return Request(np.concatenate([prompt, output]), len(prompt))


def _shaped(path: Path, routed: Routed, tokens: int | None, model: Model | None) -> Ints:
    """The ids as `[token, layer, k]`; tokens: how many there are, None where that is not said."""
    if routed.ids.ndim == 3:
        return routed.ids
    if model is None:
        said = f"{path}: its expert ids are flat, so the top-k must be known; give it, or the model"
        raise InputError(said, "top_k")
    return shaped(path, routed.ids, tokens, model)
