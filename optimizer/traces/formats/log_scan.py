"""A fast pass over the lines of an expert log: flat JSON objects, one for each token and layer.

A log has a line for each token and layer, which the standard library reads in some 5 us; this takes a tenth. A line of
any other form (escapes, nested values, very many ids) is left to the library.
"""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel

MOST_IDS = 32  # ids in a line that is read fast; no model has a larger top-k
MOST_NUMBER = 1 << 40
EXACT_POWER = 22  # the largest power of ten that a double holds exactly
MOST_DIGITS = 18  # digits that 64 bits hold
BLANK, OTHER, ROUTE, META = 0, 1, 2, 3  # what a line is; OTHER is left to the library
WEIGHTS = 5  # the place of the key of weights in `KNOWN`
ROUTE_WORD, META_WORD = 6, 7  # where these values of the key `type` are in `KNOWN`, behind the keys
NEEDED = 0b011110  # the keys that a route must have, by their places: req_id, token_idx, layer, topk_ids
IN_NUMBERS = np.isin(np.arange(256), np.frombuffer(b"0123456789+-.eE, ", dtype=np.uint8))
POWERS = 10.0 ** np.arange(EXACT_POWER + 1)
WORDS = np.frombuffer(b"truefalsenull", dtype=np.uint8)
HASH_START, HASH_FACTOR = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a of 64 bits


class LogLines(NamedTuple):
    """What lines say.

    kind `[line]`; typed and request `[line]` uint64, the hashes of type and req_id; token and layer `[line]`; length
    `[line, 2]`, the numbers of ids and of weights; ids and weights `[line, MOST_IDS]`; end `[line]`, where it ends.
    """

    kind: Ints
    typed: Ints
    request: Ints
    token: Ints
    layer: Ints
    length: Ints
    ids: Ints
    weights: Floats
    end: Ints


def scanned(text: bytes, weights: bool) -> LogLines:
    """Read the whole lines of a text, the last of which may lack its line feed; weights: whether these are read too."""
    letters = np.frombuffer(text, dtype=np.uint8)
    ends = np.flatnonzero(letters == ord("\n"))
    if not text.endswith(b"\n"):
        ends = np.append(ends, len(text))
    lines = len(ends)
    found = LogLines(
        np.zeros(lines, dtype=np.uint8),
        np.zeros(lines, dtype=np.uint64),
        np.zeros(lines, dtype=np.uint64),
        np.zeros(lines, dtype=np.int64),
        np.zeros(lines, dtype=np.int64),
        np.zeros((lines, 2), dtype=np.int64),
        np.empty((lines, MOST_IDS), dtype=np.int32),
        np.empty((lines, MOST_IDS), dtype=np.float32),
        ends,
    )
    _scan(letters, KEYS, weights, found)
    return found


def hash_of(text: bytes) -> np.uint64:
    """The hash of a text as the scan makes it."""
    found = int(HASH_START)
    for letter in text:
        found = (found ^ letter) * int(HASH_FACTOR) % (1 << 64)
    return np.uint64(found)


@kernel
def _text(text: Ints, at: int, stop: int) -> tuple[np.uint64, int]:
    """The hash of a text without escapes, and the place behind its closing quote; -1 for anything else."""
    found = HASH_START
    if at >= stop or text[at] != ord('"'):
        return found, -1
    for end in range(at + 1, stop):
        letter = text[end]
        if letter == ord('"'):
            return found, end + 1
        if letter == ord("\\") or letter < ord(" ") or letter > ord("~"):
            return found, -1
        found = (found ^ np.uint64(letter)) * HASH_FACTOR
    return found, -1


@kernel
def _scan(text: Ints, keys: Ints, weights: bool, found: LogLines) -> None:
    """Read every line into `found`; keys: the hashes of `KNOWN`; weights: whether these are read."""
    start = 0
    for line in range(len(found.kind)):
        stop = found.end[line]
        at = _skip_blanks(text, start, stop)
        if at < stop:
            found.kind[line] = _line(text, at, stop, keys, weights, found, line)
        start = stop + 1


