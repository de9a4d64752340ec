"""What is mended of requests while they are read: rows that repeat, columns that are no choice, physical ids."""

from dataclasses import dataclass, field, replace

import numpy as np

from formulations.kit.arrays import Bools, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces.columns import surplus_columns, without_columns
from optimizer.traces.formats.npz import layer_ids
from optimizer.traces.formats.request import BadRequestError, Request
from optimizer.traces.physical import PhysicalToLogical
from optimizer.traces.trace import digest

LONGEST_STRETCH = 64
"""Consecutive equal rows that traffic may bring. In recorded sets (GPT-OSS-20B, DeepSeek-V2-Lite) the longest stretch
is 40 tokens where a single layer was looked at, and 1 where all were; profile runs bring thousands."""


@dataclass(frozen=True, eq=False)
class Mending:
    """What the user asked for. drop_repeats: of stretches of more than `LONGEST_STRETCH` equal consecutive rows, keep
    the first row. placement: ids are physical ones of this placement. no_op_from: ids from this one on are experts that
    do nothing; requests are then counted, see `no_op.py`."""

    drop_repeats: bool = False
    placement: PhysicalToLogical | None = None
    no_op_from: int | None = None

    @property
    def key(self) -> str:
        """A text that is the same for the same mending, for caches."""
        held = "" if self.placement is None else f"{self.placement.layers}{digest(self.placement.experts)}"
        return f"{self.drop_repeats} {held} {self.no_op_from}"


AS_RECORDED = Mending()


@dataclass
class Mender:
    """Mends one request after another, and remembers what it left out."""

    mending: Mending
    model: Model
    first_moe_layer: int | None = None
    tokens: int = 0
    repeats: int = 0
    columns: dict[int, int] = field(default_factory=dict)
    narrowed: int = 0  # requests of which columns were left out

    def mend(self, request: Request) -> Request:
        """The request as it is to be used. Raises BadRequestError for ids that are no filled slots of the placement."""
        request = self._without_surplus(request)
        if self.mending.placement is not None:
            held = request.layers or layer_ids(request.experts, self.model, self.first_moe_layer)
            request = replace(request, layers=held)
            request = replace(request, experts=self._logical(request, self.mending.placement), candidates=None)
        if self.mending.drop_repeats:
            request = self._without_repeats(request)
        return request

    def notes(self) -> tuple[str, ...]:
        """What was left out of all requests, a sentence each."""
        said = []
        if self.repeats:
            said.append(
                f"{self.repeats} of {self.tokens} tokens ({self.repeats / self.tokens:.0%}) are left out: they repeat "
                f"the row before them, in stretches of more than {LONGEST_STRETCH}"
            )
        if self.narrowed:
            named = ", ".join(f"column {column} ({held} in every row)" for column, held in self.columns.items())
            said.append(
                f"{named} is no choice (a filler or a shared expert) and left out of {self.narrowed} request(s)"
            )
        return tuple(said)

    def _without_surplus(self, request: Request) -> Request:
        surplus = surplus_columns(request.experts, self.model.top_k, self.model.routed_experts)
        if not surplus:
            return request
        self.columns |= surplus
        self.narrowed += 1
        weights = None if request.weights is None else without_columns(request.weights, surplus)
        return replace(request, experts=without_columns(request.experts, surplus), weights=weights)

    def _logical(self, request: Request, placement: PhysicalToLogical) -> Ints:
        """The experts of a request by way of the placement; layers that it lacks become all zero, like dense ones.

        Rows of nothing but 0 or -1 stay as they are: they are of dense layers, or were not recorded.
        """
        experts = np.zeros(request.experts.shape, dtype=np.int32)
        try:
            for place, layer in enumerate(request.layers or ()):
                if layer in placement.layers:
                    ids = request.experts[:, place]
                    chosen = (ids > 0).any(axis=1) if ids.shape[1] > 1 else ids[:, 0] >= 0
                    experts[:, place] = ids
                    experts[chosen, place] = placement.logical(ids[chosen], layer)
        except InputError as error:
            raise BadRequestError(str(error)) from None
        return experts

    def _without_repeats(self, request: Request) -> Request:
        kept = ~repeats(request.experts)
        self.tokens += len(kept)
        self.repeats += len(kept) - int(kept.sum())
        if kept.all():
            return request
        return replace(
            request,
            experts=request.experts[kept],
            prompt_tokens=int(kept[: request.prompt_tokens].sum()),
            weights=None if request.weights is None else request.weights[kept],
            candidates=None if request.candidates is None else request.candidates[kept],
        )


def repeats(experts: Ints) -> Bools:
    """Which tokens of experts `[token, layer, k]` repeat the token before them in a stretch of more than
    `LONGEST_STRETCH` equal ones, `[token]`; the first of a stretch does not."""
    alike = _like_the_one_before(experts)
    starts = np.flatnonzero(~alike)
    lengths = np.diff(starts, append=len(alike))
    found: Bools = alike & np.repeat(lengths > LONGEST_STRETCH, lengths)
    return found


@kernel
def _like_the_one_before(experts: Ints) -> Bools:
    """Whether a token makes the same choices in all layers as the token before it, `[token]`.

    Tokens that were not recorded, whose ids are all 0 or -1, make no choices.
    """
    tokens, layers, ranks = experts.shape
    alike = np.zeros(tokens, dtype=np.bool_)
    for token in range(1, tokens):
        same, recorded = True, False
        for layer in range(layers):
            for rank in range(ranks):
                if experts[token, layer, rank] != experts[token - 1, layer, rank]:
                    same = False
                    break
                recorded |= experts[token, layer, rank] > 0
            if not same:
                break
        alike[token] = same and recorded
    return alike
