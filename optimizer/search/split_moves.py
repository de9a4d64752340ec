"""What a move of `moves.py` would change under optimal split, and making the change.

`delta` works on a second state, `trial`, which equals the current one before the move: the placement is changed there,
and the replicated experts near the two devices are levelled again. That split is feasible, so the peaks it finds are
upper bounds, as the current ones are. Then either `apply` makes the change in the current state too, or `forget` takes
it back in trial, so that both states are equal again.
"""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel
from optimizer.search.moves import decode
from optimizer.search.split_state import LANES, SplitState, fill, find_peak, serve

NEAR = 24  # replicated experts that are levelled again after a move, at most; a compromise of speed and exactness
FEW = 4  # up to this many replicas are levelled with neighbours only; levelling all of them at once ends worse, on
# train and on test batches
DOUBT = 2.5  # standard errors by which a move must be too dear, by the blocks seen so far, to be given up; .6 % of a
# normal distribution lie further out, so few good moves are lost


class TouchedSplit(NamedTuple):
    """What of trial may differ from the current state after `delta`.

    devices, slots and near are lists of the devices and slots that may differ and of the experts to level; many `[4]`
    says how many entries of each are valid, and at place BLOCKS how many blocks were worked on; seen_device and
    seen_expert are 1 for what is listed. change `[4]`: a, b, x and y of `moves.Move`. work: working memory of `fill`.
    """

    devices: Ints
    slots: Ints
    near: Ints
    seen_device: Ints
    seen_expert: Ints
    many: Ints
    change: Ints
    work: Ints


DEVICES, SLOTS, NEARBY, BLOCKS = range(4)
"""What the entries of `TouchedSplit.many` count."""


def touched_for(split: SplitState) -> TouchedSplit:
    """Working memory of `delta` and `apply`."""
    devices, depth = split.slots.shape
    experts = len(split.copies)
    return TouchedSplit(
        devices=np.zeros(devices, dtype=np.int64),
        slots=np.zeros(devices * depth, dtype=np.int64),
        near=np.zeros(experts, dtype=np.int64),
        seen_device=np.zeros(devices, dtype=np.int64),
        seen_expert=np.zeros(experts, dtype=np.int64),
        many=np.zeros(4, dtype=np.int64),
        change=np.zeros(4, dtype=np.int64),
        work=np.zeros((4, LANES), dtype=np.int32),
    )


@kernel
def excess(peak: Ints, usual: int, weight: int) -> int:
    """The objective of one block: the sum of its peaks, and `weight` times what they are above the usual peak."""
    total = 0
    for lane in range(LANES):
        total += peak[lane] + weight * max(peak[lane] - usual, 0)
    return total


@kernel
def delta(
    move: int, current: SplitState, trial: SplitState, touched: TouchedSplit, usual: int, weight: int, limit: float
) -> tuple[int, bool]:
    """Change of the objective that a legal move makes, and whether it is at most `limit`; the move is left in trial.

    Where the change is beyond doubt above the limit by the first blocks, the others are not looked at, and the change
    that is returned is a projection. Changes and limit are in parts of a unit, summed over batches.
    """
    _rearrange(move, trial, touched)
    _find_near(trial, touched)
    blocks = len(current.units)
    change, squares = 0, 0.0
    for block in range(blocks):
        touched.many[BLOCKS] = block + 1
        _level(trial, touched, block)
        for lane in range(LANES):
            now, then = trial.peak[block, lane], current.peak[block, lane]
            more = now - then + weight * (max(now - usual, 0) - max(then - usual, 0))
            change += more
            squares += float(more) * more
        seen = (block + 1) / blocks
        if change / seen - DOUBT * np.sqrt(squares * (1 - seen)) / seen > limit:
            return int(change / seen), False
    return change, change <= limit


@kernel
def forget(current: SplitState, trial: SplitState, touched: TouchedSplit) -> None:
    """Take a move back: trial equals the current state again."""
    _copy(current, trial, touched)


@kernel
def apply(current: SplitState, trial: SplitState, touched: TouchedSplit) -> None:
    """Make the move that `delta` has left in trial."""
    _copy(trial, current, touched)


