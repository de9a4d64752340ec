"""Telling which routing format a path holds, by its content (magic bytes and keys) and never by its suffix."""

import re
import zipfile
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from optimizer.errors import InputError
from optimizer.exchange.formats import PLAN, PLAN_KEY, formats_of
from optimizer.traces.formats.expert_maps import check_list, foreign
from optimizer.traces.formats.json_scan import whole_list
from optimizer.traces.formats.torch_file import LONGEST, stored_whole
from optimizer.traces.formats.untrusted import BYTE_ORDER_MARK


class Format(StrEnum):
    """The routing formats that are read."""

    NPZ = "npz"  # a native request
    COUNTS_NPZ = "counts-npz"
    NPY = "npy"  # vLLM's routed_experts alone
    VLLM = "vllm"
    SGLANG = "sglang"
    ROUTING_JSONL = "routing-jsonl"
    EXPERT_LOG = "expert-log"
    RECORDER_TOKENS = "recorder-tokens"  # SGLang's recorder, per token
    TENSORRT_RAW = "tensorrt-raw"
    LOGICAL_COUNT = "logical-count"
    LOAD_HISTORY = "load-history"
    COUNT_LIST = "count-list"  # LMDeploy's
    VLLM_LOAD = "vllm-load"
    RECORDER_PT = "recorder-pt"  # SGLang's expert distribution recorder
    RECORDER_PASSES = "recorder-passes"  # the same recorder's records, one file a rank
    TENSORRT = "tensorrt"


COUNTS_ONLY = frozenset(
    {
        Format.COUNTS_NPZ,
        Format.LOGICAL_COUNT,
        Format.LOAD_HISTORY,
        Format.COUNT_LIST,
        Format.VLLM_LOAD,
        Format.RECORDER_PT,
        Format.RECORDER_PASSES,
        Format.TENSORRT,
    }
)

READ = (
    "what is read are request .npz files, .npz counts, .npy arrays, vLLM and SGLang responses (JSON, JSONL), routing "
    "JSONL, expert logs, logical_count and load_history JSON, lists of counts, vLLM load statistics, SGLang recorder "
    "files and TensorRT-LLM statistics folders"
)
DECIDING = {
    b"routed_experts": Format.VLLM,
    b"prompt_routed_experts": Format.VLLM,
    b"topk_ids": Format.EXPERT_LOG,
    b"topk_experts": Format.ROUTING_JSONL,
    b"logical_count": Format.LOGICAL_COUNT,
    b"load_history": Format.LOAD_HISTORY,
    b"expert_load": Format.VLLM_LOAD,
}
AROUND = (b"meta_info", b"sgl_ext", b"sglext")  # SGLang's objects around its ids
KEY = re.compile(rb'"(%s)"\s*:' % b"|".join([*AROUND, *DECIDING]))  # in a text the second quote is escaped
LISTS = re.compile(rb"\s*\[\s*\[")  # how a list of lists begins
CHUNK = 1 << 13  # bytes that are read at a time; most files show their format in the first
FAR = 1 << 24  # bytes: the text and token ids of a long answer may come before its routing, but hardly more than this
OVERLAP = 64  # bytes of a chunk that are kept for a key that goes on in the next; longer than any key


def sniff(path: Path) -> Format:
    """Tell the format of a file or folder.

    Raises InputError where it has none that is known, and where it has two, and ForeignFileError for a plan and for a
    server's expert map.

    Of a zip archive only the directory is read, of an array eight bytes, and of JSON as much as comes before the first
    key that decides. That is a chunk or two, unless a response puts a long text before its routing.
    """
    try:
        found = _folder(path) if path.is_dir() else _file(path)
        if found is None and path.is_file() and (maps := formats_of(path)):
            raise foreign(maps)
    except InputError as error:
        raise type(error)(f"{path}: {error}", error.field) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); {READ}") from None
    if found is None:
        raise InputError(f"{path}: holds no routing in a known format; {READ}")
    return found


def _folder(path: Path) -> Format | None:
    names = {re.sub(r"[0-9]+", "0", file.name) for file in path.iterdir()}
    if "meta_info.json" not in names or not names & {"rank0.safetensors", "rank0_raw.safetensors"}:
        return None
    if names >= {"rank0.safetensors", "rank0_raw.safetensors"}:
        said = "holds counts (rank0.safetensors) and the ids of each token (rank0_raw.safetensors) of the same run"
        raise InputError(f"{said}; name the format {Format.TENSORRT} or {Format.TENSORRT_RAW}", "format")
    return Format.TENSORRT if "rank0.safetensors" in names else Format.TENSORRT_RAW


def _file(path: Path) -> Format | None:
    with path.open("rb") as file:
        start = file.read(CHUNK).removeprefix(BYTE_ORDER_MARK)
        if start.startswith(b"\x93NUMPY"):
            return Format.NPY
        if start.startswith(b"PK"):
            return _archive(path)
        if LISTS.match(start):
            return _list(start, file)
        if start.lstrip()[:1] in (b"{", b"["):
            return _json(start, file)
        return None


def _archive(path: Path) -> Format | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            recorded = next((_recorded(archive, name) for name in names if name.endswith("/data.pkl")), None)
    except Exception:  # zipfile raises a dozen kinds for a damaged directory
        return None
    if "routed_experts.npy" in names:
        return Format.NPZ
    if "counts.npy" in names:
        return Format.COUNTS_NPZ
    return recorded


def _recorded(archive: zipfile.ZipFile, name: str) -> Format:
    """The format of a torch file, by the names in its description, which is never unpickled."""
    info = archive.getinfo(name)
    readable = stored_whole(info) and info.file_size <= LONGEST
    described = archive.read(info) if readable else b""
    if b"topk_ids_of_layer" in described:
        return Format.RECORDER_TOKENS
    return Format.RECORDER_PASSES if b"last_physical_to_logical_map" in described else Format.RECORDER_PT


def _json(window: bytes, file: BinaryIO) -> Format | None:
    """The format by the first key that decides; SGLang is told by routed_experts inside meta_info or sgl_ext.

    A plan has such a key in its model, and is told first. Raises ForeignFileError for it.
    """
    inside = False
    if PLAN_KEY.search(window):
        raise foreign([PLAN])
    while file.tell() <= FAR:
        for key in KEY.finditer(window):
            if key[1] == b"routed_experts" and inside:
                return Format.SGLANG
            if key[1] in DECIDING:
                return DECIDING[key[1]]
            inside = inside or key[1] in AROUND
        following = file.read(CHUNK)
        if not following:
            break
        window = window[-OVERLAP:] + following
    return None


def _list(start: bytes, file: BinaryIO) -> Format:
    """The format of nested lists, which are counts. Raises InputError for what is an expert map, or may be one."""
    array = whole_list(start + file.read(FAR))
    if array is not None:
        check_list(array)
    return Format.COUNT_LIST
