"""Valid placements of servers, drawn at random, and small plans that hold them."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from formulations.kit.arrays import Ints


@dataclass(frozen=True)
class Sizes:
    """The sizes of a drawn placement."""

    layers: int
    ranks: int
    slots: int  # of each rank
    experts: int


@st.composite
def drawn_sizes(draw: st.DrawFn) -> Sizes:
    """Sizes with which each expert fits and no rank needs one twice."""
    ranks, slots = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    return Sizes(draw(st.integers(1, 4)), ranks, slots, draw(st.integers(slots, ranks * slots)))


def drawn_rows(rng: np.random.Generator, sizes: Sizes) -> Ints:
    """The experts of all slots `[layer, slot]`: every expert somewhere, none twice on a rank."""
    return np.array([_row(rng, sizes) for _ in range(sizes.layers)])


def _row(rng: np.random.Generator, sizes: Sizes) -> list[int]:
    ranks: list[list[int]] = [[] for _ in range(sizes.ranks)]
    for expert in rng.permutation(sizes.experts).tolist():
        ranks[min(range(sizes.ranks), key=lambda rank: (len(ranks[rank]), rng.random()))].append(expert)
    for held in ranks:
        others = [expert for expert in range(sizes.experts) if expert not in held]
        held += rng.permutation(others)[: sizes.slots - len(held)].tolist()
        rng.shuffle(held)
    return [int(expert) for held in ranks for expert in held]
