"""The result of simulating one layer under one policy, and the figures drawn from it."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.network import Network
from optimizer.domain.traffic import SPREAD
from optimizer.routing.hints import HintSettings
from optimizer.statistics.loads import confidence, five_figures

# Figures per batch that every summary has; each is a property or field of `SimulationReport`.
FIGURES = (
    "latency_us",
    "routing_us",
    "dispatch_us",
    "compute_us",
    "combine_us",
    "imbalance",
    "tiles",
    "active",
    "hops",
)
STAGES = ("routing", "dispatch", "compute", "combine")
"""The parts of a latency; each is a field of `SimulationReport` with `_us` at its end."""
# Columns of `SimulationReport.spread` that a summary gives as means over tokens.
PER_TOKEN = ("copies", "moved", "rows", "cols")
OFTEN = 3  # how many critical devices, experts and links a summary names: what a reader takes in at a glance


@dataclass(frozen=True, eq=False)
class Rerouting:
    """What a capacity limit did to the pairs of each batch.

    capacity_factor, and the capacity in pairs per replica that follows from it. moved, rerouted, dropped and over
    `[batch]` pairs and kept `[batch]` share of gate weight: see `routing.capacity.Rerouted`. routed_pairs: pairs of
    routed experts in a batch. next_estimated: whether a token's next expert was estimated from co-activation, and
    weights_estimated: whether gate weights were taken by rank, because none were recorded.
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
        """The mean of pairs `[batch]` as a share of a batch's routed pairs."""
        return float(pairs.mean() / self.routed_pairs)

    def summary(self) -> dict[str, object]:
        """What the limit did, as means over batches, by names that stay the same from version to version, for JSON."""
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
    """Waiting and work of devices where dispatch, compute and combine overlap, summed over batches, in microseconds.

    waiting `[device]`: how long ready jobs waited for the device. busy `[device]`: how long the device worked.
    total_us: how long all `batches` took together.
    """

    waiting: Floats
    busy: Floats
    total_us: float
    batches: int

    @classmethod
    def none(cls, devices: int) -> "Queues":
        """The sums over no batch at all, to which batches can be added."""
        return cls(np.zeros(devices), np.zeros(devices), 0.0, 0)

    def added(self, waiting: Floats, busy: Floats, end: Floats) -> "Queues":
        """The sums with further batches; waiting and busy `[batch, device]`, end `[batch]` as of `Overlap`."""
        sums = self.waiting + waiting.sum(axis=0), self.busy + busy.sum(axis=0)
        return Queues(*sums, self.total_us + float(end.sum()), self.batches + len(end))

    @property
    def waiting_us(self) -> Floats:
        """How long the jobs of each device wait for it in a batch, on average, `[device]` microseconds."""
        return self.waiting / self.batches

    @property
    def busy_us(self) -> Floats:
        """How long each device works in a batch, on average, `[device]` microseconds."""
        return self.busy / self.batches

    @property
    def idle_us(self) -> Floats:
        """How long each device is idle in a batch, on average, `[device]` microseconds."""
        return self.total_us / self.batches - self.busy_us

    def summary(self) -> dict[str, object]:
        """The stable JSON form: waiting, busy and idle microseconds of each device."""
        return {name: getattr(self, name).round(3).tolist() for name in ("waiting_us", "busy_us", "idle_us")}


