"""One request of a trace, whatever file it was read from."""

from dataclasses import dataclass

from formulations.kit.arrays import Floats, Ints


@dataclass(frozen=True, eq=False)
class Request:
    """The routing of one request, as it was read and still unchecked.

    experts `[token, layer, k]` of any integer type, where a token whose ids are all -1 was not recorded; the first
    prompt_tokens tokens are the prompt. layers: the model layer id of each entry of the layer axis, None where
    `npz.layer_ids` must infer it. weights `[token, layer, k]` gate weights and candidates `[token, layer, m > k]`
    ranked expert ids are None where they were not recorded. skipped: how many tokens of the prompt come before the
    first of experts, as the server left them out. remark: what the reader had to assume, a sentence; "" if nothing.
    """

    experts: Ints
    prompt_tokens: int
    layers: tuple[int, ...] | None = None
    weights: Floats | None = None
    candidates: Ints | None = None
    skipped: int = 0
    remark: str = ""


class BadRequestError(Exception):
    """This one request cannot be used; the message says why."""
