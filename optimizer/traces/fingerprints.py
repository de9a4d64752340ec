"""Digests of what layers of a trace hold. One pass makes all: one by one they take longer than a plan."""

from collections.abc import Sequence

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel
from optimizer.traces.trace import RoutingTrace, digest

PLACE, TOKEN = np.uint64(0x100000001B3), np.uint64(0x9E3779B97F4A7C15)  # odd, so that no bit of a state is lost
SHIFT = np.uint64(29)  # brings the high bits, which depend on all others, back to the low ones


def fingerprints(trace: RoutingTrace, layers: Sequence[int]) -> list[str]:
    """Digest each of these layers: its choices, and the lengths and phases of the requests, of recorded tokens alone.

    The digests do not depend on the types of arrays, or on where the requests were read. Raises InputError for a layer
    that the trace does not hold.
    """
    trace = trace.of_recorded()
    places = np.array([trace.place(layer) for layer in layers], dtype=np.int64)
    states = np.zeros(len(places), dtype=np.uint64)
    _mix(trace.experts, places, states)
    rest = digest(trace.offsets.astype(np.int64), trace.phase.astype(np.uint8))
    return [digest(state, np.frombuffer(rest.encode(), dtype=np.uint8)) for state in states[:, None]]


@kernel
def _mix(experts: Ints, places: Ints, states: Ints) -> None:
    """Fold every token's choices into the state of each of these places on the layer axis."""
    for token in range(len(experts)):
        for number, place in enumerate(places):
            word = np.uint64(0)
            for rank in range(experts.shape[2]):
                word = word * PLACE + np.uint64(experts[token, place, rank])
            mixed = ((states[number] ^ word) + PLACE) * TOKEN
            states[number] = mixed ^ (mixed >> SHIFT)
