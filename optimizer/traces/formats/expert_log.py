"""Servers' expert logs: JSONL with a line `{type: route, req_id, token_idx, layer, topk_ids, topk_weights}` for each
token and layer, after a line of type `meta`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.errors import InputError
from optimizer.traces.formats.log_scan import META, OTHER, ROUTE, LogLines, hash_of, scanned
from optimizer.traces.formats.request import BadRequestError, Request
from optimizer.traces.formats.untrusted import (
    INTEGERS,
    LARGEST_ID,
    NUMBERS,
    UnusableError,
    array_from_lists,
    count_from,
)

CHUNK = 1 << 17  # bytes that are read at a time: some hundred lines, so that as many empty ones take little memory
LONGEST_LINE = 1 << 24  # bytes: a line of one token is some hundred


@dataclass
class _Log:
    """The rows of a log so far, a row for each token and layer; all have as many ids as the first, `top_k`."""

    extras: bool
    top_k: int = 0
    requests: dict[int, int] = field(default_factory=dict)  # the hash of a req_id -> its number
    parts: list[tuple[Ints, Ints, Ints, Ints]] = field(default_factory=list)  # request, token, layer, ids
    weights: list[Floats] | None = field(default_factory=list)

    def add(self, request: Ints, token: Ints, layer: Ints, ids: Ints, weights: Floats | None) -> None:
        """Add rows; request `[row]` hashes, token and layer `[row]`, ids `[row, k]`, weights `[row, k]` or None."""
        kept = np.uint8 if ids.max() < 1 << 8 else np.uint16
        distinct, first = np.unique(request, return_index=True)
        for place in np.argsort(first):
            self.requests.setdefault(int(distinct[place]), len(self.requests))
        numbers = np.array([self.requests[int(each)] for each in distinct])
        numbered = numbers[np.searchsorted(distinct, request)].astype(np.int32)
        self.parts.append((numbered, token, layer.astype(np.int32), ids.astype(kept)))
        if self.weights is not None and self.extras and weights is not None:
            self.weights.append(weights.astype(np.float32))
        else:
            self.weights = None


def read_expert_log(path: Path, extras: bool = False) -> Iterator[Request | BadRequestError]:
    """Read the tokens of each `req_id` as a request of output tokens, in the order in which requests first appear.

    Tokens are ordered by `token_idx`. Where one comes a second time in a layer of a request, another stretch of the
    same request begins, which follows the one before. A token that lacks a layer counts as not recorded. extras:
    `topk_weights` are kept, where every line has them. A line that cannot be used gives a BadRequestError. Raises
    InputError for a file that cannot be opened.
    """
    log = _Log(extras)
    try:
        with path.open("rb") as file:
            line, rest = 1, b""
            while more := file.read(CHUNK):
                text, found, rest = rest + more, (rest + more).rfind(b"\n") + 1, b""
                if not found and len(text) <= LONGEST_LINE:
                    rest = text
                    continue
                whole, rest = (text[:found], text[found:]) if found else (text, b"")
                yield from _read_lines(whole, line, log)
                line += whole.count(b"\n")
            if rest:
                yield from _read_lines(rest, line, log)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a file that you may read") from None
    if log.parts:
        yield from _requests(log)


def _read_lines(text: bytes, first: int, log: _Log) -> Iterator[BadRequestError]:
    """Add the lines of a text to the log, and yield what is wrong with others; first: the number of its first line."""
    lines = scanned(text, log.extras)
    routes = lines.kind == ROUTE
    if not log.top_k and routes.any():
        log.top_k = int(lines.length[routes.argmax(), 0])
    fitting = routes & (lines.length[:, 0] == log.top_k)
    fitting &= (lines.length[:, 1] == 0) | (lines.length[:, 1] == log.top_k)
    for place in np.flatnonzero((lines.kind == OTHER) | (routes & ~fitting)):
        start = int(lines.end[place - 1]) + 1 if place else 0
        try:
            fitting[place] = _by_library(text[start : lines.end[place]], lines, int(place), log)
        except UnusableError as error:
            yield BadRequestError(f"line {first + place}: {error}")
    if fitting.any():
        weighted = bool((lines.length[fitting, 1] == log.top_k).all())
        k = log.top_k
        weights = lines.weights[fitting, :k] if weighted else None
        log.add(lines.request[fitting], lines.token[fitting], lines.layer[fitting], lines.ids[fitting, :k], weights)


def _by_library(text: bytes, lines: LogLines, place: int, log: _Log) -> bool:
    """Read a line that the fast pass did not, into its place; returns whether it is a route. Raises UnusableError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise UnusableError("not JSON") from None
    if not isinstance(value, dict):
        raise UnusableError("not a JSON object")
    if value.get("type", "route") == "meta":
        lines.kind[place] = META
        return False
    if value.get("type", "route") != "route":
        raise UnusableError(f"has type {str(value['type'])[:40]!r}, which is neither route nor meta")
    token, layer = count_from(value, "token_idx"), count_from(value, "layer")
    if not isinstance(value.get("req_id"), str | int) or token is None or layer is None:
        raise UnusableError("lacks a req_id, token_idx or layer")
    ids = array_from_lists(value.get("topk_ids"), "topk_ids")
    if ids.ndim != 1 or ids.dtype.kind not in INTEGERS or ids.min() < 0 or ids.max() > LARGEST_ID:
        raise UnusableError(f"topk_ids is no list of expert ids from 0 to {LARGEST_ID}")
    log.top_k = log.top_k or min(len(ids), lines.ids.shape[1])
    if len(ids) != log.top_k:
        raise UnusableError(f"topk_ids has {len(ids)} experts, but the first line has {log.top_k}")
    lines.length[place] = len(ids), 0
    if value.get("topk_weights") is not None:
        weights = array_from_lists(value["topk_weights"], "topk_weights")
        if weights.shape != ids.shape or weights.dtype.kind not in NUMBERS:
            raise UnusableError(f"topk_weights is {weights.shape}, but topk_ids {ids.shape}")
        lines.length[place, 1] = len(ids)
        with np.errstate(all="ignore"):  # what overflows is refused where weights are checked
            lines.weights[place, : len(ids)] = weights
    request = value["req_id"]
    lines.request[place] = hash_of(str(request).encode(errors="surrogatepass"))
    lines.token[place], lines.layer[place], lines.ids[place, : len(ids)] = token, layer, ids
    return True


