"""Why some device has much to do whatever the routing: the experts and devices that force the peak of a batch.

No routing of a batch goes below t(S) / |N(S)|, where t(S) is the load of a set S of experts and N(S) the devices that
hold any of them, and the best routing reaches the largest such ratio (`formulations.batches.replica_routing`). The set
with that ratio names what a placement lacks: replicas of these experts on other devices.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from formulations.batches.replica_routing import CriticalSet, holders_of, least_peaks, proven_bound
from formulations.bounds.load import any_placement_bound
from formulations.kit.arrays import Bools, Ints
from optimizer.domain.cost import Cost
from optimizer.domain.placement import Placement
from optimizer.search.split_state import exact_peaks


@dataclass(frozen=True)
class Certificate:
    """What forces the peak of one batch, checked from loads and placement alone.

    batch: its number, counted from 0, of `batches`; which: its place among them, "median" or "worst"; mean: the mean
    load of a device in it; peak: the least load of its fullest device with any routing of whole tokens or tiles; best:
    whether no placement in as many slots has a lower one in this batch.
    """

    which: str
    batch: int
    batches: int
    mean: float
    peak: int
    critical: CriticalSet
    best: bool

    def in_words(self) -> str:
        """The certificate as a sentence, which begins with the batch."""
        which = f"{self.which.capitalize()} of {self.batches} batches, number {self.batch}"
        reach = f"some device has {self.peak} or more with any routing, {self.peak / self.mean:.3f} times the mean"
        best = ", which no placement can better" if self.best else ""
        return f"{which}: {self.critical.in_words()}, so {reach}{best}."

    def as_json(self) -> dict[str, Any]:
        """The certificate as a dictionary in a stable JSON form."""
        return asdict(self) | {"says": self.in_words()}


def certificates(load: Ints, placement: Placement, cost: Cost) -> list[Certificate]:
    """What forces the peaks of the median and of the worst batch, in tokens, and in tiles where compute counts them.

    load `[batch, expert]` pairs. The batches are those with the median and the largest ratio of peak to mean load.
    Raises ValueError where an expert with load has no replica, or a certificate does not prove its peak.
    """
    found = _of_unit(load, placement, "tokens")
    return found + (_of_unit(cost.tiles(load), placement, "tiles") if cost.unit == "tiles" else [])


def _of_unit(units: Ints, placement: Placement, unit: str) -> list[Certificate]:
    """The certificates of the median and the worst batch; units `[batch, expert]`."""
    holders, devices = holders_of(placement.slots, units.shape[1]), len(placement.slots)
    if ((units > 0).any(axis=0) & ~holders.any(axis=1)).any():
        raise ValueError("an expert with load has no replica")
    mean = units.sum(axis=1) / devices
    order = np.argsort(exact_peaks(placement, units) / np.maximum(mean, 1 / devices), kind="stable").tolist()
    places = {"median": order[(len(order) - 1) // 2], "worst": order[-1]}
    bound, found = any_placement_bound(units, devices, placement.slots.size), []
    for which, batch in places.items():
        peak, critical = _proof(units[batch], holders, unit)
        usual = max(float(mean[batch]), 1 / devices)
        found.append(Certificate(which, batch, len(units), usual, peak, critical, peak <= int(bound[batch])))
    return found


def _proof(of_batch: Ints, holders: Bools, unit: str) -> tuple[int, CriticalSet]:
    """The least peak of a batch `[expert]`, and the set of experts that proves it, checked."""
    peaks, (critical,) = least_peaks(of_batch[None], holders, unit)
    peak, proven = int(peaks[0]), proven_bound(critical, of_batch, holders)
    if -(-proven.numerator // proven.denominator) != peak:
        raise ValueError(f"{critical.in_words()} proves a peak of {float(proven):g}, not {peak}")
    return peak, critical
