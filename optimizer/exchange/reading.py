"""Files that nobody vouches for: their size is limited before anything is read, and nothing is unpickled.

Every function raises InputError, in one line that begins with the file's path.
"""

import io
import json
import math
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.model import MOST_EXPERTS
from optimizer.errors import InputError

MOST_BYTES = 1 << 22
"""A file of DeepSeek-V3 on 384 slots is a hundred kB. Lists in this many bytes of JSON take 100 MB once read."""

MOST_CELLS = 1 << 22
"""Numbers in one array: 61 layers with 65,536 slots each, or tables of 58 layers, 256 devices and 257 experts."""

MOST_LAYERS = 10_000  # no model comes near


def bytes_of(path: Path) -> bytes:
    """The content of a file of at most `MOST_BYTES`."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); name a file that you may read") from None
    if len(content) > MOST_BYTES:
        raise InputError(f"{path}: has more than {MOST_BYTES >> 20} MB, which no placement needs")
    return content


def text_of(path: Path) -> str:
    """The content of a text file in UTF-8."""
    try:
        return bytes_of(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not text in UTF-8") from None


def json_of(path: Path, text: str | None = None) -> Any:
    """The value in a JSON file, or in a text that was read from it."""
    try:
        return json.loads(text_of(path) if text is None else text)
    except RecursionError:
        raise InputError(f"{path}: is not JSON that can be used: brackets are nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({str(error)[:100]})") from None


def object_of(value: Any, where: str) -> dict[Any, Any]:
    """A value that must be an object. where: the file and place, with which the error begins."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: {kind(value)} instead of an object")
    return value


def only_keys(value: dict[Any, Any], wanted: tuple[str, ...], where: str) -> None:
    """Check that an object has these keys and no other."""
    for key in wanted:
        if key not in value:
            raise InputError(f"{where}: has no key '{key}'")
    for key in value:
        if key not in wanted:
            raise InputError(f"{where}: has a key '{str(key)[:40]}'; the keys are {', '.join(wanted)} and no other")


def whole_number(value: Any, where: str, least: int = 0) -> int:
    """A value that must be a whole number from `least` to 2^31."""
    if type(value) is not int or not least <= value < 2**31:
        shown = str(value)[:20] if type(value) is int and abs(value) < 2**63 else kind(value)
        raise InputError(f"{where}: {shown} instead of a whole number from {least} on")
    return value


def ids_of(value: Any, where: str) -> list[int]:
    """A list of ids, which are whole numbers below 65,536; -1 and other negative ones are left for `faults` to name."""
    if not isinstance(value, list):
        raise InputError(f"{where}: {kind(value)} instead of a list of ids")
    odd = set(map(type, value)) - {int}
    if odd:
        at = next(place for place, each in enumerate(value) if type(each) is not int)
        raise InputError(f"{where}: entry {at} is {kind(value[at])} instead of an id")
    if value and not -MOST_EXPERTS <= min(value) <= max(value) < MOST_EXPERTS:
        at = next(place for place, each in enumerate(value) if not -MOST_EXPERTS <= each < MOST_EXPERTS)
        raise InputError(f"{where}: entry {at} is no id, as ids are below {MOST_EXPERTS}")
    return value


def table_of(rows: dict[str, Any], path: Path) -> Ints:
    """Lists of ids of equal lengths as an array `[row, entry]` int32. rows: the lists by where they stand.

    Their number and lengths are looked at before any list, as one list may stand in many places of a YAML file.
    """
    if len(rows) > MOST_CELLS:
        raise InputError(f"{path}: holds {len(rows)} rows, more than the {MOST_CELLS} that are read")
    first = next(iter(rows), "")
    if not rows or rows[first] == []:
        raise InputError(f"{path}: holds no experts")
    wanted = len(ids_of(rows[first], f"{path}: {first}"))
    if wanted * len(rows) > MOST_CELLS:
        raise InputError(f"{path}: holds {wanted * len(rows)} slots, more than the {MOST_CELLS} that are read")
    for where, row in rows.items():
        if isinstance(row, list) and len(row) != wanted:
            raise InputError(f"{path}: {where} has {len(row)} slots, but {first} has {wanted}; all must have as many")
    return np.array([ids_of(row, f"{path}: {where}") for where, row in rows.items()], dtype=np.int32)


def rows_of(value: Any, path: Path, name: str) -> Ints:
    """Nested lists of ids as an array `[row, entry]` int32. name: what the file calls them."""
    if not isinstance(value, list):
        raise InputError(f"{path}: {name} is {kind(value)} instead of a list of layers")
    check_layers(len(value), path)
    return table_of({f"{name}[{row}]": ids for row, ids in enumerate(value)}, path)


def check_layers(count: int, path: Path) -> None:
    """Raise InputError for more layers than any model has."""
    if count > MOST_LAYERS:
        raise InputError(f"{path}: holds {count} layers, more than any model has")


def npy_of(path: Path) -> Ints:
    """The integers in a `.npy` file."""
    return _array(path, bytes_of(path), "the array")


def npz_of(path: Path, names: tuple[str, ...]) -> dict[str, Ints]:
    """Those of the named arrays of integers that a `.npz` file holds."""
    content = bytes_of(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            held = {info.filename: info for info in archive.infolist()}
            wanted = {name: held[f"{name}.npy"] for name in names if f"{name}.npy" in held}
            for name, info in wanted.items():
                if info.file_size > 8 * MOST_CELLS + 4096:  # eight bytes a number, and a header
                    raise InputError(f"{path}: {name} has {info.file_size} bytes, which no placement needs")
            found = {name: archive.read(info) for name, info in wanted.items()}
    except InputError:
        raise
    except Exception:  # zipfile and zlib raise a dozen kinds for a damaged archive
        raise InputError(f"{path}: is not a whole .npz archive") from None
    return {name: _array(path, data, name) for name, data in found.items()}


def _array(path: Path, content: bytes, name: str) -> Ints:
    try:
        found = _whole(content)
    except Exception:  # a header is a Python literal: reading a damaged one raises a dozen kinds
        raise InputError(f"{path}: {name} is no whole array of numbers in numpy's format") from None
    if found.dtype.kind not in "iu":
        raise InputError(f"{path}: {name} holds {found.dtype.name[:20]} values, not integers")
    if not 0 < found.size <= MOST_CELLS:
        raise InputError(f"{path}: {name} has {found.size} numbers; between 1 and {MOST_CELLS} are read")
    lowest, highest = int(found.min()), int(found.max())
    if lowest < -MOST_EXPERTS or highest >= 2**31:
        raise InputError(f"{path}: {name} holds {lowest if lowest < 0 else highest}, which is no id")
    return np.ascontiguousarray(found, dtype=np.int32)


def _whole(content: bytes) -> Any:
    """The array in the bytes of a `.npy` file, which must have the size that its header says, so that nothing larger
    is ever allocated. Raises ValueError and other errors where it has not."""
    stream = io.BytesIO(content)
    with warnings.catch_warnings(action="ignore"):
        if np.lib.format.read_magic(stream) == (1, 0):
            shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
        else:
            shape, by_column, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ValueError("not of the size that the header says")
    return np.frombuffer(content, dtype, offset=stream.tell()).reshape(shape, order="F" if by_column else "C")


def kind(value: Any) -> str:
    """What a value is, for messages."""
    words = {dict: "an object", list: "a list", str: "text", type(None): "null", bool: "true or false"}
    return words.get(type(value), "another number")
