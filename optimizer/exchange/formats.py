"""All formats by name, and which of them a file is of."""

import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import optimizer.exchange.eplb_arrays as eplb_arrays
import optimizer.exchange.omniinfer as omniinfer
import optimizer.exchange.rtp_llm as rtp_llm
import optimizer.exchange.sglang as sglang
import optimizer.exchange.tensorrt_llm as tensorrt_llm
import optimizer.exchange.tt_metal as tt_metal
import optimizer.exchange.vllm as vllm
import optimizer.exchange.vllm_ascend as vllm_ascend
from optimizer.errors import InputError
from optimizer.exchange.server_placement import ServerPlacement
from optimizer.files import write_whole_binary

Rows = Literal["hidden", "moe", "ids", "planned", "one"]


@dataclass(frozen=True)
class Format:
    """One server's format.

    name: as a user gives it. title: the server, as its makers write it. file: what a file of this format is, for
    sentences. rows: for which layers a file must have a row: all hidden ones, all with experts from 0 on ("moe"), all
    with experts by their ids, those that are planned, or one alone. names_shared: whether it can name shared experts.
    empty: whether it can leave a slot empty; "evenly" if devices must then hold equally many experts. suffix: how the
    server asks the file's name to end, or "". start: how the server is told of the file, with {file}, {ranks} and
    {redundant} to fill in.
    """

    name: str
    title: str
    file: str
    rows: Rows
    read: Callable[[Path], ServerPlacement]
    content: Callable[[ServerPlacement], bytes]
    start: str
    names_shared: bool = False
    empty: Literal["no", "evenly", "yes"] = "no"
    suffix: str = ""


FORMATS = {
    each.name: each
    for each in (
        Format(
            sglang.NAME,
            "SGLang",
            "an expert location of SGLang",
            "hidden",
            sglang.read,
            sglang.content,
            "--init-expert-location {file} --ep-num-redundant-experts {redundant} --ep-size {ranks}",
            suffix=".json",
        ),
        Format(
            vllm.NAME,
            "vLLM",
            "an initial expert mapping proposed for vLLM",
            "moe",
            vllm.read,
            vllm.content,
            "--enable-eplb --eplb-config "
            '\'{{"num_redundant_experts": {redundant}, "initial_mapping_path": "{file}"}}\'',
        ),
        Format(
            vllm.LISTS_NAME,
            "vLLM",
            "an initial expert map (JSON lists) proposed for vLLM",
            "moe",
            vllm.read_lists,
            vllm.content_lists,
            "--enable-eplb --eplb-config "
            '\'{{"num_redundant_experts": {redundant}, "initial_expert_map_path": "{file}"}}\'',
        ),
        Format(
            tensorrt_llm.NAME,
            "TensorRT-LLM",
            "a load balancer file of TensorRT-LLM",
            "ids",
            tensorrt_llm.read,
            tensorrt_llm.content,
            "moe_expert_parallel_size: {ranks} and moe_config.load_balancer: {file}, in the YAML of its own options",
        ),
        Format(
            vllm_ascend.NAME,
            "vllm-ascend",
            "an expert map of vllm-ascend",
            "moe",
            vllm_ascend.read,
            vllm_ascend.content,
            '--enable-expert-parallel --additional-config \'{{"eplb_config": {{"expert_map_path": "{file}"}}}}\'',
            suffix=".json",
        ),
        Format(
            rtp_llm.NAME,
            "RTP-LLM",
            "an expert list of RTP-LLM",
            "hidden",
            rtp_llm.read,
            rtp_llm.content,
            "--phy2log_path {file} with {redundant} redundant experts and {ranks} ranks",
        ),
        Format(
            omniinfer.NAME,
            "OmniInfer",
            "a placement pattern of OmniInfer",
            "moe",
            omniinfer.read,
            omniinfer.content,
            "pattern_path: {file}, in the configuration of its placement",
            empty="evenly",
        ),
        Format(
            eplb_arrays.NAME,
            "EPLB",
            "a file of EPLB's arrays",
            "moe",
            eplb_arrays.read,
            eplb_arrays.content,
            "phy2log, log2phy and logcnt of numpy.load('{file}')",
        ),
        Format(
            tt_metal.NAME,
            "tt-metal",
            "a file of tt-metal dispatch tables",
            "planned",
            tt_metal.read,
            tt_metal.content,
            "expert_mapping [layer, source device, expert] of numpy.load('{file}')",
            names_shared=True,
            empty="yes",
        ),
        Format(
            tt_metal.YAML_NAME,
            "tt-metal",
            "settings of tt-metal with an expert mapping",
            "one",
            tt_metal.read_yaml,
            tt_metal.content_yaml,
            "the section experts of {file}, in the model's configuration",
            names_shared=True,
            empty="yes",
        ),
    )
}
"""All formats by name."""

