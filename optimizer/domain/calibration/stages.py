"""What each stage of a preset is timed by: its constants, and what timings say of them.

The formulas are those of `domain.cost`, which turns counts into time: a test compares the two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Floats
from optimizer.domain.calibration.design import Design
from optimizer.domain.calibration.measurements import KINDS, Choices, Measurement
from optimizer.domain.presets.schema import (
    FunctionalCompute,
    HardwarePreset,
    NodeTransfer,
    RooflineCompute,
    TableDispatch,
    TileCompute,
    Transfer,
)


@dataclass(frozen=True)
class Figure:
    """One figure of a section that is fitted.

    start: the preset's. per: None where the figure is itself the constant, in microseconds; else the constant is
    `per / figure` microseconds, as for a bandwidth.
    """

    name: str
    start: float
    per: float | None = None

    def turned(self, value: float) -> float:
        """The constant of a figure, or the figure of a constant: they are each other's inverse. 0 becomes infinite."""
        if self.per is None:
            return value
        return self.per / value if value > 0 else float("inf")

    def error(self, constant: float, error: float) -> float:
        """The standard error of the figure by that of its constant, to first order."""
        return error if self.per is None else error * self.per / constant**2


@dataclass(frozen=True)
class Stage:
    """A section of the preset that rows of one stage are fitted to.

    columns: what a row must have, or any of them where `some`; figures in the order of the design's constants.
    """

    stage: str
    section: str
    columns: tuple[str, ...]
    figures: tuple[Figure, ...]
    design: Callable[[Sequence[Measurement]], Design]
    some: bool = False

    def takes(self, row: Measurement) -> bool:
        """Whether a row tells of this section."""
        if row.stage != self.stage:
            return False
        return any(row.has([name]) for name in self.columns) if self.some else row.has(self.columns)


def stages_of(preset: HardwarePreset) -> list[Stage]:
    """The sections of a preset that can be fitted, in the order of its file."""
    found = [_compute(preset.compute)]
    if preset.functional is not None:
        found.append(_functional(preset.functional))
    found.append(_transfer("dispatch", preset.dispatch, preset.network.links == "nodes"))
    if preset.network.links == "rings":
        found.append(_table(preset.table))
    found.append(_transfer("combine", preset.combine, preset.network.links == "nodes"))
    return [*found, _routing(preset)]


def choices_of(stages: Sequence[Stage]) -> Choices:
    """For each stage the sets of columns of which a row must fill one completely."""
    choices: dict[str, tuple[tuple[str, ...], ...]] = {}
    for each in stages:
        sets = tuple((name,) for name in each.columns) if each.some else (each.columns,)
        choices[each.stage] = (*choices.get(each.stage, ()), *sets)
    return choices


def _compute(compute: TileCompute | RooflineCompute) -> Stage:
    if isinstance(compute, TileCompute):
        tile = compute.tile_tokens
        return Stage(
            "compute",
            "compute",
            ("tokens",),
            (Figure("first_tile_us", compute.first_tile_us), Figure("further_tile_us", compute.further_tile_us)),
            lambda rows: Design(np.array([_tiles(row.tokens, tile) for row in rows], dtype=float)),
        )
    read = Figure("memory_gigabytes_per_second", compute.memory_gigabytes_per_second, compute.weight_bytes / 1e3)
    multiply = Figure("efficiency", compute.efficiency, compute.flops_per_token / (compute.peak_tflops * 1e6))
    return Stage("compute", "compute", ("tokens",), (read, multiply), _slots)


def _tiles(tokens: Sequence[int], tile: int) -> tuple[int, int]:
    """How many first and how many further tiles the slots of a device have."""
    return len(tokens), sum(-(-each // tile) - 1 for each in tokens)


def _slots(rows: Sequence[Measurement]) -> Design:
    """Each slot reads its weights once, or multiplies its tokens."""
    tokens = np.zeros((len(rows), max(len(row.tokens) for row in rows)))
    for place, row in enumerate(rows):
        tokens[place, : len(row.tokens)] = row.tokens
    return Design(np.zeros((len(rows), 0)), (tokens > 0).astype(float), tokens)


def _functional(functional: FunctionalCompute) -> Stage:
    figures = Figure("load_us", functional.load_us), Figure("block_us", functional.block_us)
    return Stage("functional", "functional", ("slots", "blocks"), figures, _numbers("slots", "blocks"))


def _table(table: TableDispatch | None) -> Stage:
    names = ("base_us", "per_expert_us", "per_hop_us")
    figures = tuple(Figure(name, 0.0 if table is None else getattr(table, name)) for name in names)
    return Stage("dispatch", "table", ("experts", "hops"), figures, _numbers("", "experts", "hops"))


def _transfer(stage: str, transfer: Transfer, nodes: bool) -> Stage:
    """A transfer through links of one speed, or through ports of two: the slower of both ports decides."""
    kilobytes = transfer.bytes_per_token / 1e3
    ports = isinstance(transfer, NodeTransfer)
    names = ["local_gigabytes_per_second"] if ports else ["gigabytes_per_second"]
    names += ["gigabytes_per_second"] if nodes else []
    figures = Figure("base_us", transfer.base_us), *(Figure(n, getattr(transfer, n), kilobytes) for n in names)
    columns = ("local", "remote") if nodes else ("local",) if ports else ("messages",)
    return Stage(stage, stage, columns, figures, _ports if nodes else _numbers("", *columns), some=nodes)


def _ports(rows: Sequence[Measurement]) -> Design:
    """The base time, and the busiest port of either kind."""
    local, remote = ([[row.numbers.get(name, 0.0)] for row in rows] for name in ("local", "remote"))
    return Design(np.ones((len(rows), 1)), np.array(local), np.array(remote))


def _routing(preset: HardwarePreset) -> Stage:
    figures = tuple(Figure(f"{kind}_us", getattr(preset.routing, f"{kind}_us")) for kind in KINDS)
    return Stage("routing", "routing", ("information",), figures, _kinds)


def _kinds(rows: Sequence[Measurement]) -> Design:
    """Each kind of information has a price of its own."""
    return Design(np.array([[float(row.information == kind) for kind in KINDS] for row in rows]))


def _numbers(*columns: str) -> Callable[[Sequence[Measurement]], Design]:
    """A design of these columns of numbers; an empty name stands for the base time, which every row has."""

    def design(rows: Sequence[Measurement]) -> Design:
        plain: Floats = np.array([[row.numbers[name] if name else 1.0 for name in columns] for row in rows])
        return Design(plain)

    return design
