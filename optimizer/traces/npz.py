"""The native trace format: one `.npz` per request (DOMAIN section 4), read without unpickling anything."""

import glob
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from formulations.arrays import Ints
from optimizer.errors import InputError
from optimizer.model import Model
from optimizer.traces.request import BadRequestError, Request
from optimizer.traces.trace import OUTPUT, PROMPT, RoutingTrace

UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)
TOKEN_IDS = ("prompt_token_ids", "output_token_ids")


def find_files(paths: Sequence[str]) -> list[Path]:
    """The `.npz` files that files, folders (searched recursively) and globs name, each once, sorted by path."""
    found: set[Path] = set()
    for path in paths:
        matches = [Path(path)] if Path(path).exists() else [Path(name) for name in glob.glob(path, recursive=True)]
        if not matches:
            raise InputError(f"{path}: no such file or folder; give request .npz files, folders of them, or globs")
        files = [file for match in matches for file in ([match] if match.is_file() else match.rglob("*.npz"))]
        if not files:
            raise InputError(f"{path}: holds no .npz files; give a folder of request traces")
        found.update(files)
    return sorted(found)


def read_request(path: Path) -> Request:
    """Read one request file. Raises BadRequestError for whatever keeps it from being used."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise BadRequestError("a single array, not an .npz archive")
        with loaded as archive:
            if "routed_experts" not in archive:
                raise BadRequestError("has no array routed_experts")
            experts = archive["routed_experts"]
            lengths = [archive[key].size if key in archive else None for key in TOKEN_IDS]
    except UNREADABLE as error:
        if "allow_pickle" in str(error) and zipfile.is_zipfile(path):
            raise BadRequestError("holds a pickled object (None, perhaps), which is never unpickled") from None
        raise BadRequestError(f"not a whole .npz file ({str(error) or type(error).__name__})") from None
    return _checked_request(experts, *lengths)


def _checked_request(experts: Ints, prompt: int | None, output: int | None) -> Request:
    if experts.size == 0:
        raise BadRequestError("routed_experts is empty")
    if experts.ndim != 3 or experts.dtype.kind not in "iu":
        raise BadRequestError(f"routed_experts is {experts.dtype} {experts.shape}, not integers [token, layer, top_k]")
    tokens = experts.shape[0]
    if prompt is None or output is None:
        raise BadRequestError("prompt_token_ids or output_token_ids is missing, so that the phases are unknown")
    if tokens not in (prompt + output, prompt + output - 1):
        raise BadRequestError(
            f"routed_experts has {tokens} tokens, not the {prompt} prompt + {output} output tokens, or one less"
        )
    return Request(experts, min(prompt, tokens))


def layer_ids(experts: Ints, model: Model, first_moe_layer: int | None) -> range:
    """The model layer id of each entry of a request's layer axis.

    An axis whose leading layers are all zero (dense layers) counts absolute layers; else it starts at
    `first_moe_layer` where that is given, at the model's first MoE layer where it is as long as the model's
    MoE layers, and at 0 otherwise.
    """
    axis = experts.shape[1]
    dense_seen = not experts[:, 0].any() and (experts.shape[2] > 1 or axis == model.layers)
    if dense_seen:
        start = 0
    elif first_moe_layer is not None:
        start = first_moe_layer
    else:
        start = model.first_moe_layer if axis == model.moe_layers else 0
    return range(start, start + axis)


def _kept(request: Request, model: Model, layers: Sequence[int], first: int | None) -> Ints:
    """The asked layers of a request as uint16 `[token, layer, k]`, checked."""
    if request.experts.shape[2] != model.top_k:
        raise BadRequestError(f"routed_experts has top-{request.experts.shape[2]}, not top-{model.top_k}")
    axis = layer_ids(request.experts, model, first)
    missing = [layer for layer in layers if layer not in axis]
    if missing:
        raise BadRequestError(f"holds layers {axis.start}..{axis.stop - 1}, not layer {missing[0]}")
    kept = request.experts[:, [layer - axis.start for layer in layers]]
    low, high = int(kept.min()), int(kept.max())
    if low < 0 or high >= model.routed_experts:
        bad = low if low < 0 else high
        raise BadRequestError(f"routed_experts has expert id {bad}, outside 0..{model.routed_experts - 1}")
    ordered = np.sort(kept, axis=2)
    doubled = (ordered[..., 1:] == ordered[..., :-1]).any(axis=2)
    if doubled.any():
        token, layer = np.argwhere(doubled)[0]
        raise BadRequestError(f"token {token} of layer {layers[layer]} names one expert twice in its top-{model.top_k}")
    return kept.astype(np.uint16)


def read_traces(
    files: Sequence[Path],
    model: Model,
    layers: Sequence[int],
    first_moe_layer: int | None = None,
    strict: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> RoutingTrace:
    """Read these layers of all requests; no other layer is kept in memory.

    A bad request is skipped and counted in `warnings`; with `strict`, or where no good one is left, it is an
    InputError that names the file and the fault. `progress` receives the share of files read.
    """
    parts: list[Ints] = []
    phases: list[Ints] = []
    faults: list[str] = []
    for number, path in enumerate(files):
        try:
            request = read_request(path)
            parts.append(_kept(request, model, layers, first_moe_layer))
            phases.append(np.where(np.arange(len(parts[-1])) < request.prompt_tokens, PROMPT, OUTPUT))
        except BadRequestError as fault:
            faults.append(f"{path}: {fault}")
            if strict:
                raise InputError(f"{faults[0]}; mend it, or leave out --strict to skip it") from None
        progress((number + 1) / len(files))
    if not parts:
        others = f" ({len(faults)} requests, none usable)" if len(faults) > 1 else ""
        raise InputError(f"{faults[0]}{others}; record it again, or name other requests")
    skipped = f"{len(faults)} of {len(files)} requests skipped; the first: {faults[0]}" if faults else None
    return RoutingTrace(
        experts=np.concatenate(parts),
        layers=tuple(layers),
        offsets=np.cumsum([0, *map(len, parts)]),
        phase=np.concatenate(phases).astype(np.uint8),
        source=f"{len(parts)} requests",
        warnings=(skipped,) if skipped else (),
    )
