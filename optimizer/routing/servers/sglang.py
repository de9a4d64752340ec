"""SGLang's choice, as of its release 0.5.23, where an all-to-all back end brings tokens to experts.

Read in `srt/eplb/expert_location.py` and `expert_location_dispatch.py`. Every rank first looks for the *near* copy of
each expert: the only one that there is; else the first on its own GPU; else the first on its own node, unless all
copies are on that node. Where there is one, the rank uses it and no other. `--ep-dispatch-algorithm` decides about the
rest: `static` (the default with such a back end and a file of placements) by a table that is drawn once, `dynamic` by
a new random number for every pair. (Without an all-to-all back end all ranks compute the same tokens and must agree;
SGLang refuses `static` then, and `dynamic` takes the token's row modulo the copies: `policies.sglang_rows`.)

A rank is a source here. Where tokens live on mesh rows, a row acts as a rank, and all devices without a hop from it as
its GPU. A node is a mesh row.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from formulations.kit.arrays import Bools, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.arrays import given_away
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.routing.servers.python_random import generator, sample, shuffle

SEED = 42  # of every rank's generator, SGLang's own constant
NONE = -1  # no near copy
DRAWN = 1 << 16  # `dynamic` takes numbers below this one modulo the copies
LAYERS_KEPT = 128  # more layers than any model has; of 128 ranks, the generators of so many layers take 41 MB


def static_table(
    start: Ints, slot: Ints, network: Network, slots_per_device: int, layers_before: Sequence[Placement | None]
) -> Ints:
    """The flat slot that each rank uses of each expert under `static`, `[source, expert]` int32.

    start `[expert + 1]` and slot `[replica]` are those of `RoutingContext`. Every rank has a generator with the same
    seed, and walks alone over all layers and experts. Of an expert without a near copy for this rank, the copies are
    dealt out to all ranks that have none near, and the rank takes what falls to itself. As ranks have near copies of
    different experts, their generators do not stay in step, and the ranks' shares of the copies come out uneven.

    layers_before: the placements of the model's layers before this one, by layer id, as the generators have walked over
    them; None for a layer that is not known, or is dense, which is taken to hold what SGLang puts there by default:
    slot p of the mesh has expert p modulo the number of experts. All layers have the slots of this one.
    """
    shape = network.mesh.devices, slots_per_device
    generators = generators_after(network, len(start) - 1, shape, layers_before)
    return _walked(generators.copy(), start, slot, network, slots_per_device)


def generators_after(
    network: Network, experts: int, shape: tuple[int, int], layers_before: Sequence[Placement | None]
) -> Ints:
    """The generators of all ranks after these layers, `[source, WORDS + 1]` uint32, not to be written to.

    shape: devices and slots of each; layers_before: as of `static_table`.
    """
    known = tuple(None if placement is None else placement.slots.tobytes() for placement in layers_before)
    generators = _fresh(network)
    for layers in range(1, len(known) + 1):
        generators = _after(network, experts, shape, known[:layers])
    return generators


@lru_cache(maxsize=LAYERS_KEPT)
def _after(network: Network, experts: int, shape: tuple[int, int], layers: tuple[bytes | None, ...]) -> Ints:
    """The generators of all ranks after these layers, `[source, WORDS + 1]` uint32, not to be written to.

    layers: the slots of each as bytes, or None. All candidates for a layer meet the same generators, so they are kept.
    """
    *earlier, last = layers
    generators = _after(network, experts, shape, tuple(earlier)) if earlier else _fresh(network)
    slots = np.arange(shape[0] * shape[1]) % experts if last is None else np.frombuffer(last, dtype=np.int32)
    found = generators.copy()
    _walked(found, *Placement(slots.reshape(shape)).replicas(experts), network, shape[1])
    return given_away(found)


def _fresh(network: Network) -> Ints:
    """The generators of all ranks before the first layer, `[source, WORDS + 1]` uint32, not to be written to."""
    return given_away(np.tile(generator(SEED), (network.sources, 1)))


def _walked(generators: Ints, start: Ints, slot: Ints, network: Network, slots_per_device: int) -> Ints:
    """The table of one layer, `[source, expert]`; the generators move on."""
    return walk(generators, start, slot, near_copy(start, slot, network, slots_per_device))


def near_copy(start: Ints, slot: Ints, network: Network, slots_per_device: int) -> Ints:
    """The near copy of each expert for each rank, `[source, expert]` int32 flat slots, or `NONE`."""
    return find_near(start, slot // slots_per_device, slot, *nodes_of(network))


def nodes_of(network: Network) -> tuple[Bools, Bools]:
    """Which devices are each rank's own GPU, and which are in its node, both `[source, device]`."""
    row = np.arange(network.mesh.devices) // network.mesh.cols
    return network.distance == 0, row == network.home_row[:, None]