@dataclass(frozen=True, eq=False)
class SimulationReport:
    """The result of simulating one layer under one policy.

    Per batch: routing_us, dispatch_us, compute_us, combine_us `[batch]` microseconds, the first of which is how long
    the policy takes to decide while everything waits (`Cost.routing_us`). device_load, device_tiles and device_active
    `[batch, device]`: token-expert pairs, tiles, and slots that have any pair, so that their weights are read. spread
    `[batch, 5]`: sums over tokens, one column for each name in `traffic.SPREAD`. row_traffic `[batch, row]`: pairs that
    come to a mesh row from other rows. critical `[batch, 4]`: the slowest device, the expert that costs most on that
    device, and the busiest links of dispatch and of combine, -1 for a link if nothing travels.

    Over all batches: out and back `[link]`, half messages in dispatch and in combine. hints: how load hints were made,
    if the policy chooses by them. rerouting: what a capacity limit
    did, if there was one. queues: waiting and work of devices, if timing was "overlap".

    routing is the policy's name, tokens the size of a batch; dispatch_model, unit, moe_op and timing say by which model
    the figures were made.
    """

    routing: str
    tokens: int
    network: Network
    dispatch_model: str
    unit: str
    moe_op: str
    timing: str
    routing_us: Floats
    dispatch_us: Floats
    compute_us: Floats
    combine_us: Floats
    device_load: Ints
    device_tiles: Ints
    device_active: Ints
    spread: Ints
    row_traffic: Ints
    critical: Ints
    out: Ints
    back: Ints
    hints: HintSettings | None = None
    rerouting: Rerouting | None = None
    queues: Queues | None = None

    @property
    def batches(self) -> int:
        """How many batches were simulated."""
        return len(self.dispatch_us)

    @property
    def price_us(self) -> float:
        """How long each batch waits for the policy's decision, in microseconds."""
        return float(self.routing_us[0])

    @property
    def latency_us(self) -> Floats:
        """Routing, dispatch, compute and combine together, `[batch]` microseconds."""
        return self.routing_us + self.dispatch_us + self.compute_us + self.combine_us

    @property
    def imbalance(self) -> Floats:
        """The load of the fullest device over the mean load of devices, in pairs, `[batch]`."""
        ratio: Floats = self.device_load.max(axis=1) / self.device_load.mean(axis=1)
        return ratio

    @property
    def tiles(self) -> Ints:
        """The most tiles that a device has, `[batch]`."""
        peak: Ints = self.device_tiles.max(axis=1)
        return peak

    @property
    def active(self) -> Ints:
        """The most experts that a device works on, and so the most weights that one reads, `[batch]`."""
        most: Ints = self.device_active.max(axis=1)
        return most

    def per_token(self, name: str) -> Floats:
        """The column of `spread` of this name as a mean over the tokens of each batch, `[batch]`."""
        mean: Floats = self.spread[:, SPREAD.index(name)] / self.tokens
        return mean

    @property
    def hops(self) -> Floats:
        """Hops from a token to its target devices, summed over them, as a mean over tokens, `[batch]`."""
        return self.per_token("hops")

    @property
    def most_row_traffic(self) -> float:
        """Mean pairs per batch that come from other rows to the mesh row that gets the most of them."""
        return float(self.row_traffic.mean(axis=0).max())

    def shares(self) -> dict[str, float]:
        """The shares of routing, dispatch, compute and combine in the latency, summed over batches."""
        terms = {name: float(getattr(self, f"{name}_us").sum()) for name in STAGES}
        return {name: value / sum(terms.values()) for name, value in terms.items()}

    def often(self) -> dict[str, list[dict[str, Any]]]:
        """The devices, experts and links that were critical in most batches, with their share of batches."""
        names = ("device", "expert", "dispatch_link", "combine_link")
        return {name: self._often(name, self.critical[:, place]) for place, name in enumerate(names)}

    def _often(self, name: str, seen: Ints) -> list[dict[str, Any]]:
        """The ids that are most frequent in seen `[batch]`; -1 is no id. Links have names as well."""
        ids, times = np.unique(seen[seen >= 0], return_counts=True)
        first = np.argsort(-times, kind="stable")[:OFTEN]
        found: list[dict[str, Any]] = [
            {"id": int(ids[place]), "share": float(times[place] / len(seen))} for place in first
        ]
        if name.endswith("link"):
            found = [entry | {"name": self.network.link_name(entry["id"])} for entry in found]
        return found

    def confidence(self) -> dict[str, dict[str, tuple[float, float]]]:
        """95 % intervals of mean, p50, p95 and p99 of each of `FIGURES`, by block bootstrap over batches."""
        return confidence({name: getattr(self, name) for name in FIGURES})

    def summary(self) -> dict[str, object]:
        """The stable JSON form: five statistics over batches of each figure, and what was critical."""
        head = {"batches": self.batches, "tokens": self.tokens, "routing": self.routing}
        model = {name: getattr(self, name) for name in ("dispatch_model", "unit", "moe_op", "timing")}
        found = head | model | {name: five_figures(getattr(self, name)) for name in FIGURES}
        found |= {f"{name}_per_token": five_figures(self.per_token(name)) for name in PER_TOKEN}
        found |= {"row_traffic": self.row_traffic.mean(axis=0).round(3).tolist()}
        found |= {"shares": self.shares(), "critical": self.often()}
        if self.hints is not None:
            found["parameters"] = asdict(self.hints)
        if self.rerouting is not None:
            found["rerouting"] = self.rerouting.summary()
        if self.queues is not None:
            found["queues"] = self.queues.summary()
        return found

    def links(self) -> dict[str, list[float]]:
        """Mean messages per batch on each link in dispatch and in combine, in the order of `network.remote`."""
        sums = {"dispatch": self.out, "combine": self.back}
        return {name: (halves / 2 / self.batches).round(3).tolist() for name, halves in sums.items()}
