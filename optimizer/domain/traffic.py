"""What routed batches put on devices and links: the counts from which the cost model makes time."""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel
from optimizer.domain.network import BOTH_WAYS, CLIMBS, Network

SPREAD = ("copies", "moved", "hops", "rows", "cols")
"""What `Traffic.spread` counts in a batch, summed over its tokens: the devices that serve a token, those of them
that do not hold the token, the hops to all of them, and the mesh rows and mesh columns in which they lie."""


class Traffic(NamedTuple):
    """What routed batches put on slots and links; all arrays int32.

    slot_load `[batch, slot]` counts token-expert pairs; out and back `[batch, link]` count half messages of dispatch
    and of combine; spread `[batch, 5]` holds what `SPREAD` names; arrivals `[batch, row]` counts the pairs that come to
    a mesh row from other rows.
    """

    slot_load: Ints
    out: Ints
    back: Ints
    spread: Ints
    arrivals: Ints


def count_traffic(
    chosen: Ints, source: Ints, device_of: Ints, network: Network, out_per_expert: bool, back_per_expert: bool
) -> Traffic:
    """Count what routed batches put on slots and links.

    chosen `[batch, token, k]` flat slots, negative for a pair that is dropped; source `[batch, token]` of each token;
    device_of `[slot]`. Results come back in one message per (token, device), or with back_per_expert in one per
    (token, expert). Through ports, dispatch has the same choice by out_per_expert. On rings dispatch sends one packet
    per token, ring and direction, which visits all its targets there.
    """
    if network.links == "rings":
        paths = (network.home_row, network.sender, *network.along_column, *network.along_row, network.distance)
        shape = (network.mesh.rows, network.mesh.cols)
        return Traffic(*_on_rings(chosen, source, device_of, paths, shape, network.across, back_per_expert))
    places = (network.home_row, network.sender, network.distance, network.mesh.cols, len(network.remote))
    return Traffic(*_through_ports(chosen, source, device_of, places, out_per_expert, back_per_expert))