@kernel
def _copy(source: SplitState, target: SplitState, touched: TouchedSplit) -> None:
    """Copy all that was touched from one state to the other."""
    many, change, depth = touched.many, touched.change, source.slots.shape[1]
    for block in range(many[BLOCKS]):
        _copy_rows(source.load[block], target.load[block], touched.devices, many[DEVICES])
        _copy_rows(source.flow[block], target.flow[block], touched.slots, many[SLOTS])
        if len(source.ratio) > 0:
            _copy_rows(source.served[block], target.served[block], touched.devices, many[DEVICES])
    _copy_rows(source.peak, target.peak, np.arange(many[BLOCKS]), many[BLOCKS])
    for slot in change[:2]:
        if slot >= 0:
            target.slots[slot // depth, slot % depth] = source.slots[slot // depth, slot % depth]
    for expert in change[2:]:
        if expert >= 0:
            for rank in range(max(source.copies[expert], target.copies[expert])):
                target.replicas[expert, rank] = source.replicas[expert, rank]
            target.copies[expert] = source.copies[expert]


@kernel
def _copy_rows(source: Ints, target: Ints, rows: Ints, many: int) -> None:
    """Copy the first `many` of the rows, `[row, lane]`."""
    for place in range(many):
        row = rows[place]
        for lane in range(LANES):
            target[row, lane] = source[row, lane]


@kernel
def _rearrange(move: int, split: SplitState, touched: TouchedSplit) -> None:
    """Change slots, copies and replicas, and note in touched what has changed."""
    slots, copies, replicas, depth = split.slots, split.copies, split.replicas, split.slots.shape[1]
    a, b, x, y = decode(move, slots, len(copies))
    slots[a // depth, a % depth] = y
    if b >= 0:
        slots[b // depth, b % depth] = x
    if x >= 0:
        rehouse(replicas[x], copies, x, a, b)
    if y >= 0:
        rehouse(replicas[y], copies, y, b, a)
    touched.change[0], touched.change[1], touched.change[2], touched.change[3] = a, b, x, y


@kernel
def rehouse(held: Ints, copies: Ints, expert: int, old: int, new: int) -> None:
    """Move one replica of an expert from one place to another; held `[replica]` lists the places of its replicas.

    old is -1 for a replica that begins, and new is -1 for one that ends; copies `[expert]` is kept up to date.
    """
    if old < 0:
        held[copies[expert]] = new
        copies[expert] += 1
        return
    rank = 0
    while held[rank] != old:
        rank += 1
    held[rank] = new
    if new < 0:
        copies[expert] -= 1
        held[rank] = held[copies[expert]]
        held[copies[expert]] = -1


@kernel
def _find_near(split: SplitState, touched: TouchedSplit) -> None:
    """List the devices of slots a and b, the experts on them, the devices of these experts, the experts on those
    devices, and so on, until NEAR experts are listed.

    An expert x that has lost the replica in slot a comes first, wherever its other replicas are.
    """
    slots, copies, replicas = split.slots, split.copies, split.replicas
    devices, seen, met, many = touched.devices, touched.seen_device, touched.seen_expert, touched.many
    depth, (a, b, x, _) = slots.shape[1], touched.change
    seen[:] = 0
    met[:] = 0
    devices[0], devices[1] = a // depth, b // depth
    touched.slots[0], touched.slots[1] = a, b
    for known in range(2 if b >= 0 else 1):
        seen[devices[known]] = 1
    many[DEVICES] = many[SLOTS] = 2 if b >= 0 else 1
    many[NEARBY] = many[BLOCKS] = 0
    if b < 0 and x >= 0:
        met[x] = 1
        _list(x, copies, replicas, depth, touched.change, touched.slots, touched.near, devices, seen, many)
    head = 0
    while head < many[DEVICES]:
        for place in range(depth):
            expert = slots[devices[head], place]
            if expert >= 0 and copies[expert] > 1 and not met[expert] and many[NEARBY] < NEAR:
                met[expert] = 1
                _list(expert, copies, replicas, depth, touched.change, touched.slots, touched.near, devices, seen, many)
        head += 1


@kernel
def _list(
    expert: int, copies: Ints, replicas: Ints, depth: int, change: Ints,
    slots: Ints, near: Ints, devices: Ints, seen: Ints, many: Ints,
) -> None:  # fmt: skip
    """List an expert's slots and devices, and the expert itself if it has several replicas to level."""
    if copies[expert] > 1:
        near[many[NEARBY]] = expert
        many[NEARBY] += 1
    for rank in range(copies[expert]):
        slot = replicas[expert, rank]
        device = slot // depth
        if not seen[device]:
            seen[device] = 1
            devices[many[DEVICES]] = device
            many[DEVICES] += 1
        if slot != change[0] and slot != change[1]:
            slots[many[SLOTS]] = slot
            many[SLOTS] += 1


@kernel
def _level(trial: SplitState, touched: TouchedSplit, block: int) -> None:
    """Move the flow of slots a and b with their experts, level the experts near, outwards and back, and find peaks."""
    flow, load, depth = trial.flow[block], trial.load[block], trial.slots.shape[1]
    copies, replicas, near, work = trial.copies, trial.replicas, touched.near, touched.work
    a, b, x, _ = touched.change
    _carry(flow, load, a, b if b >= 0 else replicas[max(x, 0), 0], depth, b >= 0)
    many = touched.many[NEARBY]
    for turn in range(2):
        for place in range(many):
            expert = near[place] if turn == 0 else near[many - 1 - place]
            fill(flow, load, replicas, expert, copies[expert], depth, FEW, work)
    if len(trial.ratio) == 0:
        find_peak(block, trial.load, trial.peak)
        return
    for place in range(touched.many[DEVICES]):
        serve(trial, block, touched.devices[place])
    find_peak(block, trial.served, trial.peak)


@kernel
def _carry(flow: Ints, load: Ints, a: int, b: int, depth: int, both: bool) -> None:
    """Slots a and b exchange their flow, or all of it goes from a to b."""
    for lane in range(LANES):
        there, here = flow[a, lane], flow[b, lane]
        flow[a, lane] = here if both else 0
        flow[b, lane] = there if both else here + there
        more = here - there if both else -there
        load[a // depth, lane] += more
        load[b // depth, lane] -= more
