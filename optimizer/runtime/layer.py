"""The load hints of one layer, which one thread may feed while others read what follows from them."""

from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.errors import InputError
from optimizer.routing.hints import ENTRIES
from optimizer.routing.memory import HintMemory

MOST_PAIRS = 2**31 - 1
"""Counts are kept in 32 bits."""


@kernel
def name_slots(replica: Ints, slot: Ints, out: Ints) -> None:
    """Fill out, of the shape of replica, with the flat slots of numbers of replicas; slot `[replica]`."""
    for row in range(replica.shape[0]):
        for column in range(replica.shape[1]):
            out[row, column] = slot[replica[row, column]]


@kernel
def share_slots(share: Floats, slot: Ints, out: Floats) -> None:
    """Fill out `[device, slot]` with share `[replica]`, and with 0 for empty slots; slot `[replica]` is flat."""
    out[:] = 0.0
    flat = out.ravel()
    for replica in range(len(slot)):
        flat[slot[replica]] = share[replica]


@kernel
def add_held(weight: Floats, held: Floats, out: Floats) -> None:
    """Fill out with weight + held, `[source, device]` + `[device]`; numpy would allocate a third array for that."""
    for source in range(len(weight)):
        for device in range(len(held)):
            out[source, device] = weight[source, device] + held[device]


class LayerHints:
    """The hints of one layer behind a lock, so that whoever reads gets what belongs to one batch.

    memory: the layer's replicas and hints. slots_per_device: how many slots a device has. weight `[source, device]`:
    what sources count against devices where no loads of devices are known, as of `memory.own_weights`; layers may share
    it, as nobody changes it. After each first read, nothing but what callers do not bring as `out` is allocated.
    """

    def __init__(self, memory: HintMemory, slots_per_device: int, weight: Floats) -> None:
        self._memory, self._weight, self._lock = memory, weight, Lock()
        self._slots = memory.distance.shape[1], slots_per_device
        self._counts = np.zeros((memory.sources, len(memory.load)), dtype=np.int32)
        self._served = np.zeros(memory.distance.shape[1], dtype=np.int32)

    def observe(self, counts: npt.ArrayLike) -> None:
        """Take note of the pairs of a batch that has run, counts `[source, expert]`."""
        with self._lock:
            _take(counts, self._counts, "counts")
            self._memory.loads.observe(self._counts)

    def observe_devices(self, loads: npt.ArrayLike) -> None:
        """Take note of the pairs that each device has served in a batch, loads `[device]`."""
        with self._lock:
            _take(loads, self._served, "loads")
            self._memory.devices.observe(self._served)

    def table(self, out: Ints | None) -> Ints:
        """The flat slot to which each source sends an expert's pairs, `[source, expert]` uint16."""
        found = _room(out, self._counts.shape, np.dtype(np.uint16))
        with self._lock:
            name_slots(self._memory.loads.table(), self._memory.slot, found)
        return found

    def shares(self, out: Floats | None) -> Floats:
        """The part of its expert's pairs that each slot serves, `[device, slot]` float64, 0 for empty slots."""
        found = _room(out, self._slots, np.dtype(np.float64))
        with self._lock:
            share_slots(self._memory.loads.shares(), self._memory.slot, found)
        return found

    def log2phy(self, out: Ints | None) -> Ints:
        """Flat slots as often as their shares ask, `[expert, ENTRIES]` int32."""
        found = _room(out, (len(self._memory.load), ENTRIES), np.dtype(np.int32))
        with self._lock:
            name_slots(self._memory.loads.entries(), self._memory.slot, found)
        return found

    def held(self, out: Floats | None) -> Floats:
        """What each source counts against a device for its loads of recent batches, `[device]` float64, in pairs."""
        found = _room(out, self._served.shape, np.dtype(np.float64))
        with self._lock:
            found[:] = self._memory.devices.held()
        return found

    def weights(self, out: Floats | None) -> Floats:
        """What each source counts against a device before it sends any pair, `[source, device]` float64, in pairs."""
        found = _room(out, self._weight.shape, np.dtype(np.float64))
        with self._lock:
            add_held(self._weight, self._memory.devices.held(), found)
        return found


def _take(given: npt.ArrayLike, into: Ints, name: str) -> None:
    """Copy integers of a caller's, of whatever type, into an array of the shape that they must have.

    Kernels so see one type alone; for another one they would be compiled anew, while a batch waits. Raises InputError,
    of this name, for another shape, for what is no integer, and for numbers below 0 or beyond 32 bits.
    """
    found = np.asarray(given)
    if found.shape != into.shape or found.dtype.kind not in "iu":
        raise InputError(f"{name} is {found.dtype} {found.shape}, not integers {into.shape}", name)
    low, high = int(found.min()), int(found.max())
    if low < 0 or high > MOST_PAIRS:
        raise InputError(f"{name} holds {low if low < 0 else high}, which is outside 0..{MOST_PAIRS}", name)
    into[...] = found


def _room(out: npt.NDArray[Any] | None, shape: tuple[int, ...], kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """The array that a caller brings for the answer, or a new one. Raises InputError for one that cannot hold it."""
    if out is None:
        return np.empty(shape, dtype=kind)
    fits = isinstance(out, np.ndarray) and out.shape == shape and out.dtype == kind
    if not fits or not out.flags.c_contiguous or not out.flags.writeable:
        what = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise InputError(f"out is {what}, not {kind} {shape}, writeable and in C order", "out")
    return out
