"""What a simulation says of one layer under one policy, and the figures drawn from it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.network import Network
from optimizer.domain.traffic import SPREAD
from optimizer.statistics.loads import confidence, five_figures

FIGURES = ("latency_us", "dispatch_us", "compute_us", "combine_us", "imbalance", "tiles", "hops")
PER_TOKEN = ("copies", "moved", "rows", "cols")
OFTEN = 3  # critical devices, experts and links that a summary names


@dataclass(frozen=True, eq=False)
class Rerouting:
    """What capacity did, per batch: moved, rerouted, dropped and over `[batch]` pairs, kept `[batch]` share of gate
    weight, as of `routing.capacity`; routed_pairs: pairs of routed experts in a batch; whether the next expert is
    estimated from co-activation, and gate weights by rank, for want of recorded ones.
    """

    capacity_factor: float
    capacity: int
    moved: Ints
    rerouted: Ints
    dropped: Ints
    over: Ints
    kept: Floats
    routed_pairs: int
    next_estimated: bool
    weights_estimated: bool

    def share(self, pairs: Ints) -> float:
        """Share of all routed pairs."""
        return float(pairs.mean() / self.routed_pairs)

    def summary(self) -> dict[str, object]:
        """The stable JSON form."""
        return {
            "capacity_factor": self.capacity_factor,
            "capacity": self.capacity,
            "moved": self.share(self.moved),
            "rerouted": self.share(self.rerouted),
            "dropped": self.share(self.dropped),
            "over_capacity": self.share(self.over),
            "gate_weight_kept": float(self.kept.mean()),
            "next_expert": "estimated" if self.next_estimated else "recorded",
            "gate_weights": "estimated" if self.weights_estimated else "recorded",
        }


@dataclass(frozen=True, eq=False)
class Queues:
    """With overlap: how long each device's jobs waited for it, in sum, and how long it was busy, `[device]`
    microseconds over so many batches, which took total_us together."""

    waiting: Floats
    busy: Floats
    total_us: float
    batches: int

    @classmethod
    def none(cls, devices: int) -> "Queues":
        """Of no batch."""
        return cls(np.zeros(devices), np.zeros(devices), 0.0, 0)

    def added(self, waiting: Floats, busy: Floats, end: Floats) -> "Queues":
        """With batches more: waiting and busy `[batch, device]`, end `[batch]`."""
        sums = self.waiting + waiting.sum(axis=0), self.busy + busy.sum(axis=0)
        return Queues(*sums, self.total_us + float(end.sum()), self.batches + len(end))

    @property
    def waiting_us(self) -> Floats:
        """Waiting per batch, summed over a device's jobs, `[device]`."""
        return self.waiting / self.batches

    @property
    def busy_us(self) -> Floats:
        """Working time per batch, `[device]`."""
        return self.busy / self.batches

    @property
    def idle_us(self) -> Floats:
        """The rest of the layer's time per batch, `[device]`."""
        return self.total_us / self.batches - self.busy_us

    def summary(self) -> dict[str, object]:
        """All devices."""
        return {name: getattr(self, name).round(3).tolist() for name in ("waiting_us", "busy_us", "idle_us")}


