"""One request of a trace, whatever file it was read from."""

from dataclasses import dataclass

from formulations.kit.arrays import Floats, Ints


@dataclass(frozen=True, eq=False)
class Request:
    """experts `[token, layer, k]`, any integer type, unchecked; the first prompt_tokens of its tokens are the prompt.

    layers: the model layer id of each entry of the layer axis, None where it must be inferred (`npz.layer_ids`).
    weights `[token, layer, k]` gate weights and candidates `[token, layer, m > k]` ranked expert ids, where recorded.
    """

    experts: Ints
    prompt_tokens: int
    layers: tuple[int, ...] | None = None
    weights: Floats | None = None
    candidates: Ints | None = None


class BadRequestError(Exception):
    """This one request cannot be used; the message says why."""
