"""Columns of the choice axis that hold one and the same id in every row: a filler, or a shared expert, but no
choice."""

from typing import TypeVar

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.errors import InputError

Array = TypeVar("Array", Ints, Floats)

ROWS_OF_A_LAYER, ROWS_OF_LAYERS = 256, 16
"""Rows from which on a constant column is no chance: in recorded sets of top-4 and top-6 models a single layer repeats
its choices for up to 40 tokens, but two layers never do so for two tokens, and no column holds one id in a tenth of all
rows."""


def constant_columns(experts: Ints) -> dict[int, int]:
    """The id of each constant column of experts `[token, layer, k]`, by its place on the last axis.

    Layers that are all zero (dense ones), and tokens whose ids are all 0 or -1 (not recorded), do not count. There is
    none where k is 1, and none where there are too few
    rows to tell, unless the id is the filler 255 or 65535, or negative.
    """
    if experts.shape[2] < 2 or not experts.size:
        return {}
    recorded = (experts[:, -1] > 0).any(axis=1)
    if recorded.any() and not recorded.all():
        experts = experts[recorded]
    first = experts[0, -1]
    likely = [column for column in range(experts.shape[2]) if (experts[:, -1, column] == first[column]).all()]
    if not likely:
        return {}
    moe = [layer for layer in range(experts.shape[1]) if experts[:, layer].any()]
    rows, least = len(experts) * len(moe), ROWS_OF_LAYERS if len(moe) > 1 else ROWS_OF_A_LAYER
    found = {}
    for column in likely:
        alike = (experts[:, moe, column] == first[column]).all()
        if alike and (rows >= least or int(first[column]) in (-1, 255, 65535)):
            found[column] = int(first[column])
    return found


def refuse_constant_columns(experts: Ints, where: str) -> None:
    """Raise InputError where a column of experts `[token, layer, k]` is constant, as the top-k is then in doubt."""
    constant = constant_columns(experts)
    if not constant:
        return
    choices = experts.shape[2] - len(constant)
    columns = " and ".join(
        f"column {column} (of 0..{experts.shape[2] - 1}) is {held}" for column, held in constant.items()
    )
    raise InputError(
        f"{where}: {columns} in every row, a filler or a shared expert and no choice; say that the top-k is "
        f"{choices}, or name the model, and it is left out, or say {experts.shape[2]} if it is one",
        "top_k",
    )


def surplus_columns(experts: Ints, top_k: int, routed: int) -> dict[int, int]:
    """The constant columns of experts `[token, layer, k > top_k]` without which top_k are left; else none.

    A column whose only id is beyond the model's `routed` experts is surplus however few rows there are.
    """
    if experts.shape[2] <= top_k or not experts.size:
        return {}
    found = constant_columns(experts)
    for column, held in enumerate(experts[0, -1].tolist()):
        if not 0 <= held < routed and (experts[:, :, column] == held).all():
            found[column] = held
    return found if experts.shape[2] - len(found) == top_k else {}


def without_columns(experts: Array, columns: dict[int, int]) -> Array:
    """Arrays `[token, layer, k]` without these places of the last axis."""
    kept: Array = np.delete(experts, list(columns), axis=2)
    return kept