@kernel
def _skip_blanks(text: Ints, at: int, stop: int) -> int:
    while at < stop and (text[at] == ord(" ") or text[at] == ord("\t") or text[at] == ord("\r")):
        at += 1
    return at


@kernel
def _line(text: Ints, at: int, stop: int, keys: Ints, weights: bool, found: LogLines, line: int) -> int:
    """Read one line that begins at `at`; returns what it is."""
    if text[at] != ord("{"):
        return OTHER
    seen = 0
    while text[at] != ord("}"):
        at = _skip_blanks(text, at + 1, stop)
        name, end = _text(text, at, stop)
        if end < 0:
            return OTHER
        key = _place(keys, name)
        at = _skip_blanks(text, end, stop)
        if at >= stop or text[at] != ord(":") or (key >= 0 and seen & (1 << key)):
            return OTHER  # a key that comes twice is for the library to judge
        seen |= 1 << key if key >= 0 else 0
        at = _skip_blanks(text, at + 1, stop)
        plain = key < 0 or (key == WEIGHTS and not weights)
        at = _end_of_plain(text, at, stop) if plain else _value(text, at, stop, key, found, line)
        at = _skip_blanks(text, at, stop) if at >= 0 else stop
        if at >= stop or (text[at] != ord(",") and text[at] != ord("}")):
            return OTHER
    if _skip_blanks(text, at + 1, stop) < stop:
        return OTHER
    if seen & 1 and found.typed[line] == keys[META_WORD]:
        return META
    route = not seen & 1 or found.typed[line] == keys[ROUTE_WORD]
    return ROUTE if route and seen & NEEDED == NEEDED else OTHER


@kernel
def _place(keys: Ints, name: np.uint64) -> int:
    """Which of the keys that are read has a hash, -1 for none."""
    for key in range(ROUTE_WORD):
        if keys[key] == name:
            return key
    return -1


@kernel
def _value(text: Ints, at: int, stop: int, key: int, found: LogLines, line: int) -> int:
    """Read the value of a key, the place of which in `KNOWN` is given; returns the place behind it, or -1."""
    if key == 0 or key == 1:
        hashes = found.typed if key == 0 else found.request
        hashes[line], end = _text(text, at, stop)
        return end
    if key == 2 or key == 3:
        value, at = _whole(text, at, stop)
        numbers = found.token if key == 2 else found.layer
        numbers[line] = value
        return at
    if key == 4:
        return _ids(text, at, stop, found, line)
    return _weights(text, at, stop, found, line)


@kernel
def _end_of_plain(text: Ints, at: int, stop: int) -> int:
    """The end of the value of a key that is not read: a text, a word, a number, or a list of numbers; -1 for others."""
    if at < stop and text[at] == ord('"'):
        _, at = _text(text, at, stop)
        return at
    if at < stop and text[at] == ord("["):
        for end in range(at + 1, stop):
            if text[end] == ord("]"):
                return end + 1
            if not IN_NUMBERS[text[end]]:
                return -1
        return -1
    if at < stop and (text[at] == ord("t") or text[at] == ord("f") or text[at] == ord("n")):
        return _end_of_word(text, at, stop, WORDS)
    _, at = _number(text, at, stop)
    return at


@kernel
def _end_of_word(text: Ints, at: int, stop: int, words: Ints) -> int:
    """The end of `true`, `false` or `null`; -1 for another word."""
    for first, length in ((0, 4), (4, 5), (9, 4)):
        if at + length <= stop and (text[at : at + length] == words[first : first + length]).all():
            return at + length
    return -1


