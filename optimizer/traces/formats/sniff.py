"""Telling which routing format a path holds, by its content (magic bytes and keys) and never by its suffix."""

import re
import zipfile
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from optimizer.errors import InputError


class Format(StrEnum):
    """The routing formats that are read."""

    NPZ = "npz"  # a native request
    COUNTS_NPZ = "counts-npz"
    NPY = "npy"  # vLLM's routed_experts alone
    VLLM = "vllm"
    SGLANG = "sglang"
    ROUTING_JSONL = "routing-jsonl"
    LOGICAL_COUNT = "logical-count"
    LOAD_HISTORY = "load-history"
    RECORDER_PT = "recorder-pt"  # SGLang's expert distribution recorder
    TENSORRT = "tensorrt"


COUNTS_ONLY = frozenset(
    {Format.COUNTS_NPZ, Format.LOGICAL_COUNT, Format.LOAD_HISTORY, Format.RECORDER_PT, Format.TENSORRT}
)

READ = (
    "what is read are request .npz files, .npz counts, .npy arrays, vLLM and SGLang responses (JSON, JSONL), routing "
    "JSONL, logical_count and load_history JSON, SGLang recorder files and TensorRT-LLM statistics folders"
)
DECIDING = {
    b"routed_experts": Format.VLLM,
    b"topk_experts": Format.ROUTING_JSONL,
    b"logical_count": Format.LOGICAL_COUNT,
    b"load_history": Format.LOAD_HISTORY,
}
KEY = re.compile(rb'"(meta_info|%s)"\s*:' % b"|".join(DECIDING))  # inside a text the second quote would be escaped
CHUNK = 1 << 13  # bytes that are read at a time; most files show their format in the first
FAR = 1 << 24  # bytes: the text and token ids of a long answer may come before its routing, but hardly more than this
OVERLAP = 64  # bytes of a chunk that are kept for a key that goes on in the next; longer than any key


def sniff(path: Path) -> Format:
    """Tell the format of a file or folder. Raises InputError where it has none that is known.

    Of a zip archive only the directory is read, of an array eight bytes, and of JSON as much as comes before the first
    key that decides. That is a chunk or two, unless a response puts a long text before its routing.
    """
    try:
        found = _folder(path) if path.is_dir() else _file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); {READ}") from None
    if found is None:
        raise InputError(f"{path}: holds no routing in a known format; {READ}")
    return found


def _folder(path: Path) -> Format | None:
    whole = (path / "meta_info.json").is_file() and any(path.glob("rank*.safetensors"))
    return Format.TENSORRT if whole else None


def _file(path: Path) -> Format | None:
    with path.open("rb") as file:
        start = file.read(CHUNK)
        if start.startswith(b"\x93NUMPY"):
            return Format.NPY
        if start.startswith(b"PK"):
            return _archive(path)
        if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
            return _json(start, file)
        return None


def _archive(path: Path) -> Format | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # zipfile raises a dozen kinds for a damaged directory
        return None
    if "routed_experts.npy" in names:
        return Format.NPZ
    if "counts.npy" in names:
        return Format.COUNTS_NPZ
    return Format.RECORDER_PT if any(name.endswith("/data.pkl") for name in names) else None


def _json(window: bytes, file: BinaryIO) -> Format | None:
    """The format by the first key that decides; SGLang is told by routed_experts inside meta_info."""
    in_meta_info = False
    while file.tell() <= FAR:
        for key in KEY.finditer(window):
            if key[1] == b"routed_experts" and in_meta_info:
                return Format.SGLANG
            if key[1] in DECIDING:
                return DECIDING[key[1]]
            in_meta_info = True
        following = file.read(CHUNK)
        if not following:
            break
        window = window[-OVERLAP:] + following
    return None