PLAN = "plan"
PLAN_KEY = re.compile(rb'"format"\s*:\s*"moeplan/plan"')
CHUNK = 1 << 16  # bytes that are looked at: all formats name what they are at the beginning
KEYS = (
    (PLAN_KEY, PLAN),
    (re.compile(rb'"physical_to_logical_map"\s*:'), sglang.NAME),
    (re.compile(rb'"eplb_initial_mapping"'), vllm.NAME),
    (re.compile(rb'"(moe_layer_count|layer_list)"\s*:'), vllm_ascend.NAME),
)
YAML_KEYS = (
    (re.compile(rb"^\s*\{?\s*[\"']?(num_slots|initial_global_assignments)[\"']?\s*:", re.MULTILINE), tensorrt_llm.NAME),
    (re.compile(rb"^\s*[\"']?expert_mapping[\"']?\s*:", re.MULTILINE), tt_metal.YAML_NAME),
)


def formats_of(path: Path) -> list[str]:
    """The names of all formats that the beginning of a file fits, or `PLAN` alone for a plan of this program.

    Nothing is read to its end but the directory of a zip archive. A bare list of lists fits two. Raises InputError for
    a file that cannot be opened.
    """
    try:
        with path.open("rb") as file:
            start = file.read(CHUNK).removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); name a file that you may read") from None
    if start.startswith(b"\x93NUMPY"):
        return [omniinfer.NAME]
    if start.startswith(b"PK"):
        return _archive(path)
    if re.match(rb"\s*\[\s*\[", start):
        return [vllm.LISTS_NAME, rtp_llm.NAME]
    keys = KEYS if start.lstrip()[:1] == b"{" else YAML_KEYS
    return next(([name] for key, name in (*keys, *YAML_KEYS) if key.search(start)), [])


def _archive(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            held = set(archive.namelist())
    except Exception:  # zipfile raises a dozen kinds for a damaged directory
        return []
    decides = {"phy2log.npy": eplb_arrays.NAME, "expert_mapping.npy": tt_metal.NAME}
    return [name for member, name in decides.items() if member in held]


def format_of(path: Path, layers: int | None = None, moe_layers: int | None = None) -> Format:
    """The format of a file, by its content.

    layers, moe_layers: how many layers the model has in all and with experts, where that is known; they tell lists of
    all layers from lists of those with experts. Raises InputError where the file is of no format, or of two.
    """
    found = formats_of(path)
    if found == [PLAN]:
        raise InputError(f"{path}: is a plan already, and no server's file")
    if not found:
        raise InputError(f"{path}: holds no placement in a known format; there are {', '.join(FORMATS)}", "format")
    if len(found) > 1 and layers and moe_layers:
        rows = len(FORMATS[found[0]].read(path).layers)
        fitting = {moe_layers: vllm.LISTS_NAME, layers: rtp_llm.NAME}
        found = [fitting[rows]] if rows in fitting and len(fitting) == 2 else found
    if len(found) > 1:
        vllm_lists, rtp = (FORMATS[name] for name in found)
        raise InputError(
            f"{path}: fits two formats: {vllm_lists.name} ({vllm_lists.title}, a row for each layer with experts) and "
            f"{rtp.name} ({rtp.title}, a row for each layer, dense ones too); name one",
            "format",
        )
    return FORMATS[found[0]]


def named_format(name: str) -> Format:
    """The format of this name. Raises InputError for any other name."""
    if name not in FORMATS:
        raise InputError(f"'{name}' is not a known format; there are {', '.join(FORMATS)}", "format")
    return FORMATS[name]


def read_placement(path: Path | str, format: str | None = None) -> ServerPlacement:  # noqa: A002 (as users call it)
    """The placement in a server's file, whatever its format.

    format: its name, None to tell it by the content. The placement may break the server's rules, which
    `optimizer.exchange.faults` tells. Raises InputError, in one line, for what cannot be read, and where a file fits
    two formats.
    """
    path = Path(path)
    chosen = format_of(path) if format is None else named_format(format)
    return chosen.read(path)


def write_placement(path: Path, placement: ServerPlacement) -> None:
    """Write a placement in its own format, whole or not at all."""
    content = FORMATS[placement.format].content(placement)
    write_whole_binary(path, lambda file: file.write(content))