@dataclass(frozen=True, eq=False)
class SimulationReport:
    """One layer under one policy.

    Per batch: dispatch_us, compute_us, combine_us `[batch]`; device_load and device_tiles `[batch, device]` in
    token-expert pairs and tiles; spread `[batch, 5]` sums over tokens as of `traffic.SPREAD`; row_traffic
    `[batch, row]` pairs that come to a mesh row from others; critical `[batch, 4]`: the slowest device, the expert that
    costs most on it, and the links that end dispatch and combine.
    Over all batches: out and back `[link]` half messages. `tokens` is the size of a batch, `routing` the policy's name;
    dispatch_model, unit, moe_op, timing: under which model the figures were made.
    """

    routing: str
    tokens: int
    network: Network
    dispatch_model: str
    unit: str
    moe_op: str
    timing: str
    dispatch_us: Floats
    compute_us: Floats
    combine_us: Floats
    device_load: Ints
    device_tiles: Ints
    spread: Ints
    row_traffic: Ints
    critical: Ints
    out: Ints
    back: Ints
    rerouting: Rerouting | None = None
    queues: Queues | None = None

    @property
    def batches(self) -> int:
        """Number of batches."""
        return len(self.dispatch_us)

    @property
    def latency_us(self) -> Floats:
        """Dispatch, compute and combine, `[batch]`."""
        return self.dispatch_us + self.compute_us + self.combine_us

    @property
    def imbalance(self) -> Floats:
        """Peak / mean device load, `[batch]`."""
        ratio: Floats = self.device_load.max(axis=1) / self.device_load.mean(axis=1)
        return ratio

    @property
    def tiles(self) -> Ints:
        """Peak tiles of a device, `[batch]`."""
        peak: Ints = self.device_tiles.max(axis=1)
        return peak

    def per_token(self, name: str) -> Floats:
        """One column of `spread`, mean over a batch's tokens, `[batch]`."""
        mean: Floats = self.spread[:, SPREAD.index(name)] / self.tokens
        return mean

    @property
    def hops(self) -> Floats:
        """Ring distance to its target devices, summed per token, mean over tokens, `[batch]`."""
        return self.per_token("hops")

    @property
    def most_row_traffic(self) -> float:
        """Pairs per batch that come from other rows to the mesh row where these are most."""
        return float(self.row_traffic.mean(axis=0).max())

    def shares(self) -> dict[str, float]:
        """Share of each term in the summed latency."""
        terms = {name: float(getattr(self, f"{name}_us").sum()) for name in ("dispatch", "compute", "combine")}
        return {name: value / sum(terms.values()) for name, value in terms.items()}

    def often(self) -> dict[str, list[dict[str, Any]]]:
        """The devices, experts and links that were critical oftenest, with the share of batches."""
        names = ("device", "expert", "dispatch_link", "combine_link")
        return {name: self._often(name, self.critical[:, place]) for place, name in enumerate(names)}

    def _often(self, name: str, seen: Ints) -> list[dict[str, Any]]:
        ids, times = np.unique(seen[seen >= 0], return_counts=True)
        first = np.argsort(-times, kind="stable")[:OFTEN]
        found: list[dict[str, Any]] = [
            {"id": int(ids[place]), "share": float(times[place] / len(seen))} for place in first
        ]
        if name.endswith("link"):
            found = [entry | {"name": self.network.link_name(entry["id"])} for entry in found]
        return found

    def confidence(self) -> dict[str, dict[str, tuple[float, float]]]:
        """95 % intervals of mean, p50, p95 and p99 of every figure, by block bootstrap over batches."""
        return confidence({name: getattr(self, name) for name in FIGURES})

    def summary(self) -> dict[str, object]:
        """The stable JSON form: five statistics over batches of each figure, and what was critical."""
        head = {"batches": self.batches, "tokens": self.tokens, "routing": self.routing}
        model = {name: getattr(self, name) for name in ("dispatch_model", "unit", "moe_op", "timing")}
        found = head | model | {name: five_figures(getattr(self, name)) for name in FIGURES}
        found |= {f"{name}_per_token": five_figures(self.per_token(name)) for name in PER_TOKEN}
        found |= {"row_traffic": self.row_traffic.mean(axis=0).round(3).tolist()}
        found |= {"shares": self.shares(), "critical": self.often()}
        if self.rerouting is not None:
            found["rerouting"] = self.rerouting.summary()
        if self.queues is not None:
            found["queues"] = self.queues.summary()
        return found

    def links(self) -> dict[str, list[float]]:
        """Messages per batch on each link, out and back, in the order of `network.remote`, for pictures."""
        sums = {"dispatch": self.out, "combine": self.back}
        return {name: (halves / 2 / self.batches).round(3).tolist() for name, halves in sums.items()}