def _requests(log: _Log) -> Iterator[Request]:
    """The requests of all rows of a log."""
    request, token, layer, ids = (np.concatenate(arrays) for arrays in zip(*log.parts, strict=True))
    weights = np.concatenate(log.weights) if log.weights else None
    log.parts.clear()
    layers, place = np.unique(layer, return_inverse=True)
    _, rank = np.unique(token, return_inverse=True)
    stretch, repeated = _stretches(request, place, rank, len(layers))
    order = np.lexsort((rank, stretch, request))
    changed = np.diff(request[order]).astype(bool) | np.diff(stretch[order]).astype(bool)
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.cumsum(np.concatenate([[False], changed | np.diff(rank[order]).astype(bool)]))
    owner = np.zeros(int(number.max()) + 1, dtype=np.int64)
    owner[number] = request
    whole = np.zeros((len(owner), len(layers), log.top_k), dtype=ids.dtype)
    whole[number, place] = ids
    seen = np.zeros((len(owner), len(layers)), dtype=bool)
    seen[number, place] = True
    lacking = np.flatnonzero(~seen.all(axis=1))
    gates = None if weights is None else np.zeros(whole.shape, dtype=np.float32)
    if gates is not None:
        gates[number, place] = weights
    ends = np.searchsorted(owner, np.arange(len(log.requests) + 1))
    for start, stop in pairwise(ends.tolist()):
        part, held = whole[start:stop], tuple(layers.tolist())
        cut = lacking[np.searchsorted(lacking, start) : np.searchsorted(lacking, stop)]
        if len(cut):
            part = part.astype(np.int32)
            part[cut - start] = -1
        yield Request(part, 0, held, None if gates is None else gates[start:stop], remark=repeated)


def _stretches(request: Ints, place: Ints, rank: Ints, layers: int) -> tuple[Ints, str]:
    """In which stretch of its request and layer each row is, `[row]`, and a sentence if any request has several."""
    group = request.astype(np.int64) * layers + place
    order = np.argsort(group, kind="stable")
    stretch = np.zeros(len(group), dtype=np.int64)
    _number_stretches(group, rank, order, stretch, np.full(int(rank.max()) + 1, -1, dtype=np.int64))
    several = len(np.unique(request[stretch > 0]))
    said = (
        f"token_idx comes again in {several} of {int(request.max()) + 1} req_ids of the log: what follows is read as "
        "the next stretch of the same request, in the order of the file"
    )
    return stretch, said if several else ""


@kernel
def _number_stretches(group: Ints, rank: Ints, order: Ints, stretch: Ints, last: Ints) -> None:
    """Number the stretches of each group from 0; last [rank]: the running number of the stretch that a token was in."""
    running, own, before = 0, 0, -1
    for row in order:
        if group[row] != before:
            before, own = group[row], 0
            running += 1
        elif last[rank[row]] == running:
            own += 1
            running += 1
        last[rank[row]] = running
        stretch[row] = own