@kernel
def find_near(start: Ints, device: Ints, slot: Ints, own: Bools, node: Bools) -> Ints:
    """What `near_copy` gives; device `[replica]`; own and node `[source, device]`: the rank's GPU and its node."""
    sources, experts = len(own), len(start) - 1
    found = np.full((sources, experts), NONE, dtype=np.int32)
    for expert in range(experts):
        first, end = start[expert], start[expert + 1]
        for source in range(sources):
            here = [replica for replica in range(first, end) if own[source, device[replica]]]
            near = [replica for replica in range(first, end) if node[source, device[replica]]]
            if end - first == 1:
                found[source, expert] = slot[first]
            elif len(here) > 0:
                found[source, expert] = slot[here[0]]
            elif 0 < len(near) < end - first:
                found[source, expert] = slot[near[0]]
    return found


@kernel
def walk(generators: Ints, start: Ints, slot: Ints, near: Ints) -> Ints:
    """Each rank's table row, `[source, expert]`, from its own generator of `[source, WORDS + 1]`, which moves on.

    The list that is dealt out has every copy as often as that goes evenly, and a sample of the copies for the rest.
    """
    table = near.copy()
    for expert in range(near.shape[1]):
        copies = slot[start[expert] : start[expert + 1]]
        without = np.flatnonzero(near[:, expert] == NONE)
        whole = len(without) // len(copies) * len(copies)
        dealt = np.empty(len(without), dtype=slot.dtype)
        for place in range(len(without)):
            for turn in range(whole):
                dealt[turn] = copies[turn % len(copies)]
            sample(generators[without[place]], copies, len(without) - whole, dealt[whole:])
            shuffle(generators[without[place]], dealt)
            table[without[place], expert] = dealt[place]
    return table


@kernel
def dynamic(experts: Ints, source: Ints, start: Ints, slot: Ints, near: Ints) -> Ints:
    """The flat slot of each pair under `dynamic`, `[batch, token, k]` int32: the near copy, or a random one.

    experts `[batch, token, k]`; source `[batch, token]`; near `[source, expert]` as of `near_copy`. The random numbers
    are no copy of SGLang's, which nobody can replay, but as many bits of the i-th output of SplitMix64 for a pair that
    is the i-th of its source in the batch, in the source's own stretch of 2^32 outputs.
    """
    batches, tokens, k = experts.shape
    chosen = np.empty((batches, tokens, k), dtype=np.int32)
    pairs = np.empty(len(near), dtype=np.int64)
    for batch in range(batches):
        pairs[:] = 0
        for token in range(tokens):
            home = source[batch, token]
            for choice in range(k):
                expert = experts[batch, token, choice]
                drawn = split_mix((np.int64(home) << 32) + pairs[home]) % DRAWN
                pairs[home] += 1
                chosen[batch, token, choice] = near[home, expert]
                if near[home, expert] == NONE:
                    copies = start[expert + 1] - start[expert]
                    chosen[batch, token, choice] = slot[start[expert] + drawn % copies]
    return chosen


@kernel
def split_mix(number: int) -> int:
    """The upper 32 bits of output `number`, counted from 0, of SplitMix64 from seed 0 (Steele, Lea and Flood, OOPSLA
    2014)."""
    mixed = np.uint64(number + 1) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int(np.int64((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(32)))
