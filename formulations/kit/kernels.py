"""How this project compiles its hot loops."""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def kernel(function: Function) -> Function:
    """Compile with numba on first use; the machine code is cached on disk for the next process."""
    return cast(Function, numba.njit(cache=True, nogil=True)(function))
