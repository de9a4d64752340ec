"""Arrays out of files that nobody vouches for: what a header declares is checked before anything is allocated.

Nothing is unpickled. What cannot be used raises UnusableError, which the readers turn into a sentence with a path.
"""

import base64
import io
import json
import math
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeGuard

import numpy as np
import numpy.typing as npt

from formulations.kit.arrays import Ints
from optimizer.errors import InputError
from optimizer.traces.formats.json_scan import items, lifted

Array = npt.NDArray[Any]

LIMIT = 1 << 30  # bytes of one array; a thousand recorded steps of DeepSeek-V3 are an eighth of it
HEADER_BYTES = 1 << 14  # numpy refuses longer headers itself, but only once it has read them
MOST_AXES = 4  # no format has more: counts are [domain, shard, layer, expert]
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
OPENING = 1 << 12  # bytes that tell a list from other JSON; more blanks than that begin no file
LARGEST_COUNT = 1 << 40  # sums over a million experts, layers and steps stay below 2^63
LARGEST_ID = (1 << 16) - 1  # the largest that two bytes hold
INTEGERS, NUMBERS, TEXT = "iu", "iuf", "U"  # numpy's letters for kinds of types


class UnusableError(Exception):
    """What was read cannot be used; the message continues a sentence that begins with the name of a file.

    field: the name of the parameter that would help, where there is one.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


def array_from_npy(stream: IO[bytes], held: int, kinds: str) -> Array:
    """Read the array of a `.npy` stream of `held` bytes, if its type is of one of the `kinds` and its size is true."""
    header = io.BytesIO(stream.read(HEADER_BYTES))
    shape, by_column, dtype = _npy_header(header)
    if dtype.hasobject:
        raise UnusableError("holds a pickled object, which is never unpickled")
    if dtype.kind not in kinds:
        wanted = {INTEGERS: "integers", NUMBERS: "numbers", TEXT: "text"}[kinds]
        raise UnusableError(f"holds {dtype.name[:20]} values, not {wanted}")
    if len(shape) > MOST_AXES or not all(0 < length <= LIMIT for length in shape):
        raise UnusableError("is empty, or of an impossible shape")
    declared, found = math.prod(shape) * dtype.itemsize, held - header.tell()
    if declared != found or not 0 < declared <= LIMIT:
        raise UnusableError(f"declares {declared} bytes and holds {found}, of {LIMIT} at most")
    stream.seek(header.tell())
    return np.frombuffer(stream.read(declared), dtype).reshape(shape, order="F" if by_column else "C")


def _npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        with warnings.catch_warnings(action="ignore"):
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                return np.lib.format.read_array_header_1_0(stream)
            return np.lib.format.read_array_header_2_0(stream)
    except Exception:  # the header is a Python literal: reading a damaged one raises a dozen kinds
        raise UnusableError("has no .npy header") from None


def arrays_from_npz(path: Path, wanted: Mapping[str, str]) -> dict[str, Array]:
    """Read those of the wanted arrays (name -> kinds) that an archive holds; no other member is touched."""
    try:
        with zipfile.ZipFile(path) as archive:
            held = set(archive.namelist())
            return {name: _member(archive, name, kinds) for name, kinds in wanted.items() if f"{name}.npy" in held}
    except UnusableError:
        raise
    except Exception:  # zipfile and zlib raise a dozen kinds for a damaged archive
        raise UnusableError("is not a whole .npz archive") from None


def _member(archive: zipfile.ZipFile, name: str, kinds: str) -> Array:
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnusableError(f"has {name} in a compression that numpy does not write")
    try:
        with archive.open(info) as stream:
            return array_from_npy(stream, info.file_size, kinds)
    except UnusableError as error:
        raise UnusableError(f"{name} {error}") from None


def bytes_from_base64(text: object, field: str) -> bytes:
    """Decode the bytes that a JSON value holds as base64."""
    if not isinstance(text, str):
        raise UnusableError(f"{field} is {_word(type(text))}, not base64 text")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise UnusableError(f"{field} is not base64") from None


def array_from_lists(values: object, field: str) -> Array:
    """Make an array of the numbers in nested JSON lists, which must be of equal lengths, unless it is one already."""
    if isinstance(values, np.ndarray):
        return values
    if not isinstance(values, list):
        raise UnusableError(f"{field} is {_word(type(values))}, not a list")
    odd = _types(values, MOST_AXES) - {int, float}
    if odd:
        raise UnusableError(f"{field} holds {min(map(_word, odd))}, not numbers alone")
    try:
        array = np.array(values)
    except (ValueError, OverflowError):
        raise UnusableError(f"{field} has lists of different lengths") from None
    if array.dtype.kind not in NUMBERS or array.size == 0:
        raise UnusableError(f"{field} is empty, or holds numbers beyond 64 bits")
    return array


def _types(values: object, depth: int) -> set[type]:
    """The types of the values in nested lists. Numpy is not asked, as it would turn numbers beside text into text."""
    if not isinstance(values, list) or depth == 0:
        return {type(values)}
    found = set(map(type, values))
    if list in found:
        found.remove(list)
        found.update(*(_types(value, depth - 1) for value in values if type(value) is list))
    return found


def counts_from(array: Array, field: str) -> Ints:
    """Return `array` as int64, if it holds non-negative whole numbers of at most 2^40."""
    if array.dtype.kind not in NUMBERS:
        raise UnusableError(f"{field} holds {array.dtype.name} values, not numbers")
    if array.dtype.kind == "f":
        with np.errstate(all="ignore"):  # what overflows here is refused below
            array = array.astype(np.float64)
    bad = ~((array >= 0) & (array <= LARGEST_COUNT))
    if array.dtype.kind == "f":
        bad |= array != np.floor(array)
    if bad.any():
        where = tuple(int(index) for index in np.argwhere(bad)[0])
        raise UnusableError(f"{field}{list(where)} is {array[where]}, not a whole number from 0 to 2^40")
    return array.astype(np.int64)


def count_from(holder: object, key: str) -> int | None:
    """The whole number in field `key` of a JSON object; None where the field or the object is missing."""
    value: object = holder.get(key) if isinstance(holder, dict) else None
    if value is None:
        return None
    if not whole_number(value):
        raise UnusableError(f"{key} is {_word(type(value))}, not a whole number from 0 to 2^40")
    return value


def whole_number(value: object) -> TypeGuard[int]:
    """Whether a value of JSON is a whole number from 0 to 2^40."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT


