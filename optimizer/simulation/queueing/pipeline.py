"""How long a MoE layer takes when nothing waits for everything: dispatch, compute and combine overlap.

Messages queue on links and tokens on devices, first come first served. Everything is deterministic: on a tie the lower
token goes first, then the earlier of its choices. All times are microseconds from the start of the layer.

Dispatch. At `out_base_us` all messages are ready at their senders; a token that need not travel has arrived then. On
rings there is one packet per (token, ring, direction), which visits all targets of the token on that ring in that
direction. A target at the antipode (the place opposite on a ring of even length) gets half of the message from either
direction, so a packet is whole as far as its farthest other target and half from there on to the antipode, and the
token has arrived at the antipode when both halves have. A packet runs along the column of its sender first. Where
tokens also travel along rows, one packet per (token, row, direction) runs on from there, released when the token has
arrived in that row. Through ports there is one message per (token, device) or per (token, expert). It leaves by the
sender's port and enters by the target's port, both of the fast network or both of the slow one.

Links. A link carries one message at a time, in the order in which messages arrive at the link, and carries half a
message in half the time. A message is at the far end of the link `hop_us` after it has been carried whole (store and
forward). A port counts as a link. Dispatch and combine have separate links, as if combine used another network:
combine does not wait for dispatch.

Compute. The tokens of a slot make jobs, see `DeviceWork`: tiles of a fixed number of tokens in order of arrival (the
last tile of a slot may be partly filled), or all tokens of the slot, or the slot's tokens of one block. A job is ready
when its last token has arrived; the job of an idle slot is ready at `out_base_us`. A device works on one job at a time,
in the order in which jobs are ready; on a tie the lower slot goes first, then the job whose first token came first. The
first job of a slot is the one that is ready first.

Combine. There is one result per (token, device), released `back_base_us` after the last of the token's jobs on the
device, or one per (token, expert), released `back_base_us` after its job. A result runs back the way its token came, as
a packet of its own: along the row, then along the column, and from an antipode half in either direction. It is home
when both halves are home.

The layer ends with the last arrival at home, or with the last job where that is later. A batch without a pair ends at
`out_base_us + back_base_us`.
"""

from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.network import Network
from optimizer.simulation.queueing.devices import DeviceWork, work_off
from optimizer.simulation.queueing.ports import port_pairs, through_ports
from optimizer.simulation.queueing.rings import on_rings, ring_legs


@dataclass(frozen=True, eq=False)
class ServedPairs:
    """Which slot serves each token-expert pair of some batches, and where the tokens come from.

    chosen `[batch, token, k]` int32 flat slots, negative for a dropped pair; source `[batch, token]` int32; device_of
    `[slot]` int32, the device of each flat slot.
    """

    chosen: Ints
    source: Ints
    device_of: Ints


@dataclass(frozen=True, eq=False)
class Messages:
    """What messages cost in dispatch (out) and in combine (back), in microseconds.

    out_us and back_us `[link]` float64: how long a whole message keeps each link of the network busy. out_base_us: when
    dispatch begins; back_base_us: from the end of a job until its results may leave. out_per_expert and
    back_per_expert: whether there is one message per (token, expert) instead of one per (token, device); on rings
    out_per_expert has no effect, as a packet visits all of a token's targets.
    """

    network: Network
    out_us: Floats
    back_us: Floats
    out_base_us: float
    back_base_us: float
    out_per_expert: bool
    back_per_expert: bool


@dataclass(frozen=True, eq=False)
class Overlap:
    """When things were over, in microseconds from the start of the layer.

    `[batch]`: arrived, when the last token was at its device; finished, when the last job was done; end, when the last
    result was home, or the last job done where that was later. `[batch, device]`: waiting, how long ready jobs waited
    for the device, summed over its jobs; busy, how long the device worked.
    """

    arrived: Floats
    finished: Floats
    end: Floats
    waiting: Floats
    busy: Floats


def overlap(pairs: ServedPairs, messages: Messages, work: DeviceWork, slowdown: Floats) -> Overlap:
    """Run routed batches through dispatch, compute and combine without barriers.

    slowdown `[device]` float64: the factor by which a job takes longer on each device.
    """
    chosen, source, device_of, network = pairs.chosen, pairs.source, pairs.device_of, messages.network
    hop_us, begin = float(network.hop_us), float(messages.out_base_us)
    release = np.full(chosen.shape, begin)
    out_us, back_us, per_expert = messages.out_us, messages.back_us, messages.back_per_expert
    if network.links == "rings":
        out, back = ring_legs(network)
        arrival = on_rings(chosen, source, device_of, release, out, True, False, out_us, hop_us)
    else:
        there, here = port_pairs(network)
        arrival = through_ports(chosen, source, device_of, release, there, messages.out_per_expert, out_us, hop_us)
    finish, finished, waiting, busy = work_off(chosen, arrival, device_of, work, slowdown, begin)
    finish += messages.back_base_us
    if network.links == "rings":
        home = on_rings(chosen, source, device_of, finish, back, False, per_expert, back_us, hop_us)
    else:
        home = through_ports(chosen, source, device_of, finish, here, per_expert, back_us, hop_us)
    end = np.maximum(_latest(home), finished)
    return Overlap(_latest(arrival), finished, end, waiting, busy)


def _latest(time: Floats) -> Floats:
    """The latest of the times `[batch, token, k]` of each batch, `[batch]`."""
    last: Floats = time.max(axis=(1, 2))
    return last
