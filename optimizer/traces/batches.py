"""Batches: which tokens share a forward pass, and from which mesh row, or which device, each comes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.arrays import first_double, fitting, frozen, given_away
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.errors import InputError
from optimizer.streams import Purpose, random_stream

SHARES = (0.6, 0.2, 0.2)
"""The shares of requests to plan on, to choose by and to judge on: a compromise, as each gains from being larger."""


@dataclass(frozen=True, eq=False)
class Batches:
    """Forward passes of one layer, in the order of time.

    experts `[batch, token, k]` uint16, the shared experts included as the last of the k; source_row
    `[batch, token]` int32 mesh row of each token; source `[batch, token]` int32 the device of each token, for machines
    on which each device holds tokens of its own, None where it is not known. Of the routed experts alone, where they
    are known: weights `[batch, token, top_k]` float32 gate weights, candidates `[batch, token, m]` uint16 ranked ids.
    The arrays are copied and read-only. Raises ValueError for shapes that do not fit together, ids, rows and sources
    that are negative or beyond their type, and a token that names one expert twice, among its experts or among its
    candidates.
    """

    experts: Ints
    source_row: Ints
    weights: Floats | None = None
    candidates: Ints | None = None
    source: Ints | None = None

    def __post_init__(self) -> None:
        if self.experts.ndim != 3 or self.source_row.shape != self.experts.shape[:2]:
            raise ValueError(f"experts {self.experts.shape} and source_row {self.source_row.shape} do not fit")
        if self.source is not None and self.source.shape != self.source_row.shape:
            raise ValueError(f"experts {self.experts.shape} and source {self.source.shape} do not fit")
        for extra in (self.weights, self.candidates):
            if extra is not None and (extra.ndim != 3 or extra.shape[:2] != self.experts.shape[:2]):
                raise ValueError(f"experts {self.experts.shape} and weights or candidates {extra.shape} do not fit")
        if self.weights is not None and self.weights.shape[2] > self.experts.shape[2]:
            raise ValueError(f"{self.weights.shape[2]} weights for {self.experts.shape[2]} experts of a token")
        object.__setattr__(self, "experts", _distinct("experts", self.experts))
        object.__setattr__(self, "source_row", frozen(fitting("source rows", self.source_row, np.int32)))
        if self.source is not None:
            object.__setattr__(self, "source", frozen(fitting("sources", self.source, np.int32)))
        if self.weights is not None:
            object.__setattr__(self, "weights", frozen(np.ascontiguousarray(self.weights, dtype=np.float32)))
        if self.candidates is not None:
            object.__setattr__(self, "candidates", _distinct("candidates", self.candidates))

    @property
    def count(self) -> int:
        """How many batches, that is, forward passes, there are."""
        return len(self.experts)

    @property
    def tokens(self) -> int:
        """The number of tokens in each batch."""
        return int(self.experts.shape[1])

    def part(self, start: int, stop: int) -> "Batches":
        """Take batches start..stop-1; the arrays share their memory with these."""
        return Batches(
            self.experts[start:stop],
            self.source_row[start:stop],
            None if self.weights is None else self.weights[start:stop],
            None if self.candidates is None else self.candidates[start:stop],
            None if self.source is None else self.source[start:stop],
        )

    def source_on(self, network: Network) -> Ints:
        """The source of each token on a network, `[batch, token]` int32: its row, or the device that it lives on.

        Where devices are sources and `source` does not say which, a row's tokens are dealt out to its devices. Raises
        InputError for a device that is not in the mesh, or not in the row that `source_row` says.
        """
        if self.source is None or network.tokens != "device":
            return network.source(self.source_row)
        if self.source.max(initial=0) >= network.sources:
            last = network.sources - 1
            raise InputError(
                f"the batches' sources are up to {self.source.max()}, but the mesh has 0..{last}", "batches"
            )
        wrong = network.home_row[self.source] != self.source_row
        if wrong.any():
            batch, token = np.argwhere(wrong)[0]
            said = f"source {self.source[batch, token]} of batch {batch}, token {token}"
            raise InputError(f"{said} is not in its source_row {self.source_row[batch, token]}", "batches")
        return self.source

    def load(self, experts: int) -> Ints:
        """Count the token-expert pairs of each expert, `[batch, expert]` int32."""
        batch = np.arange(self.count, dtype=np.int64)[:, None] * experts
        flat = (batch + self.experts.reshape(self.count, -1)).ravel()
        return np.bincount(flat, minlength=self.count * experts).reshape(self.count, experts).astype(np.int32)


def _distinct(name: str, ids: Ints) -> Ints:
    """Ids `[batch, token, n]` as read-only uint16; each token must name n different ones, on which routing relies."""
    ids = frozen(fitting(name, ids, np.uint16))
    batch, token = first_double(ids, int(ids.max(initial=0)) + 1)
    if batch >= 0:
        raise ValueError(f"token {token} of batch {batch} names one expert twice among its {name}")
    return ids


class Sets(NamedTuple):
    """Batches to plan on, to choose by and to judge on, from disjoint requests."""

    train: Batches
    selection: Batches
    test: Batches


def split_requests(requests: int, seed: int, shares: Sequence[float] = SHARES) -> tuple[Ints, Ints, Ints]:
    """Share requests 0..requests-1 out into train, selection and test ones, by a seeded shuffle.

    Returns the numbers of the requests of each set. Raises InputError where there are fewer than three requests, as no
    set may be empty.
    """
    if requests < len(Sets._fields):
        raise InputError(
            f"{requests} usable request(s): at least 3 are needed, as train, selection and test requests are disjoint"
        )
    order = random_stream(Purpose.SPLIT_REQUESTS, seed, requests).permutation(requests)
    last_train = min(max(1, round(shares[0] * requests)), requests - 2)
    last_selection = min(max(last_train + 1, round((shares[0] + shares[1]) * requests)), requests - 1)
    train, selection, test = np.split(order, [last_train, last_selection])
    return train, selection, test


def default_rows(tokens: int, rows: int) -> Ints:
    """The mesh row of each user slot, `[token]`: consecutive slots in blocks, as equal as the numbers divide."""
    return np.arange(tokens) * rows // tokens


def with_shared(routed: Ints, model: Model) -> Ints:
    """Append the shared experts, which every token uses, to `[batch, token, top_k]` routed ids; uint16, read-only.

    Raises ValueError for ids that are negative or do not fit into two bytes.
    """
    shared = np.broadcast_to(np.asarray(model.shared_ids, dtype=np.uint16), (*routed.shape[:2], model.shared_experts))
    return given_away(np.concatenate([fitting("experts", routed, np.uint16), shared], axis=2))


def split_batches(batches: Batches) -> Sets:
    """Cut explicit batches into train, selection and test ones.

    Each part is a consecutive stretch, as neighbouring batches share requests. Raises InputError where there are fewer
    than three batches.
    """
    if batches.count < len(Sets._fields):
        raise InputError(f"{batches.count} batch(es): at least 3 are needed for train, selection and test")
    first = min(max(1, round(SHARES[0] * batches.count)), batches.count - 2)
    second = min(max(first + 1, round((SHARES[0] + SHARES[1]) * batches.count)), batches.count - 1)
    return Sets(batches.part(0, first), batches.part(first, second), batches.part(second, batches.count))
