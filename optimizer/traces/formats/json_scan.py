"""Fast passes over the text of JSON: where a value ends, and what long nested lists of whole numbers hold.

Recordings are short but for their lists of expert ids or counts, which the standard library reads one Python object at
a time. So these lists are taken out of the text first, each as an array, and the library reads what is left.
"""

import re
import secrets
from collections.abc import Iterator
from typing import IO

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel

LISTED = (
    *(b"prompt_routed_experts", b"routed_experts", b"topk_experts"),
    *(b"logical_count", b"logical_expert_load", b"expert_load", b"p2l_map"),
)
FIELDS = re.compile(rb'"(?:%s)"\s*:\s*(?=\[)' % b"|".join(LISTED))
"""What stands before such a list. Inside a text the second quote would be escaped."""

SHORT = 1 << 12  # bytes: the library reads shorter texts faster than they are prepared
CHUNK = 1 << 20  # bytes that are read at a time: many responses, or a part of a long one
AXES = 4
MOST = 1 << 59  # larger numbers are left to the library; one digit more still fits 64 bits
NARROW = np.iinfo(np.int32).max  # lists of such numbers, ids above all, take half of the memory
WHITE = b" \t\r\n"
STAND_IN = f"array {secrets.token_hex(8)} "
"""The text that stands for an array; as it is drawn anew in every process, no file can hold it."""


def lifted(text: bytes) -> tuple[bytes, dict[str, Ints]]:
    """Replace the lists of expert ids and of counts in JSON by texts, and give the array that each text stands for.

    Arrays are int32, or int64 where a number needs it. A list that is not of whole numbers, or whose parts differ in
    length, stays for the library to read.
    """
    if len(text) < SHORT:
        return text, {}
    pieces: list[bytes] = []
    arrays: dict[str, Ints] = {}
    at = 0
    for found in FIELDS.finditer(text):
        array, end = _array_at(text, found.end())
        if array is None:
            continue
        name = f"{STAND_IN}{len(arrays)}"
        arrays[name] = array
        pieces += [text[at : found.end()], b'"', name.encode(), b'"']
        at = end
    return b"".join([*pieces, text[at:]]), arrays


def whole_list(text: bytes) -> Ints | None:
    """The array of a text that is one nested list of whole numbers and nothing else; None for any other text."""
    start = len(text) - len(text.lstrip(WHITE))
    if text[start : start + 1] != b"[":
        return None
    array, end = _array_at(text, start)
    return None if text[end:].strip(WHITE) else array


def _array_at(text: bytes, start: int) -> tuple[Ints | None, int]:
    """The array of the list that begins at `start`, and where it ends; None where it is not a full block of whole
    numbers."""
    buffer, shape = np.frombuffer(text, dtype=np.uint8), np.zeros(AXES, dtype=np.int64)
    end, axes, numbers = _measure(buffer, start, shape)
    if end < 0:
        return None, start
    values = np.empty(numbers, dtype=np.int64)
    _read(buffer, start, values)
    if np.abs(values).max() <= NARROW:
        values = values.astype(np.int32)
    return values.reshape(shape[:axes]), end


def items(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the text of each item of a JSON list, of which one at a time is in memory.

    file: stands behind the opening bracket. The text of an item is whatever stands between two commas of the list. A
    list that does not end, or is followed by anything, gives b"" as its last item, which is no JSON.
    """
    held, start, at, first, state = b"", 0, 0, True, np.zeros(3, dtype=np.int64)
    while True:
        end = _end_of_item(np.frombuffer(held, dtype=np.uint8), at, state)
        if end < 0:
            more = file.read(max(CHUNK, len(held) - start))
            if not more:
                yield b""
                return
            held, at, start = held[start:] + more, len(held) - start, 0
            continue
        item, last = held[start:end], held[end : end + 1] == b"]"
        start, at, state[:] = end + 1, end + 1, 0
        if item.strip() or not (first and last):
            yield item
        first = False
        if last:
            if held[start:].strip() or file.read(CHUNK).strip():
                yield b""
            return


@kernel
def _end_of_item(text: Ints, start: int, state: Ints) -> int:
    """Where the comma or bracket after an item stands, -1 where the text ends before; state: depth, in a text, escaped.

    An item is scanned in as many calls as its text is read in; `state` is what the next call must know.
    """
    depth, quoted, escaped = state
    for at in range(start, len(text)):
        letter = text[at]
        if quoted:
            if escaped:
                escaped = 0
            elif letter == ord("\\"):
                escaped = 1
            elif letter == ord('"'):
                quoted = 0
        elif letter == ord('"'):
            quoted = 1
        elif letter == ord("[") or letter == ord("{"):
            depth += 1
        elif depth == 0 and (letter == ord(",") or letter == ord("]")):
            return at
        elif letter == ord("]") or letter == ord("}"):
            depth -= 1
    state[0], state[1], state[2] = depth, quoted, escaped
    return -1


@kernel
def _measure(text: Ints, start: int, shape: Ints) -> tuple[int, int, int]:
    """The end of a nested list, its axes and how many numbers it holds; -1, 0, 0 for anything but a full block of
    whole numbers. shape [AXES]: is set."""
    depth, axes, numbers, at = 0, 0, 0, start
    counts = np.zeros(AXES + 1, dtype=np.int64)
    wants_value = True
    while at < len(text):
        letter = text[at]
        if letter == ord(" ") or letter == ord("\n") or letter == ord("\r") or letter == ord("\t"):
            at += 1
        elif letter == ord(","):
            if wants_value:
                return -1, 0, 0
            wants_value = True
            at += 1
        elif letter == ord("["):
            depth += 1
            if not wants_value or depth > AXES:
                return -1, 0, 0
            counts[depth] = 0
            at += 1
        elif letter == ord("]"):
            if wants_value or (shape[depth - 1] and shape[depth - 1] != counts[depth]):
                return -1, 0, 0
            shape[depth - 1] = counts[depth]
            depth -= 1
            at += 1
            if depth == 0:
                return at, axes, numbers
            counts[depth] += 1
        else:
            length = _length_of_number(text, at)
            if not wants_value or length == 0 or (axes and axes != depth):
                return -1, 0, 0
            axes, wants_value = depth, False
            counts[depth] += 1
            numbers += 1
            at += length
    return -1, 0, 0


@kernel
def _length_of_number(text: Ints, start: int) -> int:
    """How many letters a whole number below 2^59 has, as JSON writes it; 0 where there is none."""
    at = start + 1 if text[start] == ord("-") else start
    first, value = at, 0
    while at < len(text) and ord("0") <= text[at] <= ord("9"):
        value = value * 10 + (text[at] - ord("0"))
        at += 1
        if value >= MOST:
            return 0
    if at == first or at == len(text) or (text[first] == ord("0") and at > first + 1):
        return 0
    after = text[at]
    if after == ord(".") or after == ord("e") or after == ord("E"):
        return 0
    return at - start


@kernel
def _read(text: Ints, start: int, values: Ints) -> None:
    """Read as many numbers as `values` has room for, from a list that was measured."""
    at = start
    for number in range(len(values)):
        while text[at] != ord("-") and not ord("0") <= text[at] <= ord("9"):
            at += 1
        sign = 1
        if text[at] == ord("-"):
            sign = -1
            at += 1
        value = 0
        while ord("0") <= text[at] <= ord("9"):
            value = value * 10 + (text[at] - ord("0"))
            at += 1
        values[number] = sign * value
