"""What is remembered of the rows of requests, so that faults of recording can be told from traffic afterwards.

A row is what one token chose. Rows are known by a hash of the choices in a few layers, eight bytes each, so that the
cost is a few per cent of reading the requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel
from optimizer.traces.mending import LONGEST_STRETCH

HASHED_LAYERS = 4
"""Layers that a row's hash is made of, evenly spaced. In the recorded sets no two tokens of a request in a row are
alike in four layers."""

MOST_SAMPLED = 1 << 15  # hashes that are kept to find the most frequent row: a share of 2 % is then known to .1 %
SHORTEST_ALIKE = 16  # rows that two requests must have in common, at least, before they are called alike
REFERENCES = 3  # requests that others are compared with: of them one may be an exception
PLACE, TOKEN, SHIFT = np.uint64(0x100000001B3), np.uint64(0x9E3779B97F4A7C15), np.uint64(29)  # as in `fingerprints`


@dataclass
class AlikeParts:
    """How many requests have the same rows in one phase as one of the first ones, as far as both reach.

    compared: requests with enough rows; matches: how many are like each reference, itself included.
    """

    compared: int = 0
    references: list[Ints] = field(default_factory=list)
    matches: list[int] = field(default_factory=list)

    @property
    def most(self) -> int:
        """How many requests are like one and the same reference."""
        return max(self.matches, default=0)

    def add(self, rows: Ints) -> None:
        """Compare the rows of one more request, `[token]` hashes."""
        if len(rows) < SHORTEST_ALIKE:
            return
        self.compared += 1
        like = [number for number, other in enumerate(self.references) if _alike(rows, other)]
        for number in like:
            self.matches[number] += 1
        if not like and len(self.references) < REFERENCES:
            self.references.append(rows)
            self.matches.append(1)


def _alike(rows: Ints, other: Ints) -> bool:
    both = min(len(rows), len(other))
    return bool(rows[0] == other[0]) and bool((rows[:both] == other[:both]).all())


@dataclass
class RowEvidence:
    """Adds up requests one at a time.

    tokens: of all requests; repeats: tokens that repeat the one before in stretches of more than `LONGEST_STRETCH`;
    longest: the longest stretch of equal rows; prompts and outputs: requests that are alike there; several_layers:
    whether a row's hash is of more than one layer.
    """

    tokens: int = 0
    repeats: int = 0
    longest: int = 0
    prompts: AlikeParts = field(default_factory=AlikeParts)
    outputs: AlikeParts = field(default_factory=AlikeParts)
    several_layers: bool = False
    _sampled: list[Ints] = field(default_factory=list)
    _kept: int = 0
    _stride: int = 1

    def add(self, experts: Ints, prompt_tokens: int) -> None:
        """Add a request: experts `[token, layer, k]`, whose first `prompt_tokens` tokens are the prompt."""
        self.several_layers = experts.shape[1] > 1
        self.add_rows(row_hashes(experts, hashed_layers(experts.shape[1])), prompt_tokens)

    def add_rows(self, rows: Ints, prompt_tokens: int) -> None:
        """Add a request whose rows have been hashed, `[token]`."""
        longest, repeats = stretches(rows, LONGEST_STRETCH)
        self.tokens += len(rows)
        self.longest = max(self.longest, longest)
        self.repeats += repeats
        self.prompts.add(rows[:prompt_tokens])
        self.outputs.add(rows[prompt_tokens:])
        self._sample(rows)

    def modal(self) -> tuple[int, int, int]:
        """Of the sampled rows: how many there are, how often the most frequent one comes, and how many different ones
        there are besides."""
        rows = np.concatenate([np.empty(0, dtype=np.uint64), *self._sampled])
        counts = np.unique(rows, return_counts=True)[1]
        return len(rows), int(counts.max(initial=0)), max(len(counts) - 1, 0)

    def _sample(self, rows: Ints) -> None:
        """Keep every `stride`-th row; the stride doubles whenever twice too many rows are kept."""
        kept = rows[(-self.tokens + len(rows)) % self._stride :: self._stride]
        self._sampled.append(kept)
        self._kept += len(kept)
        while self._kept > 2 * MOST_SAMPLED:
            self._sampled = [np.concatenate(self._sampled)[::2].copy()]
            self._kept, self._stride = len(self._sampled[0]), self._stride * 2


def evidence_of(experts: Ints, offsets: Sequence[int], prompts: Sequence[int]) -> RowEvidence:
    """The evidence of requests that lie one after another in experts `[token, layer, k]`.

    offsets `[request + 1]`: request r has the tokens offsets[r]:offsets[r + 1]; prompts `[request]`: of how many of
    them its prompt consists.
    """
    found = RowEvidence(several_layers=experts.shape[1] > 1)
    rows = row_hashes(experts, hashed_layers(experts.shape[1]))
    for (start, stop), prompt_tokens in zip(pairwise(offsets), prompts, strict=True):
        found.add_rows(rows[start:stop], prompt_tokens)
    return found


def hashed_layers(layers: int) -> Ints:
    """The places on a layer axis of this length of which rows are hashed."""
    return np.unique(np.linspace(0, layers - 1, HASHED_LAYERS).astype(np.int64))


@kernel
def stretches(rows: Ints, longest_usual: int) -> tuple[int, int]:
    """The longest stretch of equal consecutive rows `[token]`, and how many rows repeat the one before them in
    stretches of more than `longest_usual`."""
    longest = repeats = length = 0
    for token in range(len(rows)):
        length = length + 1 if token and rows[token] == rows[token - 1] else 1
        longest = max(longest, length)
        if length == longest_usual + 1:
            repeats += longest_usual
        elif length > longest_usual:
            repeats += 1
    return longest, repeats


@kernel
def row_hashes(experts: Ints, places: Ints) -> Ints:
    """A hash of each token's choices, in their order, in these places on the layer axis, `[token]` uint64."""
    found = np.empty(len(experts), dtype=np.uint64)
    for token in range(len(experts)):
        state = np.uint64(0)
        for place in places:
            word = np.uint64(0)
            for rank in range(experts.shape[2]):
                word = word * PLACE + np.uint64(experts[token, place, rank])
            mixed = ((state ^ word) + PLACE) * TOKEN
            state = mixed ^ (mixed >> SHIFT)
        found[token] = state
    return found
