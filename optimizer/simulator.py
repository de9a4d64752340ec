"""Token dispatch over recorded batches: what really happens to the tokens.

Ring edges. Each column is a ring of rows with two directed edges per neighbouring pair. Direction 0 climbs:
its edge r leads from row r to row r + 1 (mod rows). Direction 1 descends: its edge r leads from row r to
row r - 1. Traffic is counted in half messages, because a target at the antipode is sent half its bytes either way.
"""

from dataclasses import dataclass

import numpy as np

from formulations.arrays import Floats, Ints
from optimizer.cost import Cost
from optimizer.kernels import kernel
from optimizer.mesh import Mesh
from optimizer.placement import Placement
from optimizer.routing.policies import POLICIES
from optimizer.statistics import five_figures
from optimizer.traces.batches import Batches

CHUNK_PAIRS = 1 << 20  # pairs routed at a time, so that memory does not grow with the number of batches


@dataclass(frozen=True, eq=False)
class SimulationReport:
    """Per batch: dispatch_us, compute_us, combine_us `[batch]`; device_load and device_tiles `[batch, device]` in
    token-expert pairs and tiles; hops `[batch]`: ring distance to its target devices, summed per token, mean over
    tokens. `tokens` is the size of a batch, `routing` the policy's name.
    """

    routing: str
    tokens: int
    dispatch_us: Floats
    compute_us: Floats
    combine_us: Floats
    device_load: Ints
    device_tiles: Ints
    hops: Floats

    @property
    def latency_us(self) -> Floats:
        """Dispatch, then compute, then combine, `[batch]`."""
        return self.dispatch_us + self.compute_us + self.combine_us

    @property
    def imbalance(self) -> Floats:
        """Peak / mean device load, `[batch]`."""
        ratio: Floats = self.device_load.max(axis=1) / self.device_load.mean(axis=1)
        return ratio

    @property
    def tiles(self) -> Ints:
        """Peak tiles of a device, `[batch]`."""
        peak: Ints = self.device_tiles.max(axis=1)
        return peak

    def summary(self) -> dict[str, object]:
        """The stable JSON form: five statistics over batches of each figure."""
        figures = ("latency_us", "dispatch_us", "compute_us", "combine_us", "imbalance", "tiles", "hops")
        head = {"batches": len(self.hops), "tokens": self.tokens, "routing": self.routing}
        return head | {name: five_figures(getattr(self, name)) for name in figures}


def simulate(
    placement: Placement, batches: Batches, experts: int, mesh: Mesh, cost: Cost, routing: str
) -> SimulationReport:
    """Route every pair of every batch by the policy of this name and count what the devices and links carry.

    `experts` counts routed and shared ones. Raises ValueError for an invalid placement.
    """
    faults = placement.violations(experts, mesh.devices, mesh.slots_per_device)
    if faults:
        raise ValueError("; ".join(faults))
    start, slot = placement.replicas(experts)
    pairs = batches.tokens * batches.experts.shape[2]
    step = max(1, CHUNK_PAIRS // pairs)
    parts = []
    for first in range(0, batches.count, step):
        chunk = batches.part(first, first + step)
        chosen = POLICIES[routing](chunk.experts, start, slot, mesh)
        parts.append(
            _account(chosen, chunk.source_row, mesh.rows, mesh.cols, mesh.slots_per_device, cost.combine_per_expert)
        )
    slot_load, out_edges, back_edges, hops = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    per_device = slot_load.reshape(batches.count, mesh.devices, mesh.slots_per_device)
    return SimulationReport(
        routing=routing,
        tokens=batches.tokens,
        dispatch_us=cost.dispatch_us(out_edges),
        compute_us=cost.compute_us(per_device),
        combine_us=cost.combine_us(back_edges),
        device_load=per_device.sum(axis=2),
        device_tiles=cost.tiles(per_device).sum(axis=2),
        hops=hops / batches.tokens,
    )


@kernel
def _account(
    chosen: Ints, source_row: Ints, rows: int, cols: int, slots_per_device: int, combine_per_expert: bool
) -> tuple[Ints, Ints, Ints, Ints]:
    """Count loads and ring traffic of routed batches.

    chosen `[batch, token, k]` flat slots, source_row `[batch, token]`. Returns slot loads `[batch, slot]`,
    dispatch and combine half messages per edge `[batch, col, direction, row]`, and hops `[batch]`.

    A dispatch packet visits all targets of its column and direction, so only its farthest one counts. Journeys
    are first tallied as (column, direction, row they start at, length) and then laid along the edges, which
    makes the work per pair independent of the distance.
    """
    batches, tokens, k = chosen.shape
    devices = rows * cols
    antipode = rows // 2 if rows % 2 == 0 else rows
    longest = rows // 2
    slot_load = np.zeros((batches, devices * slots_per_device), dtype=np.int32)
    out_edges = np.zeros((batches, cols, 2, rows), dtype=np.int32)
    back_edges = np.zeros((batches, cols, 2, rows), dtype=np.int32)
    hops = np.zeros(batches, dtype=np.int64)
    seen = np.full(devices, -1, dtype=np.int64)
    out = np.zeros((cols, 2, rows, longest + 1), dtype=np.int32)
    back = np.zeros((cols, 2, rows, longest + 1), dtype=np.int32)
    reach = np.zeros((cols, 2), dtype=np.int32)
    beyond = np.zeros(cols, dtype=np.bool_)
    for batch in range(batches):
        out[:] = 0
        back[:] = 0
        for token in range(tokens):
            home = source_row[batch, token]
            stamp = batch * tokens + token
            for choice in range(k):
                slot = chosen[batch, token, choice]
                slot_load[batch, slot] += 1
                device = slot // slots_per_device
                again = seen[device] == stamp
                if again and not combine_per_expert:
                    continue
                seen[device] = stamp
                row, col = device // cols, device % cols
                up = (row - home) % rows
                if up == 0:
                    continue
                if up == antipode:
                    back[col, 0, row, up] += 1
                    back[col, 1, row, up] += 1
                    beyond[col] = True
                elif up < rows - up:
                    back[col, 1, row, up] += 2
                    reach[col, 0] = max(reach[col, 0], up)
                else:
                    back[col, 0, row, rows - up] += 2
                    reach[col, 1] = max(reach[col, 1], rows - up)
                if not again:
                    hops[batch] += min(up, rows - up)
            for col in range(cols):
                for direction in range(2):
                    near = reach[col, direction]
                    if near > 0 or beyond[col]:
                        out[col, direction, home, near] += 1
                        out[col, direction, home, antipode if beyond[col] else near] += 1
                        reach[col, direction] = 0
                beyond[col] = False
        _lay(out, out_edges[batch])
        _lay(back, back_edges[batch])
    return slot_load, out_edges, back_edges, hops


@kernel
def _lay(journeys: Ints, edges: Ints) -> None:
    """Add journeys `[col, direction, row, length]` to edges `[col, direction, row]`."""
    cols, _, rows, lengths = journeys.shape
    for col in range(cols):
        for direction in range(2):
            step = 1 if direction == 0 else -1
            for row in range(rows):
                passing = 0
                for length in range(lengths - 1, 0, -1):
                    passing += journeys[col, direction, row, length]
                    edges[col, direction, (row + step * (length - 1)) % rows] += passing
