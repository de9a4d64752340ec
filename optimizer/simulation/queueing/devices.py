"""The work of devices on the tokens that arrive: which jobs there are, and when each pair has been computed."""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.simulation.queueing.lines import line_up, serve
from optimizer.simulation.queueing.messages import deliver

_NO_BLOCKS = np.zeros((1, 0), dtype=np.int32)
_ALL = 2**31 - 1  # a tile that holds more tokens than any slot gets, so that a slot is one job


class DeviceWork(NamedTuple):
    """How the tokens of a slot make jobs, and what the jobs cost in microseconds.

    tile_tokens: how many tokens, in order of arrival, make one job. If it is 0, a job is the slot's tokens of one
    block, and block `[batch, token]` int32 has the block ids, counted from 0. first_us `[batch, slot]`, or `[1, slot]`
    if all batches have the same, is what a slot's first job costs, and further_us what each further job costs. idle_us
    `[slot]` is the cost of a slot without tokens; an idle slot that costs nothing makes no job.
    """

    tile_tokens: int
    block: Ints
    first_us: Floats
    further_us: float
    idle_us: Floats

    @classmethod
    def tiles(cls, tile_tokens: int, first_us: float, further_us: float, slots: int) -> "DeviceWork":
        """One job per tile of `tile_tokens` tokens; the last tile of a slot may be partly filled."""
        return cls(tile_tokens, _NO_BLOCKS, np.full((1, slots), first_us), further_us, np.zeros(slots))

    @classmethod
    def whole_slots(cls, slot_us: Floats) -> "DeviceWork":
        """One job per slot that has tokens, of slot_us `[batch, slot]` microseconds."""
        return cls(_ALL, _NO_BLOCKS, np.ascontiguousarray(slot_us, dtype=np.float64), 0.0, np.zeros(slot_us.shape[1]))

    @classmethod
    def blocks(cls, block: Ints, block_us: float, load_us: float, filled: Bools) -> "DeviceWork":
        """One job per slot and block of tokens; loading a slot's weights is part of the cost of its first job.

        block `[batch, token]`: block ids. block_us: cost of a block; load_us: cost of loading. filled `[slot]`: which
        slots hold weights; these are loaded even if no token comes.
        """
        first = np.full((1, len(filled)), load_us + block_us)
        return cls(0, np.ascontiguousarray(block, dtype=np.int32), first, block_us, np.where(filled, load_us, 0.0))


@kernel
def work_off(
    chosen: Ints, arrival: Floats, device_of: Ints, work: DeviceWork, slowdown: Floats, loaded: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """Let devices work off the jobs of all batches; all times in microseconds.

    chosen (flat slots) and arrival `[batch, token, k]`, device_of `[slot]`, slowdown `[device]`; loaded: when the jobs
    of idle slots are ready. Returns when each pair has been computed `[batch, token, k]` (a dropped pair: on arrival),
    when the last job was done `[batch]`, and how long the jobs of a device waited and took, both `[batch, device]`.
    """
    batches, devices = len(chosen), len(slowdown)
    finish, finished = arrival.copy(), np.full(batches, loaded)
    waiting, busy = np.zeros((batches, devices)), np.zeros((batches, devices))
    for batch in range(batches):
        block = work.block[min(batch, len(work.block) - 1)]
        first_us = work.first_us[min(batch, len(work.first_us) - 1)]
        job, slot, ready, cost = _list_jobs(chosen[batch], arrival[batch], work, block, first_us, loaded)
        device = device_of[slot]
        service = cost * slowdown[device]
        begun = serve(device, ready, service, devices)
        for number in range(len(slot)):
            waiting[batch, device[number]] += begun[number] - ready[number]
            busy[batch, device[number]] += service[number]
            finished[batch] = max(finished[batch], begun[number] + service[number])
        deliver(job, begun + service, finish[batch])
    return finish, finished, waiting, busy


@kernel
def _list_jobs(
    chosen: Ints, arrival: Floats, work: DeviceWork, block: Ints, first_us: Floats, loaded: float
) -> tuple[Ints, Ints, Floats, Floats]:
    """The jobs of a batch, numbered by slot, then in order of their first tokens.

    chosen and arrival `[token, k]`, block `[token]`, first_us `[slot]`. Returns the job of each pair `[token, k]`, -1
    for a dropped pair, and for each job `[job]` its slot, when it is ready and what it costs.
    """
    slots = len(first_us)
    start, pair = line_up(chosen.ravel(), arrival.ravel(), slots)
    job = np.full(chosen.shape, -1, dtype=np.int32)
    slot_of = np.empty(len(pair) + slots, dtype=np.int32)
    ready, cost = np.empty(len(slot_of)), np.full(len(slot_of), work.further_us)
    latest = np.full(max(len(pair), block.max() + 1 if len(block) > 0 else 0), -1, dtype=np.int32)
    count = 0
    for slot in range(slots):
        own = count
        for place in range(start[slot], start[slot + 1]):
            token, choice = divmod(pair[place], chosen.shape[1])
            group = (place - start[slot]) // work.tile_tokens if work.tile_tokens > 0 else block[token]
            if latest[group] < own:
                latest[group] = count
                slot_of[count] = slot
                count += 1
            job[token, choice] = latest[group]
            ready[latest[group]] = arrival[token, choice]
        if count > own:
            cost[own + np.argmin(ready[own:count])] = first_us[slot]
        elif work.idle_us[slot] > 0:
            slot_of[count], ready[count], cost[count] = slot, loaded, work.idle_us[slot]
            count += 1
    return job, slot_of[:count], ready[:count], cost[:count]
