"""How long a MoE layer takes when nothing waits for everything: dispatch, compute and combine overlap.

Messages queue on links and tokens on devices, first come first served. All is deterministic: on a tie the lower token
goes first, then the earlier of its choices. Times are microseconds.

Dispatch. At `dispatch_base` all messages are ready at their senders; a token that need not travel has arrived then. On
rings there is one packet per (token, ring, direction), which visits all its targets there: it is whole as far as the
farthest on its side, and half from there on to the antipode, whose token has arrived when both halves have. It runs
along the column of its sender; where tokens also travel along rows, one packet per (token, row, direction) runs on from
there, released when the token has arrived in that row. Through ports there is one message per (token, device) or per
(token, expert); it leaves by the sender's port and enters by the target's, in the fast network or the slow one.

Links. A link carries one message at a time, in order of their arrival at the link, and a half message in half the time.
A message is at the far end of the link `hop_us` after it has been carried whole (store and forward); a port is a link.
Dispatch and combine have links of their own, as if combine were another network: it does not wait for dispatch.

Compute. The tokens of a slot make jobs, see `DeviceWork`: tiles of so many tokens in order of arrival (the last one of
a slot may be partly filled), all of them, or those of one block. A job is ready when its last token has arrived, the
job of an idle slot at `dispatch_base`. A device works on one job at a time in order of readiness; on a tie the lower
slot goes first, then the job whose first token came first. A slot's first job is the one that is ready first.

Combine. One result per (token, device), released `combine_base` after the last of the token's jobs on the device, or
one per (token, expert), released `combine_base` after its job. It runs back the way its token came, alone: along the
row, then along the column, from an antipode half either way. It is home when both halves are.

The layer ends with the last arrival at home, or with the last job where that is later. A batch without a pair ends at
`dispatch_base + combine_base`.
"""

from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.network import Network
from optimizer.simulation.queueing.devices import DeviceWork, work_off
from optimizer.simulation.queueing.ports import port_pairs, through_ports
from optimizer.simulation.queueing.rings import on_rings, ring_legs

__all__ = ["DeviceWork", "Overlap", "overlap"]


@dataclass(frozen=True, eq=False)
class Overlap:
    """When things were over, microseconds from the start of the layer.

    `[batch]`: arrived, the last token at its device; finished, the last job; end, the last result at home or the last
    job. `[batch, device]`: waiting, how long ready jobs waited for the device, in sum; busy, how long it worked.
    """

    arrived: Floats
    finished: Floats
    end: Floats
    waiting: Floats
    busy: Floats


def overlap(
    chosen: Ints,
    source: Ints,
    device_of: Ints,
    network: Network,
    out_link_us: Floats,
    back_link_us: Floats,
    dispatch_base: float,
    combine_base: float,
    work: DeviceWork,
    out_per_expert: bool,
    back_per_expert: bool,
    slowdown: Floats,
) -> Overlap:
    """Run routed batches through dispatch, compute and combine without barriers.

    chosen `[batch, token, k]` int32 flat slots, negative for a dropped pair; source `[batch, token]` int32, device_of
    `[slot]` int32; out_link_us and back_link_us `[link]` float64, microseconds per whole message; slowdown `[device]`
    float64, by which the cost of a job is multiplied. out_per_expert is of no account on rings.
    """
    release = np.full(chosen.shape, float(dispatch_base))
    hop_us = float(network.hop_us)
    if network.links == "rings":
        out, back = ring_legs(network)
        arrival = on_rings(chosen, source, device_of, release, out, True, False, out_link_us, hop_us)
    else:
        there, here = port_pairs(network)
        arrival = through_ports(chosen, source, device_of, release, there, out_per_expert, out_link_us, hop_us)
    finish, finished, waiting, busy = work_off(chosen, arrival, device_of, work, slowdown, float(dispatch_base))
    finish += combine_base
    if network.links == "rings":
        home = on_rings(chosen, source, device_of, finish, back, False, back_per_expert, back_link_us, hop_us)
    else:
        home = through_ports(chosen, source, device_of, finish, here, back_per_expert, back_link_us, hop_us)
    end = np.maximum(_latest(home), finished)
    return Overlap(_latest(arrival), finished, end, waiting, busy)


def _latest(time: Floats) -> Floats:
    last: Floats = time.max(axis=(1, 2))
    return last
