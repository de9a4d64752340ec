"""What a watch remembers when it ends or is killed: a JSON file beside the plan, written whole or not at all."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from optimizer.errors import InputError
from optimizer.files import write_whole
from optimizer.planning.watching.folder import CountedFile, CountedFiles, Stamp
from optimizer.planning.watching.loads import ForgettingLoads
from optimizer.planning.watching.reading import Kind, Reader
from optimizer.planning.watching.window import Window
from optimizer.statistics.loads import PairedGain
from optimizer.traces.corpus import Faults

FORMAT, VERSION = "moeplan/watch", 1


@dataclass
class Totals:
    """What a watch has done since it began, over all its restarts."""

    files: int = 0
    bad_files: int = 0
    requests: int = 0
    written: int = 0
    left: int = 0
    failed: int = 0
    moves: int = 0


@dataclass
class WatchState:
    """All that a watch knows. layers: the ids of the layers whose loads are kept; gain: of the last decision's moves,
    whether they were made or not; None before the first. kind: of all that was counted, None where that is nothing."""

    layers: tuple[int, ...]
    loads: ForgettingLoads
    files: CountedFiles = field(default_factory=CountedFiles)
    window: Window = field(default_factory=Window)
    totals: Totals = field(default_factory=Totals)
    gain: PairedGain | None = None
    kind: Kind | None = None


_Known = tuple[int, int, int, str]
"""A file: its size, its time of change, its good requests and its fault."""


class _File(BaseModel):
    format: Literal["moeplan/watch"]
    version: Literal[1]
    layers: list[int]
    routed_experts: int
    loads: list[list[list[float]]]
    counted: int = Field(ge=0)
    seen: int = Field(ge=0)
    window: list[tuple[str, int, int]]
    files: dict[str, _Known]
    vanished: dict[str, _Known]
    totals: Totals
    gain: PairedGain | None
    kind: Kind | None = None  # files of earlier versions, which took requests alone, do not say it


def write_state(path: Path, state: WatchState) -> None:
    """Write the state, whole or not at all. Of the window only the names and places of requests are written."""
    _, _, routed = state.loads.sums.shape
    found = {
        "format": FORMAT,
        "version": VERSION,
        "layers": list(state.layers),
        "routed_experts": routed,
        "loads": state.loads.sums.round(3).tolist(),
        "counted": state.loads.requests,
        "seen": state.window.seen,
        "window": [(each.name, each.index, each.number) for each in state.window.requests],
        "files": _as_json(state.files.present),
        "vanished": _as_json(state.files.vanished),
        "totals": asdict(state.totals),
        "gain": state.gain,
        "kind": state.kind,
    }
    write_whole(path, json.dumps(found) + "\n")


def _as_json(files: Mapping[str, CountedFile]) -> dict[str, _Known]:
    return {name: (file.stamp.size, file.stamp.changed_ns, file.requests, file.fault) for name, file in files.items()}


def read_state(path: Path, reader: Reader) -> WatchState:
    """The state that was left, or that of a new watch where there is none.

    The requests of the window are read again from those of their files that are still there. Raises InputError for a
    file that holds something else, and for a state of other layers or of another model.
    """
    routed = reader.model.routed_experts
    if not path.exists():
        return WatchState(reader.layers, ForgettingLoads.none(len(reader.layers), routed))
    try:
        found = _File.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise InputError(f"{path}: not the state of a watch ({said}); remove it to begin anew", "plan") from None
    if (found.layers, found.routed_experts) != ([*reader.layers], routed):
        layers = ", ".join(map(str, found.layers))
        said = f"the state of a watch of layer(s) {layers} with {found.routed_experts} experts"
        raise InputError(f"{path}: {said}; remove it to begin anew, or watch these", "plan")
    sums = np.array(found.loads, dtype=np.float64)
    if sums.shape != (2, len(found.layers), routed) or not (np.isfinite(sums).all() and (sums >= 0).all()):
        raise InputError(f"{path}: its loads do not fit its layers; remove it to begin anew", "plan")
    files = CountedFiles(_from_json(found.files), _from_json(found.vanished))
    window = _read_window(found.window, found.seen, files, reader)
    kind, loads = found.kind or ("requests" if found.counted else None), ForgettingLoads(sums, found.counted)
    return WatchState(reader.layers, loads, files, window, found.totals, found.gain, kind)


def _from_json(files: Mapping[str, _Known]) -> dict[str, CountedFile]:
    return {
        name: CountedFile(Stamp(size, changed), requests, fault)
        for name, (size, changed, requests, fault) in files.items()
    }


def _read_window(entries: list[tuple[str, int, int]], seen: int, files: CountedFiles, reader: Reader) -> Window:
    """The window with the requests of files that have not become smaller since they were counted, in their order."""
    wanted = {(name, index): number for name, index, number in entries}
    found = []
    for name in dict.fromkeys(name for name, _, _ in entries):
        known = files.present.get(name)
        if known is None or not _reaches(reader.folder / name, known.stamp.size):
            continue
        for request in reader.read(name, 0, 0, Faults(strict=False)):
            if (name, request.index) in wanted:
                found.append((wanted[name, request.index], request))
    window = Window(seen=seen)
    for number, request in sorted(found, key=lambda each: each[0]):
        window.add(request.placed(request.name, request.index, number))
    return window


def _reaches(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size >= size
    except OSError:
        return False