@kernel
def _whole(text: Ints, at: int, stop: int) -> tuple[int, int]:
    """A whole number of at least 0 and the place behind it, which is -1 where there is none."""
    first, value = at, 0
    while at < stop and ord("0") <= text[at] <= ord("9") and value < MOST_NUMBER:
        value = value * 10 + (text[at] - ord("0"))
        at += 1
    if at == first or at >= stop or (text[first] == ord("0") and at > first + 1):
        return 0, -1
    after = text[at]
    if after == ord(".") or after == ord("e") or after == ord("E") or ord("0") <= after <= ord("9"):
        return 0, -1
    return value, at


@kernel
def _number(text: Ints, at: int, stop: int) -> tuple[float, int]:
    """A number and the place behind it, which is -1 where there is none, or one of too many digits.

    Its digits are rounded to a double, and divided by a power of ten that is exact: two roundings of 1e-16, which an
    array of float32 does not show but where it lies between two of its numbers.
    """
    negative = at < stop and text[at] == ord("-")
    at += negative
    first, value, digits, power, fraction = at, 0, 0, 0, False
    while at < stop and (ord("0") <= text[at] <= ord("9") or (text[at] == ord(".") and not fraction and at > first)):
        if text[at] == ord("."):
            fraction = True
        else:
            value = value * 10 + (text[at] - ord("0"))
            digits += value > 0
            power -= fraction
        at += 1
        if digits > MOST_DIGITS:
            return 0.0, -1
    padded = at > first + 1 and text[first] == ord("0") and text[first + 1] != ord(".")
    if at == first or text[at - 1] == ord(".") or padded:
        return 0.0, -1
    if at < stop and (text[at] == ord("e") or text[at] == ord("E")):
        sign = 1
        at += 1
        if at < stop and (text[at] == ord("-") or text[at] == ord("+")):
            sign = -1 if text[at] == ord("-") else 1
            at += 1
        begin, exponent = at, 0
        while at < stop and ord("0") <= text[at] <= ord("9") and exponent < 1000:
            exponent = exponent * 10 + (text[at] - ord("0"))
            at += 1
        if at == begin:
            return 0.0, -1
        power += sign * exponent
    if power < -EXACT_POWER or power > EXACT_POWER or at >= stop:
        return 0.0, -1
    found = value / POWERS[-power] if power < 0 else value * POWERS[power]
    return (-found if negative else found), at


@kernel
def _ids(text: Ints, at: int, stop: int, found: LogLines, line: int) -> int:
    """Read a list of ids from 0 to 65535; returns the place behind it, or -1."""
    if at >= stop or text[at] != ord("["):
        return -1
    at += 1
    for place in range(MOST_IDS):
        value, at = _whole(text, _skip_blanks(text, at, stop), stop)
        if at < 0 or value > 65535:
            return -1
        found.ids[line, place] = value
        at = _skip_blanks(text, at, stop)
        if at >= stop or (text[at] != ord(",") and text[at] != ord("]")):
            return -1
        at += 1
        if text[at - 1] == ord("]"):
            found.length[line, 0] = place + 1
            return at
    return -1


@kernel
def _weights(text: Ints, at: int, stop: int, found: LogLines, line: int) -> int:
    """Read a list of numbers; returns the place behind it, or -1."""
    if at >= stop or text[at] != ord("["):
        return -1
    at += 1
    for place in range(MOST_IDS):
        value, at = _number(text, _skip_blanks(text, at, stop), stop)
        if at < 0:
            return -1
        found.weights[line, place] = value
        at = _skip_blanks(text, at, stop)
        if at >= stop or (text[at] != ord(",") and text[at] != ord("]")):
            return -1
        at += 1
        if text[at - 1] == ord("]"):
            found.length[line, 1] = place + 1
            return at
    return -1


KNOWN = (b"type", b"req_id", b"token_idx", b"layer", b"topk_ids", b"topk_weights", b"route", b"meta")
"""The keys that are read, and then the values that the first may have."""

KEYS = np.array([hash_of(name) for name in KNOWN], dtype=np.uint64)
