"""Copying in kernels."""

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel


@kernel
def copy(values: Ints, out: Ints) -> None:
    """Copy as many values of a row as `out` has.

    The loop is spelt out, as numba compiles `out[:] = values` with the text of an error about shapes, which takes each
    process that compiles one two seconds, and loops far faster than array expressions.
    """
    for place in range(len(out)):
        out[place] = values[place]
