"""Messages that leave and enter devices by ports, behind a switch or in nodes: when each message arrives."""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.network import Network
from optimizer.simulation.queueing.lines import serve
from optimizer.simulation.queueing.messages import collect, deliver, list_messages


def port_pairs(network: Network) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints]]:
    """Which ports a message between a source and a device passes: a pair for dispatch, and a pair for combine.

    Each pair has the link out of the sending device and the link into the receiving one, both `[source, device]` int32;
    -1 where nothing is sent because the token is on the device already.
    """
    devices = network.mesh.devices
    sender, target = network.sender, np.arange(devices, dtype=np.int32)[None]
    network_of = 2 * devices * (network.distance - 1)

    def link(port: Ints) -> Ints:
        return np.where(network.distance > 0, network_of + port, -1).astype(np.int32)

    return (link(sender), link(devices + target)), (link(target), link(devices + sender))


@kernel
def through_ports(
    chosen: Ints,
    source: Ints,
    device_of: Ints,
    release: Floats,
    ports: tuple[Ints, Ints],
    per_expert: bool,
    link_us: Floats,
    hop_us: float,
) -> Floats:
    """When the message that carries each pair arrives, `[batch, token, k]` microseconds; a dropped pair: its release.

    chosen (flat slots) and release (when a pair may leave) `[batch, token, k]`, source `[batch, token]`, device_of
    `[slot]`, ports as of `port_pairs`, link_us `[link]`: how long a message keeps each link busy.
    """
    arrival = release.copy()
    for batch in range(len(chosen)):
        message, token, device = list_messages(chosen[batch], device_of, per_expert)
        time = collect(message, release[batch], len(token))
        for table in ports:
            link = np.empty(len(token), dtype=np.int32)
            for number in range(len(token)):
                link[number] = table[source[batch, token[number]], device[number]]
            begun = serve(link, time, link_us[link], len(link_us))
            for number in range(len(token)):
                if link[number] >= 0:
                    time[number] = begun[number] + link_us[link[number]] + hop_us
        deliver(message, time, arrival[batch])
    return arrival
