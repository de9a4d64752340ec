"""Damaged and malicious files, and what a reader may do with them: one line of refusal, and little memory."""

import json
import math
import os
import pickle
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from formulations.kit.arrays import Ints
from optimizer.traces.formats.request import BadRequestError, Request

MEMORY = 50 << 20  # bytes: far less than any of the huge sizes that hostile files declare
HUGE = [0, 1, 2, 3, 5, -1, 255, 2**31, 2**40, 2**63, 2**64, 10**30]
KINDS = ["|u1", "<u2", ">i4", "<i8", "|O", "<f4", "<f8", "|V8", "<U5", "<U0", "|b1", "<m8[s]", "<c8", "i4,(2,)f8", "?!"]


@contextmanager
def little_memory() -> Iterator[None]:
    """Fail if the block holds more than `MEMORY` at any time, be it allocated by Python or by a library."""
    status, peak = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def resident(name: str) -> int:
        lines = status.read_text().splitlines() if status.exists() else []
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), 0)

    if os.access(peak, os.W_OK):
        peak.write_text("5")  # the kernel then measures the peak from here on
    before = resident("VmRSS")
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    if os.access(peak, os.W_OK):
        assert resident("VmHWM") - before < MEMORY


def one_line(error: Exception) -> None:
    """Assert that a message is one line of a readable length."""
    assert 5 < len(str(error)) < 700
    assert "\n" not in str(error)


def sound(value: Request | BadRequestError) -> None:
    """Assert that what a reader of requests yields is a good array, or a fault described in a sentence."""
    if isinstance(value, BadRequestError):
        one_line(value)
        return
    assert value.experts.ndim == 3
    assert value.experts.size > 0
    assert value.experts.dtype.kind in "iu"
    assert int(value.experts.max()) >= int(value.experts.min())  # every element can be read
    assert 0 <= value.prompt_tokens <= len(value.experts)
    assert value.layers is None or len(value.layers) == value.experts.shape[1]


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def npy_header(descr: str, shape: str, by_column: bool = False, version: int = 1, length: int | None = None) -> bytes:
    """The header of a `.npy` file as the format's documentation gives it; `length` may lie."""
    text = f"{{'descr': {descr}, 'fortran_order': {by_column}, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + text


def npy_bytes(array: Ints) -> bytes:
    """An array as a `.npy` file."""
    return npy_header(repr(array.dtype.str), repr(array.shape)) + array.tobytes()


def pickled_npy(path: Path) -> bytes:
    """An object array whose unpickling would create `path`."""
    return npy_header("'|O'", "(1, 1, 1)") + pickle.dumps([Bomb(path)])


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Draw `whole` with up to four cuts, flipped bits or overwritten stretches, most of them near its ends."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        last = len(data) - 1
        if last < 0:
            break
        near = st.integers(0, min(last, 150)) | st.integers(max(0, last - 150), last)
        at = draw(near | st.integers(0, last))
        match draw(st.sampled_from(["truncate", "flip", "overwrite", "remove", "insert"])):
            case "truncate":
                del data[at:]
            case "flip":
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "overwrite":
                new = draw(st.binary(min_size=1, max_size=8) | st.just(b"\xff" * 8) | st.just(b"\x00" * 4))
                data[at : at + len(new)] = new
            case "remove":
                del data[at : at + draw(st.integers(1, 20))]
            case _:
                data[at:at] = draw(
                    st.binary(max_size=8) | st.sampled_from([b"\n", b"[" * 3000, b"9" * 5000, b"(" * 300])
                )
    return bytes(data)


@st.composite
def lying_npy(draw: st.DrawFn) -> bytes:
    """Draw a `.npy` file whose header may lie: it has foreign types, impossible shapes and huge sizes."""
    rarely = st.integers(0, 9).map(lambda number: number == 0)
    shape = tuple(draw(st.lists(st.sampled_from(HUGE) if draw(rarely) else st.integers(1, 4), max_size=5)))
    descr = (
        draw(st.sampled_from(["-" * 4000 + "1", "(" * 150, "[]"]))
        if draw(rarely)
        else repr(draw(st.sampled_from(KINDS)))
    )
    length = draw(st.sampled_from([0, 10, 60, 65535])) if draw(rarely) else None
    version = draw(st.sampled_from([2, 3, 9])) if draw(rarely) else 1
    header = npy_header(descr, repr(shape), draw(st.booleans()), version, length)
    fitting = math.prod(shape) * draw(st.sampled_from([1, 2, 4, 8]))
    return header + bytes(fitting if 0 <= fitting < 5000 and not draw(rarely) else draw(st.integers(0, 100)))


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 5)
    | st.sampled_from([*HUGE, 1.5, 2.0, float("nan"), float("inf"), -0.0, "", "7", "AAAA", "x" * 200])
)
json_like = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@st.composite
def replaced(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value in which something, somewhere, is replaced by something else, left out, or repeated."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(value)))
        if not draw(st.integers(0, 5)):
            return {name: held for name, held in value.items() if name != key}
        return value | {key: draw(replaced(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], *draw(st.sampled_from([[], [value[at]] * 2])), draw(replaced(value[at])), *value[at + 1 :]]
    return draw(json_like)


def as_json(value: Any) -> bytes:
    """The value as one line of JSON, in which NaN and infinity are allowed."""
    return json.dumps(value).encode()
