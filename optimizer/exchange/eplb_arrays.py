"""The arrays that DeepSeek's EPLB gives, as an `.npz`: `phy2log [L, P]`, `log2phy [L, E, X]` padded with -1 and
`logcnt [L, E]`, int64 as EPLB has them, for all MoE layers.

A slot that `log2phy` repeats, and `logcnt` counts as often, gets a larger share on servers that take entry
`% logcnt`.
"""

import io
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.errors import InputError
from optimizer.exchange.arrays import EMPTY, experts_in, slots_by_expert
from optimizer.exchange.reading import npz_of
from optimizer.exchange.server_placement import ServerPlacement

NAME = "eplb"
PHY2LOG, LOG2PHY, LOGCNT = "phy2log", "log2phy", "logcnt"


def read(path: Path) -> ServerPlacement:
    """The placement in a file. Raises InputError for what is no such file, and for arrays that contradict each
    other."""
    arrays = npz_of(path, (PHY2LOG, LOG2PHY, LOGCNT))
    for name, axes in ((PHY2LOG, 2), (LOG2PHY, 3), (LOGCNT, 2)):
        if name not in arrays:
            raise InputError(f"{path}: has no array {name}")
        if arrays[name].ndim != axes:
            raise InputError(f"{path}: {name} has {arrays[name].ndim} axes instead of {axes}")
    phy2log, log2phy, count = arrays[PHY2LOG], arrays[LOG2PHY], arrays[LOGCNT]
    if log2phy.shape[:2] != count.shape or len(phy2log) != len(count):
        raise InputError(f"{path}: {PHY2LOG}, {LOG2PHY} and {LOGCNT} are not of the same layers and experts")
    _agree(path, phy2log, log2phy, count)
    layers, experts = count.shape
    entries = log2phy if _repeats(log2phy) else None
    layer_ids = tuple(range(layers))
    return ServerPlacement(NAME, layer_ids, phy2log, max(experts, experts_in(phy2log)), None, "moe", log2phy=entries)


def _agree(path: Path, phy2log: Ints, log2phy: Ints, count: Ints) -> None:
    """Check that logcnt counts the entries of log2phy, and that each entry is a slot that holds the expert."""
    listed = np.arange(log2phy.shape[2]) < count[:, :, None]
    wrong = np.argwhere(listed != (log2phy != EMPTY))
    if len(wrong):
        layer, expert, _ = wrong[0].tolist()
        raise InputError(
            f"{path}: {LOGCNT} does not count the entries of {LOG2PHY} for expert {expert} in layer {layer}"
        )
    if (log2phy >= phy2log.shape[1]).any() or (log2phy < EMPTY).any():
        raise InputError(f"{path}: {LOG2PHY} names a slot beyond the {phy2log.shape[1]} of {PHY2LOG}")
    rows = np.arange(len(phy2log))[:, None, None]
    ids = np.arange(log2phy.shape[1])[:, None]
    wrong = np.argwhere(listed & (phy2log[rows, np.maximum(log2phy, 0)] != ids))
    if len(wrong):
        layer, expert, entry = wrong[0].tolist()
        said = f"slot {log2phy[layer, expert, entry]} for expert {expert} in layer {layer}"
        raise InputError(f"{path}: {LOG2PHY} names {said}, but {PHY2LOG} has another expert there")


def _repeats(log2phy: Ints) -> bool:
    """Whether any expert's list names a slot twice."""
    ordered = np.sort(log2phy, axis=2)
    return bool(((ordered[:, :, 1:] == ordered[:, :, :-1]) & (ordered[:, :, 1:] != EMPTY)).any())


def content(placement: ServerPlacement) -> bytes:
    """The file that holds a placement of all MoE layers, with its own log2phy where it has one."""
    log2phy, count = slots_by_expert(placement.physical_to_logical, placement.experts)
    if placement.log2phy is not None:
        log2phy, count = placement.log2phy, (placement.log2phy != EMPTY).sum(axis=2)
    phy2log, log2phy, count = (each.astype(np.int64) for each in (placement.physical_to_logical, log2phy, count))
    file = io.BytesIO()
    np.savez(file, phy2log=phy2log, log2phy=log2phy, logcnt=count)
    return file.getvalue()
