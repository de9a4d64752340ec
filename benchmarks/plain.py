"""The work that `speed.py` times, in plain vectorised numpy; it must give the same answers as the kernels."""

from collections.abc import Sequence

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.placement import Placement
from optimizer.traces.batches import Batches
from optimizer.traces.corpus import TraceFile


def latency_us(placement: Placement, batches: Batches, experts: int, mesh: Mesh, cost: Cost) -> Floats:
    """The latency of each batch under even routing without its price, `[batch]` microseconds; one result is sent back
    for each token and device."""
    start, slot = placement.replicas(experts)
    counted = [_count(start, slot, *batch, mesh) for batch in zip(batches.experts, batches.source_row, strict=True)]
    slot_load, out, back = (np.stack(arrays) for arrays in zip(*counted, strict=True))
    per_device = slot_load.reshape(len(slot_load), mesh.devices, mesh.slots_per_device)
    total: Floats = cost.dispatch_us(out) + cost.compute_us(per_device) + cost.combine_us(back)
    return total


def _count(start: Ints, slot: Ints, experts: Ints, home: Ints, mesh: Mesh) -> tuple[Ints, Ints, Ints]:
    """The slot loads of one batch, and its half messages on each ring edge in dispatch and in combine."""
    flat = experts.ravel()
    order = np.argsort(flat, kind="stable")
    turn = np.empty(len(flat), dtype=np.int64)
    turn[order] = np.arange(len(flat)) - np.searchsorted(flat[order], flat[order])
    chosen = slot[start[flat] + turn % np.diff(start)[flat]]
    tokens = np.repeat(np.arange(len(experts)), experts.shape[1])
    visits = np.unique(tokens * mesh.devices + chosen // mesh.slots_per_device)
    token, row, col = visits // mesh.devices, visits % mesh.devices // mesh.cols, visits % mesh.cols
    up, down = (row - home[token]) % mesh.rows, (home[token] - row) % mesh.rows
    out, back = np.zeros((2, mesh.cols, 2, mesh.rows), dtype=np.int64)
    share = np.where(up == down, 1, 2)
    for way, (going, length) in enumerate((((down <= up), down), ((up <= down), up))):
        for step in range(mesh.rows // 2):
            on = going & (step < length)
            edge = (row[on] + (step if way == 0 else -step)) % mesh.rows
            np.add.at(back[:, way], (col[on], edge), share[on])
    _multicast(out, token, col, up, down, home, mesh)
    return np.bincount(chosen, minlength=mesh.slots), out, back


def _multicast(out: Ints, token: Ints, col: Ints, up: Ints, down: Ints, home: Ints, mesh: Mesh) -> None:
    """Add the dispatch packets to `out`: one for each token, column and direction, which goes as far as its farthest
    target; for a target at the antipode half a packet goes either way."""
    half = np.zeros((len(home), mesh.cols), dtype=np.bool_)
    antipodal = (up == down) & (up > 0)
    half[token[antipodal], col[antipodal]] = True
    for way, (near, length) in enumerate(((up < down, up), (down < up, down))):
        reach = np.zeros((len(home), mesh.cols), dtype=np.int64)
        np.maximum.at(reach, (token[near], col[near]), length[near])
        for step in range(mesh.rows // 2):
            edge = (home + (step if way == 0 else -step)) % mesh.rows
            np.add.at(out[:, way].T, edge, np.where(step < reach, 2, half.astype(np.int64)))


def swap_delta(cost: Ints, part: Ints, a: int, b: int, depth: int) -> int:
    """How the sum over batches of the peaks changes when slots a and b are swapped, for experts without replicas.

    cost: `[device, batch]`; part: what a slot adds to it, `[slot, batch]`; depth: slots of a device.
    """
    moved = part[b] - part[a]
    changed = cost.copy()
    changed[a // depth] += moved
    changed[b // depth] -= moved
    return int(changed.max(axis=0).sum() - cost.max(axis=0).sum())


def load(files: Sequence[TraceFile]) -> list[Ints]:
    """The arrays of choices of all files, unchecked."""
    return [np.load(file.path)["routed_experts"] for file in files]


def counts_and_pairs(experts: Ints, number: int) -> tuple[Ints, Ints]:
    """How many tokens chose each expert `[layer, expert]`, and each pair of experts `[layer, expert, expert]`.

    experts: `[token, layer, k]`; number: the number of experts.
    """
    tokens, layers, _ = experts.shape
    counts = np.zeros((layers, number), dtype=np.int64)
    pairs = np.zeros((layers, number, number), dtype=np.int64)
    for layer in range(layers):
        hot = np.zeros((tokens, number), dtype=np.float32)
        np.put_along_axis(hot, experts[:, layer].astype(np.int64), 1, axis=1)
        counts[layer] = np.bincount(experts[:, layer].ravel(), minlength=number)
        pairs[layer] = hot.T @ hot
        np.fill_diagonal(pairs[layer], 0)
    return counts, pairs
