"""Routing traces in memory: which experts each token of each request chose."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from formulations.kit.arrays import Bools, Floats, Ints
from optimizer.domain.arrays import fitting, frozen, given_away
from optimizer.errors import InputError

PROMPT, OUTPUT = 0, 1


@dataclass(frozen=True, eq=False)
class RoutingTrace:
    """The requests of a corpus, one after another, for the layers that were asked for.

    experts `[token, layer, k]` uint8 or uint16 routed ids; layers: model layer id of each entry of the layer axis;
    offsets `[request + 1]` int64: request r owns the tokens offsets[r]:offsets[r + 1]; phase `[token]` uint8: PROMPT
    or OUTPUT; source: where the trace came from, in words; warnings: what was left out, a sentence each; weights
    `[token, layer, k]` float32 gate weights and candidates `[token, layer, m]` uint16 ranked routed ids, where they
    were asked for and all requests have them; recorded `[token]` bool: whether the choices of a token are known, None
    where all are. Experts, weights and candidates of tokens that are not recorded mean nothing: whatever counts tokens
    takes `of_recorded()`. Arrays that are not read-only yet are copied. Raises ValueError for
    shapes that do not fit together, and for ids, offsets and phases that cannot be such.
    """

    experts: Ints
    layers: tuple[int, ...]
    offsets: Ints
    phase: Ints
    source: str
    warnings: tuple[str, ...] = field(default=())
    weights: Floats | None = None
    candidates: Ints | None = None
    recorded: Bools | None = None

    def __post_init__(self) -> None:
        tokens, layers, _ = self.experts.shape
        if layers != len(self.layers) or self.phase.shape != (tokens,) or self.offsets[-1] != tokens:
            raise ValueError("experts, layers, phase and offsets of a trace do not fit together")
        if self.offsets[0] != 0 or (np.diff(self.offsets) < 0).any() or self.phase.max(initial=0) > OUTPUT:
            raise ValueError("offsets of a trace must ascend from 0, and its phases be 0 or 1")
        if self.weights is not None and self.weights.shape != self.experts.shape:
            raise ValueError(f"experts {self.experts.shape} and weights {self.weights.shape} do not fit together")
        if self.candidates is not None and self.candidates.shape[:2] != self.experts.shape[:2]:
            raise ValueError(f"experts {self.experts.shape} and candidates {self.candidates.shape} do not fit together")
        if self.recorded is not None:
            if self.recorded.shape != (tokens,) or self.recorded.dtype != bool:
                raise ValueError("recorded of a trace must be a bool for each token")
            object.__setattr__(self, "recorded", None if self.recorded.all() else frozen(self.recorded))
        for name, dtype in (("experts", self._type_of_ids), ("offsets", np.int64), ("phase", np.uint8)):
            object.__setattr__(self, name, frozen(fitting(name, getattr(self, name), dtype)))
        if self.weights is not None:
            object.__setattr__(self, "weights", frozen(np.asanyarray(self.weights, dtype=np.float32)))
        if self.candidates is not None:
            object.__setattr__(self, "candidates", frozen(fitting("candidates", self.candidates, np.uint16)))

    @property
    def _type_of_ids(self) -> npt.DTypeLike:
        return np.uint8 if self.experts.dtype == np.uint8 else np.uint16

    @property
    def requests(self) -> int:
        """The number of requests."""
        return len(self.offsets) - 1

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return len(self.phase)

    def of_recorded(self) -> "RoutingTrace":
        """The trace of the recorded tokens alone, whose warnings say how many are not; requests without any are left
        out. A trace of which everything is recorded is itself."""
        if self.recorded is None:
            return self
        known, before = self.recorded, np.concatenate([[0], np.cumsum(self.recorded)])
        ends = before[self.offsets]
        said = not_recorded(np.bincount(self.phase[~known], minlength=2), np.bincount(self.phase, minlength=2))
        return RoutingTrace(
            experts=given_away(self.experts[known]),
            layers=self.layers,
            offsets=np.concatenate([ends[:1], ends[1:][np.diff(ends) > 0]]),
            phase=self.phase[known],
            source=self.source,
            warnings=(*self.warnings, *said),
            weights=None if self.weights is None else given_away(self.weights[known]),
            candidates=None if self.candidates is None else given_away(self.candidates[known]),
        )

    def layer(self, layer: int) -> Ints:
        """One layer's choices, `[token, k]`. Raises InputError for a layer that the trace does not hold."""
        return self.experts[:, self.place(layer)]

    def place(self, layer: int) -> int:
        """Where a layer is on the layer axis. Raises InputError for a layer that the trace does not hold."""
        if layer not in self.layers:
            held = ", ".join(map(str, self.layers))
            raise InputError(f"layer {layer} is not in the trace, which holds layers {held}", "layer")
        return self.layers.index(layer)

    def has(self, phase: int) -> Bools:
        """Whether a request has tokens of this phase, PROMPT or OUTPUT, `[request]`."""
        before = np.concatenate([[0], np.cumsum(self.phase == phase)])
        return before[self.offsets[1:]] > before[self.offsets[:-1]]


def not_recorded(lost: Ints, tokens: Ints) -> tuple[str, ...]:
    """Say in a sentence how many of the tokens of each phase are not recorded, if any; both `[phase]`."""
    named = zip(("prompt", "output"), lost.tolist(), tokens.tolist(), strict=True)
    parts = " and ".join(f"{less:,} of {total:,} {name} tokens" for name, less, total in named if less)
    why = "are not recorded (cached, padded or not captured): all figures are of the others"
    return (f"{parts} {why}",) if parts else ()


def digest(*arrays: Ints) -> str:
    """A short digest of the content of arrays, so that a plan can tell the data that it was made from."""
    state = hashlib.blake2b(digest_size=8)
    for array in arrays:
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()
