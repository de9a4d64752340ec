"""What a reader of counts finds in a file, before the layers are numbered."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.traces.formats.untrusted import LARGEST_COUNT, NUMBERS, Array, UnusableError, counts_from


@dataclass(frozen=True, eq=False)
class RawCounts:
    """Counts as a file holds them: load `[step, layer, expert]` int64.

    layers: the model layer ids of the layer axis, None where the file does not say them; tokens `[step]` int64, top_k
    and names as of `Counts`; notes: sentences on what was summed or rounded.
    """

    load: Ints
    layers: Sequence[int] | None = None
    tokens: Ints | None = None
    top_k: int | None = None
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class WholeNumbers:
    """Makes counts of numbers that need not be whole: `scale` times each number, rounded; None for numbers as they are.

    largest: how far the product that is farthest from a whole number was from it.
    """

    scale: float | None = None
    largest: float = 0.0

    def counts(self, array: Array, field: str) -> Ints:
        """The counts of an array, int64. Raises UnusableError for what cannot be a count, even multiplied."""
        if self.scale is None:
            return _whole(array, field)
        if array.dtype.kind not in NUMBERS:
            return counts_from(array, field)  # raises
        with np.errstate(all="ignore"):  # what overflows or is no number is refused by `counts_from`
            product = array.astype(np.float64) * self.scale
            rounded = np.rint(product)
            found = counts_from(rounded, f"{self.scale:g} times {field}")
        self.largest = max(self.largest, float(np.abs(product - rounded).max()))
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence on the scale, where there is one."""
        if self.scale is None:
            return ()
        return (f"all counts were multiplied by {self.scale:g} and rounded, by {self.largest:.3g} at most",)


def _whole(array: Array, field: str) -> Ints:
    """The counts of an array whose numbers must be whole. For fractions the error names the scale as the remedy."""
    try:
        return counts_from(array, field)
    except UnusableError as error:
        numbers = array.astype(np.float64) if array.dtype.kind == "f" else np.zeros(1)
        possible = np.isfinite(numbers).all() and numbers.min() >= 0 and numbers.max() <= LARGEST_COUNT
        if not possible or not (numbers % 1).any():
            raise
        said = f"{error}; say by what all of them are to be multiplied, such as 1e{_digits(numbers)}"
        raise UnusableError(said, "scale") from None


def _digits(numbers: Array) -> int:
    """The power of ten by which the smallest number above 0 becomes at least 1000, so that rounding changes little."""
    return max(1, math.ceil(3 - math.log10(numbers[numbers > 0].min())))
