"""What stands in a field `routed_experts` of a server's response, in each of the forms in which servers write it.

A form is told by the value itself: nested lists, base64 text of a `.npy` file, base64 text of raw numbers, or a payload
object `{data, shape, start, dtype}`. Whatever is none of them is refused, and no number is read as another type.
"""

from dataclasses import dataclass
from io import BytesIO

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.traces.formats.untrusted import (
    INTEGERS,
    LARGEST_ID,
    UnusableError,
    array_from_lists,
    array_from_npy,
    bytes_from_base64,
    count_from,
    whole_number,
)

TYPES = {"uint8": "<u1", "int8": "<i1", "uint16": "<u2", "int16": "<i2", "int32": "<i4", "int64": "<i8"}
"""The types that raw numbers may be named to have, little-endian as on every machine that serves models."""

PAYLOAD = frozenset({"data", "shape", "start", "dtype"})
NPY = b"\x93NUMPY"


@dataclass(frozen=True, eq=False)
class Routed:
    """The ids of a field: `[token, layer, k]`, or flat where only its bytes are known; start is the first token's place
    in the sequence, None where the value does not say it."""

    ids: Ints
    start: int | None = None


def routed_from(value: object, field: str, dtype: str) -> Routed:
    """Read the value of a field; dtype: what raw numbers are named to be. Raises UnusableError for any other form."""
    if isinstance(value, dict):
        return _payload(value, field)
    if isinstance(value, str):
        encoded = bytes_from_base64(value, field)
        if encoded.startswith(NPY):
            return Routed(three_axes(_npy(encoded, field), field))
        return Routed(_numbers(encoded, dtype, field))
    if not isinstance(value, list | np.ndarray):
        bytes_from_base64(value, field)  # raises, and says what it is
    ids = array_from_lists(value, field)
    if ids.dtype.kind not in INTEGERS:
        raise UnusableError(f"{field} holds numbers that are not whole")
    return Routed(in_range(three_axes(ids, field), field))


def three_axes(array: Ints, field: str) -> Ints:
    """The array, if it has the axes token, layer and choice."""
    if array.ndim != 3:
        raise UnusableError(f"{field} has shape {array.shape}, not [token, layer, top_k]")
    return array


def in_range(ids: Ints, field: str) -> Ints:
    """The ids, if all are from -1 (not recorded) to the largest that is kept."""
    low, high = int(ids.min()), int(ids.max())
    if low < -1 or high > LARGEST_ID:
        raise UnusableError(f"{field} holds {low if low < -1 else high}, which is no expert id: is its type another?")
    return ids


def _npy(encoded: bytes, field: str) -> Ints:
    try:
        return array_from_npy(BytesIO(encoded), len(encoded), INTEGERS)
    except UnusableError as error:
        raise UnusableError(f"{field} {error}") from None


def _numbers(encoded: bytes, dtype: str, field: str) -> Ints:
    """Raw numbers of a named type, flat."""
    size = np.dtype(TYPES[dtype]).itemsize
    if not encoded or len(encoded) % size:
        raise UnusableError(f"{field} has no .npy header, and its {len(encoded)} bytes are no {dtype} numbers")
    return in_range(np.frombuffer(encoded, TYPES[dtype]), field)


def _payload(value: dict[str, object], field: str) -> Routed:
    """Read `{data, shape, start, dtype}`; start may lack. A key that is not known may change the meaning of others."""
    strange = sorted(set(map(str, value)) - PAYLOAD)
    if strange:
        raise UnusableError(f"{field} has the key {strange[0][:40]!r}, which is not known; known: {_listed(PAYLOAD)}")
    shape = value.get("shape")
    if not isinstance(shape, list) or len(shape) != 3 or not all(map(whole_number, shape)) or 0 in shape:
        raise UnusableError(f"{field}.shape is not the three lengths of [token, layer, top_k]")
    ids = _numbers(bytes_from_base64(value.get("data"), f"{field}.data"), named_type(value, "dtype", field), field)
    tokens, layers, top_k = map(int, shape)
    if tokens * layers * top_k != len(ids):
        raise UnusableError(f"{field}.data holds {len(ids)} numbers, not the {tokens * layers * top_k} of its shape")
    return Routed(ids.reshape(tokens, layers, top_k), count_from(value, "start") or 0)


def named_type(holder: dict[str, object], key: str, field: str) -> str:
    """The type that a key names. Raises UnusableError for one that no reader knows, and where the key is missing."""
    named = holder.get(key)
    if not isinstance(named, str) or named not in TYPES:
        raise UnusableError(f"{field}: {key} is {str(named)[:20]!r}, not one of {_listed(TYPES)}")
    return named


def _listed(names: object) -> str:
    assert isinstance(names, dict | frozenset)
    return ", ".join(sorted(names))