@kernel
def _on_rings(
    chosen: Ints,
    source: Ints,
    device_of: Ints,
    paths: tuple[Ints, ...],
    shape: tuple[int, int],
    across: bool,
    back_per_expert: bool,
) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Count traffic on rings, in three steps a batch: tally targets per token, send packets, bring results back.

    Paths are tallied by where they start and how far they run, and are laid along the edges once a batch. So the work
    per pair does not depend on the distance. A stamp, which is the token's number, marks the devices, rows and columns
    that a token has met, so that nothing has to be cleared between tokens.
    """
    batches, tokens, k = chosen.shape
    home_row, sender, column_way, column_hops, row_way, row_hops, _ = paths
    rows, cols = shape
    sources, devices = sender.shape
    column_edges = 2 * devices
    slot_load = np.zeros((batches, len(device_of)), dtype=np.int32)
    out = np.zeros((batches, 2 * column_edges if across else column_edges), dtype=np.int32)
    back = np.zeros(out.shape, dtype=np.int32)
    spread = np.zeros((batches, 5), dtype=np.int32)
    arrivals = np.zeros((batches, rows), dtype=np.int32)
    visits = np.zeros((sources, devices), dtype=np.int32)
    results = np.zeros((sources, devices), dtype=np.int32)
    columns = np.zeros((cols, 2, rows, rows // 2 + 1), dtype=np.int32)
    lines = np.zeros((rows, 2, cols, cols // 2 + 1), dtype=np.int32)
    column_reach, line_reach = np.zeros((cols, 4), dtype=np.int32), np.zeros((rows, 4), dtype=np.int32)
    seen = np.full(devices, -1, dtype=np.int32)
    seen_row, seen_col = np.full(rows, -1, dtype=np.int32), np.full(cols, -1, dtype=np.int32)
    met_rows, met_cols = np.empty(rows + 1, dtype=np.int32), np.empty(cols + 1, dtype=np.int32)
    row_of = (np.arange(devices) // cols).astype(np.int32)
    col_of = (np.arange(devices) % cols).astype(np.int32)
    for batch in range(batches):
        visits[:], results[:], columns[:], lines[:] = 0, 0, 0, 0
        for token in range(tokens):
            home, stamp = source[batch, token], batch * tokens + token
            in_rows, in_cols = 0, 0
            for choice in range(k):
                slot = chosen[batch, token, choice]
                if slot < 0:
                    continue
                slot_load[batch, slot] += 1
                device = device_of[slot]
                results[home, device] += 1
                visits[home, device] += seen[device] != stamp
                seen[device] = stamp
                row, col = row_of[device], col_of[device]
                met_rows[in_rows], met_cols[in_cols] = row, col
                in_rows += seen_row[row] != stamp
                in_cols += seen_col[col] != stamp
                seen_row[row], seen_col[col] = stamp, stamp
                way, hops = column_way[home, device], column_hops[home, device]
                ring = col_of[sender[home, device]] if across else col
                column_reach[ring, way] = max(column_reach[ring, way], hops)
                if across:
                    way, hops = row_way[home, device], row_hops[home, device]
                    line_reach[row, way] = max(line_reach[row, way], hops)
            spread[batch, 3] += in_rows
            spread[batch, 4] += in_cols
            if across:
                start = sender[home, 0] % cols
                _depart(column_reach[start], columns[start], home_row[home])
                for place in range(in_rows):
                    _depart(line_reach[met_rows[place]], lines[met_rows[place]], start)
            else:
                for place in range(in_cols):
                    _depart(column_reach[met_cols[place]], columns[met_cols[place]], home)
        _lay(columns, out[batch, :column_edges])
        _lay(lines, out[batch, column_edges:])
        columns[:], lines[:] = 0, 0
        messages = results if back_per_expert else visits
        _send_back(visits, messages, paths, shape, across, columns, lines, spread[batch])
        _arrive(results, home_row, cols, arrivals[batch])
        _lay(columns, back[batch, :column_edges])
        _lay(lines, back[batch, column_edges:])
    return slot_load, out, back, spread, arrivals


@kernel
def _arrive(results: Ints, home_row: Ints, cols: int, arrivals: Ints) -> None:
    """Count pairs that leave their mesh row, by the row they come to, from results `[source, device]`."""
    for home in range(len(results)):
        for row in range(len(arrivals)):
            if row != home_row[home]:
                for device in range(row * cols, (row + 1) * cols):
                    arrivals[row] += results[home, device]


@kernel
def _send_back(
    visits: Ints,
    messages: Ints,
    paths: tuple[Ints, ...],
    shape: tuple[int, int],
    across: bool,
    columns: Ints,
    lines: Ints,
    spread: Ints,
) -> None:
    """Tally the paths of results into columns and lines, and add up copies, moved copies and hops in spread `[5]`.

    visits `[source, device]` counts tokens that a device serves, messages `[source, device]` what it sends back.
    """
    _, sender, column_way, column_hops, row_way, row_hops, distance = paths
    for home in range(len(visits)):
        for device in range(visits.shape[1]):
            number = visits[home, device]
            if number == 0:
                continue
            hops = distance[home, device]
            spread[0] += number
            spread[1] += number if hops > 0 else 0
            spread[2] += number * hops
            number = messages[home, device]
            row, col, ring = device // shape[1], device % shape[1], sender[home, device] % shape[1]
            _return(column_way[home, device], column_hops[home, device], number, columns[ring], row)
            if across:
                _return(row_way[home, device], row_hops[home, device], number, lines[row], col)


@kernel
def _depart(reach: Ints, link_paths: Ints, start: int) -> None:
    """Tally a packet's paths in both directions in link_paths `[direction, start, length]`; clear its reach `[way]`.

    The packet travels whole as far as its farthest target on a side, and half from there on to the antipode. Each path
    is therefore tallied as two halves, of which one may end earlier.
    """
    antipode = reach[BOTH_WAYS]
    for direction in range(2):
        near = reach[CLIMBS + direction]
        link_paths[direction, start, near] += 1
        link_paths[direction, start, max(near, antipode)] += 1
        reach[CLIMBS + direction] = 0
    reach[BOTH_WAYS] = 0


@kernel
def _return(way: int, hops: int, messages: int, link_paths: Ints, start: int) -> None:
    """Tally results that go back from `start`, in the direction opposite to that in which their tokens came."""
    if way == BOTH_WAYS:
        link_paths[0, start, hops] += messages
        link_paths[1, start, hops] += messages
    elif way == CLIMBS:
        link_paths[1, start, hops] += 2 * messages
    else:
        link_paths[0, start, hops] += 2 * messages


@kernel
def _lay(link_paths: Ints, edges: Ints) -> None:
    """Add the half messages of link_paths `[ring, direction, start, length]` to edges `[link]`, which may be empty."""
    if len(edges) == 0:
        return
    rings, _, places, lengths = link_paths.shape
    for ring in range(rings):
        for direction in range(2):
            first, step = (2 * ring + direction) * places, 1 if direction == 0 else -1
            for place in range(places):
                passing = 0
                for length in range(lengths - 1, 0, -1):
                    passing += link_paths[ring, direction, place, length]
                    edges[first + (place + step * (length - 1)) % places] += passing


@kernel
def _through_ports(
    chosen: Ints,
    source: Ints,
    device_of: Ints,
    places: tuple[Ints, Ints, Ints, int, int],
    out_per_expert: bool,
    back_per_expert: bool,
) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Count traffic through ports: a message leaves by its sender's port and enters by its target's.

    Both ports belong to the fast network where sender and target share a node or a switch, else to the slow one.
    """
    batches, tokens, k = chosen.shape
    home_row, sender, distance, cols, links = places
    devices = sender.shape[1]
    slot_load = np.zeros((batches, len(device_of)), dtype=np.int32)
    out = np.zeros((batches, links), dtype=np.int32)
    back = np.zeros((batches, links), dtype=np.int32)
    spread = np.zeros((batches, 5), dtype=np.int32)
    arrivals = np.zeros((batches, devices // cols), dtype=np.int32)
    seen = np.full(devices, -1, dtype=np.int32)
    seen_row, seen_col = np.full(devices // cols, -1, dtype=np.int32), np.full(cols, -1, dtype=np.int32)
    row_of = (np.arange(devices) // cols).astype(np.int32)
    for batch in range(batches):
        for token in range(tokens):
            home, stamp = source[batch, token], batch * tokens + token
            for choice in range(k):
                slot = chosen[batch, token, choice]
                if slot < 0:
                    continue
                slot_load[batch, slot] += 1
                device = device_of[slot]
                again = seen[device] == stamp
                arrivals[batch, row_of[device]] += row_of[device] != home_row[home]
                far = distance[home, device]
                leaves, enters = sender[home, device], devices + device
                if far > 0:
                    slow = 2 * devices * (far - 1)
                    if out_per_expert or not again:
                        out[batch, slow + leaves] += 2
                        out[batch, slow + enters] += 2
                    if back_per_expert or not again:
                        back[batch, slow + device] += 2
                        back[batch, slow + devices + leaves] += 2
                if again:
                    continue
                seen[device] = stamp
                row = row_of[device]
                col = device - row * cols
                spread[batch, 0] += 1
                spread[batch, 1] += far > 0
                spread[batch, 2] += far
                spread[batch, 3] += seen_row[row] != stamp
                spread[batch, 4] += seen_col[col] != stamp
                seen_row[row], seen_col[col] = stamp, stamp
    return slot_load, out, back, spread, arrivals


@kernel
def count_blocks(chosen: Ints, block: Ints, blocks: int, slots: int) -> Ints:
    """Count the blocks of tokens with any token for a slot, `[batch, slot]` int32.

    chosen `[batch, token, k]` flat slots, negative for dropped pairs; block `[batch, token]` is a token's block, from 0
    to blocks - 1.
    """
    batches, tokens, k = chosen.shape
    found = np.zeros((batches, slots), dtype=np.int32)
    seen = np.full((slots, blocks), -1, dtype=np.int32)
    for batch in range(batches):
        for token in range(tokens):
            for choice in range(k):
                slot = chosen[batch, token, choice]
                if slot >= 0 and seen[slot, block[batch, token]] != batch:
                    seen[slot, block[batch, token]] = batch
                    found[batch, slot] += 1
    return found


@kernel
def column_and_hops(chosen: Ints, source: Ints, device_of: Ints, distance: Ints, cols: int) -> tuple[Ints, Ints]:
    """Find what the table model of dispatch asks of each token, both results `[batch, token]` int32.

    These are the largest number of a token's experts in one column, and the hops to the farthest of its experts.
    """
    batches, tokens, k = chosen.shape
    most = np.zeros((batches, tokens), dtype=np.int32)
    farthest = np.zeros((batches, tokens), dtype=np.int32)
    held = np.empty(cols, dtype=np.int32)
    for batch in range(batches):
        for token in range(tokens):
            held[:] = 0
            for choice in range(k):
                slot = chosen[batch, token, choice]
                if slot < 0:
                    continue
                device = device_of[slot]
                held[device % cols] += 1
                most[batch, token] = max(most[batch, token], held[device % cols])
                farthest[batch, token] = max(farthest[batch, token], distance[source[batch, token], device])
    return most, farthest
