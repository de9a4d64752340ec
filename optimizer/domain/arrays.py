"""Arrays that an immutable object keeps: checked before a cast that could wrap, and safe from changes by the caller."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.kernels import kernel

Array = TypeVar("Array", Ints, Floats, Bools)


def fitting(name: str, values: Ints, dtype: npt.DTypeLike, lowest: int = 0) -> Ints:
    """`values` of any shape as an integer type, in C order; the same array where nothing has to change.

    Raises ValueError, which begins with `name`, where they are no integers, or any is below `lowest` or beyond what
    `dtype` holds: a plain cast would turn it into another, valid number.
    """
    limits = np.iinfo(dtype)
    lowest, highest = max(lowest, int(limits.min)), int(limits.max)
    if values.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, not {values.dtype}")
    if values.size and not _always_fits(values.dtype, lowest, highest):
        for found in (int(values.min()), int(values.max())):
            if not lowest <= found <= highest:
                raise ValueError(f"{name} hold {found}, which is outside {lowest}..{highest}")
    return values if values.dtype == dtype and values.flags.c_contiguous else np.ascontiguousarray(values, dtype=dtype)


def _always_fits(dtype: np.dtype[np.integer], lowest: int, highest: int) -> bool:
    limits = np.iinfo(dtype)
    return lowest <= int(limits.min) and int(limits.max) <= highest


def frozen(values: Array) -> Array:
    """A read-only array of these values that nobody can change later.

    A writeable array is copied, and so is a read-only view of one. Whoever has made a large array and gives it away
    clears its write flag first, which saves the copy; arrays that map a file read-only are not copied either.
    """
    if _is_frozen(values):
        return values
    own = values.copy()
    own.flags.writeable = False
    return own


def given_away(values: Array) -> Array:
    """The same array, read-only from now on: for an array that its maker has just made and hands to its keeper."""
    values.flags.writeable = False
    return values


def _is_frozen(values: object) -> bool:
    while isinstance(values, np.ndarray):
        if values.flags.writeable:
            return False
        values = values.base
    return values is None or memoryview(values).readonly  # type: ignore[arg-type]


@kernel
def first_double(ids: Ints, end: int) -> tuple[int, int]:
    """Where ids `[..., ..., n]` from 0 to end - 1 first name one twice along the last axis, or -1, -1 if nowhere.

    Each id remembers the last row in which it was seen, so that the work is one look per id.
    """
    outer, inner, ranks = ids.shape
    last_seen = np.full(end, -1, dtype=np.int64)
    for first in range(outer):
        for second in range(inner):
            row = first * inner + second
            for rank in range(ranks):
                entry = np.int64(ids[first, second, rank])
                if last_seen[entry] == row:
                    return first, second
                last_seen[entry] = row
    return -1, -1