def json_values(path: Path) -> Iterator[tuple[str, object]]:
    """Yield the values of a file, each with its place: the lines of JSONL, the items of a list, or the document.

    A file whose first line begins and ends as a JSON object does is JSONL, and is read line by line; the items of a
    list are read one by one too, so that one at a time is in memory. Long lists of expert ids and counts come as
    arrays. An UnusableError comes in place of a value that is no JSON. Raises InputError for a file that cannot be
    opened.
    """
    try:
        with path.open("rb") as file:
            opening = file.read(OPENING).removeprefix(BYTE_ORDER_MARK)
            listed = opening.lstrip().startswith(b"[")
            file.seek(0)
            if listed:
                while file.read(1) != b"[":
                    pass
                yield from ((f"item {number}: ", _parsed(text)) for number, text in enumerate(items(file)))
            else:
                yield from _lines_or_document(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a file that you may read") from None


def _lines_or_document(file: IO[bytes]) -> Iterator[tuple[str, object]]:
    """Yield the lines of JSONL or the one document of a file, each with its place."""
    lines = enumerate(file, 1)
    number, first = next((pair for pair in lines if pair[1].strip()), (1, b""))
    first = first.removeprefix(BYTE_ORDER_MARK)
    if not (first.startswith(b"{") and first.rstrip().endswith(b"}")):
        yield "", _parsed(first + file.read())
        return
    yield f"line {number}: ", _parsed(first)
    yield from ((f"line {number}: ", _parsed(line)) for number, line in lines if line.strip())


def _parsed(text: bytes) -> object:
    rest, arrays = lifted(text)

    def put_back(found: dict[str, object]) -> dict[str, object]:
        return {key: arrays.get(value, value) if isinstance(value, str) else value for key, value in found.items()}

    try:
        value: object = json.loads(rest, object_hook=put_back if arrays else None)
    except (ValueError, RecursionError):
        return UnusableError("not JSON")
    return value


def _word(kind: type) -> str:
    """What JSON calls a type, for messages."""
    words = {
        dict: "an object",
        list: "a list",
        np.ndarray: "a list",
        str: "text",
        type(None): "null",
        bool: "true or false",
    }
    return words.get(kind, "another number")
