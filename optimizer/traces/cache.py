"""Layers of a corpus kept on disk, so that the next run need not read the corpus again."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.files import write_whole_binary
from optimizer.traces.corpus import TraceFile
from optimizer.traces.mending import AS_RECORDED, Mending
from optimizer.traces.trace import RoutingTrace

MAPPED = ("experts", "weights", "candidates")
LAYOUT = 4  # the version of what entries hold: a new number makes every older entry unknown


def cached(
    folder: Path,
    files: Sequence[TraceFile],
    model: Model,
    layers: Sequence[int],
    first_moe_layer: int | None,
    read: Callable[[], RoutingTrace],
    extras: bool = False,
    mending: Mending = AS_RECORDED,
) -> RoutingTrace:
    """Take from the cache `folder` what `read` would return; where it is not there, read it and keep it there.

    An entry is known by the names, sizes and modification times of all files, and by everything else that decides how
    they are read; extras says whether gate weights and candidates are wanted. The large arrays come back
    memory-mapped, so that sampling batches touches only the tokens of these batches. Raises InputError where `folder`
    is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder for the cache", "cache")
    entry = folder / f"{_key(files, model, layers, first_moe_layer, extras, mending)}.npz"
    known = _load(entry)
    if known is None:
        folder.mkdir(parents=True, exist_ok=True)
        _save(entry, read())
        known = _load(entry)
    if known is None:
        raise OSError(f"{entry} cannot be read back")
    return known


def _key(
    files: Sequence[TraceFile],
    model: Model,
    layers: Sequence[int],
    first_moe_layer: int | None,
    extras: bool,
    mending: Mending,
) -> str:
    stats = [(file.path, file.path.stat()) for file in files]
    named = [
        [str(path.resolve()), str(file.format), stat.st_size, stat.st_mtime_ns]
        for file, (path, stat) in zip(files, stats, strict=True)
    ]
    text = json.dumps([LAYOUT, named, asdict(model), list(layers), first_moe_layer, extras, mending.key])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _save(entry: Path, trace: RoutingTrace) -> None:
    """Write the large arrays as plain .npy files, which can be mapped, and then the rest, which completes the entry."""
    mapped = {name: array for name in MAPPED if (array := getattr(trace, name)) is not None}
    for name, array in mapped.items():
        write_whole_binary(_mapped_file(entry, name), partial(np.save, arr=array))
    said = np.array(json.dumps([trace.layers, trace.source, trace.warnings, list(mapped)]))
    rest = {"offsets": trace.offsets, "phase": trace.phase, "said": said}
    if trace.recorded is not None:
        rest["recorded"] = trace.recorded
    write_whole_binary(entry, lambda file: np.savez(file, allow_pickle=False, **rest))


def _load(entry: Path) -> RoutingTrace | None:
    """Load the trace of an entry; None where there is no such entry or it is damaged."""
    try:
        with np.load(entry, allow_pickle=False) as rest:
            layers, source, warnings, held = json.loads(str(rest["said"]))
            offsets, phase = rest["offsets"], rest["phase"]
            recorded = rest.get("recorded")
        mapped = {name: np.load(_mapped_file(entry, name), mmap_mode="r", allow_pickle=False) for name in held}
        return RoutingTrace(
            layers=tuple(layers),
            offsets=offsets,
            phase=phase,
            source=source,
            warnings=tuple(warnings),
            recorded=recorded,
            **mapped,
        )
    except Exception:  # whatever is wrong with a cache entry, reading the corpus again is right
        return None


def _mapped_file(entry: Path, name: str) -> Path:
    return entry.with_suffix(f".{name}.npy")
