"""Load hints: what recent batches taught about loads, kept for one layer.

Hints are made beside a step and used in the next one, so no batch waits for them. Every source acts alone: it knows
the hints and what it has sent itself, and nothing of what others send in the same batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.errors import InputError
from optimizer.routing.expected_split import add_sources, assign, count_shares, level, repeat
from optimizer.routing.forecast import Forecast, recall

SETTLE = 24  # sweeps for the first shares or table, which begin far from level
SWEEPS = 3  # sweeps for each later one, which begins at the last and so near its goal
ENTRIES = 32  # repeated entries of an expert, so that shares are met to a thirty-second; a table of 257 x 32 is small


@dataclass(frozen=True)
class HintSettings:
    """How hints are made.

    half_life: batches after which a load counts half in the average; refresh: how many batches use the same hints;
    lag: how many batches old the youngest load is that hints know of, at least 1.
    Raises InputError for numbers out of range.
    """

    half_life: float = 4.0
    refresh: int = 1
    lag: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.half_life < inf:
            raise InputError(f"a half-life of {self.half_life} batches is not a positive number", "half_life")
        for name in ("refresh", "lag"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, but at least 1 batch is needed", name)

    @property
    def kept(self) -> float:
        """The part of an average that is left after one batch."""
        return float(2 ** (-1 / self.half_life))


USUAL_HINTS = HintSettings()
"""The hints that are made where nobody says how. On real traces half-lives of 2 to 20 batches are equally good."""


class LoadHints:
    """Expected loads of experts by source, and the shares, table and entries that level them.

    start `[expert + 1]` and device `[replica]` say where the replicas are, as in `expected_split`; load `[expert]`: the
    expected pairs of a batch before any was seen, of which all sources are taken to have equal parts. Shares, table and
    entries are made when they are first asked for, and from then on anew every `refresh` batches, without allocating.
    """

    def __init__(self, start: Ints, device: Ints, sources: int, load: Floats, settings: HintSettings) -> None:
        copies = np.diff(start)
        self._start, self._device, self._settings = start, device, settings
        self._forecast = Forecast.of(np.broadcast_to(load / sources, (sources, len(load))), settings.lag)
        self._share = np.repeat(1 / copies, copies)
        self._table = (start[:-1] + np.arange(sources)[:, None] % copies).astype(np.int32)
        self._entries = np.zeros((len(load), ENTRIES), dtype=np.int32)
        self._load, self._heavy = np.zeros(len(load)), np.zeros(int(device.max()) + 1)
        self._part, self._whole = np.zeros(len(device), dtype=np.int64), np.zeros(len(load), dtype=np.int64)
        self._wanted: dict[str, Callable[[int], None]] = {}

    def observe(self, counts: Ints) -> None:
        """Take note of the pairs of a batch that has run, counts `[source, expert]`."""
        recall(*self._forecast, self._settings.kept, counts)
        if self._forecast.clock[0] % self._settings.refresh == 0:
            for make in self._wanted.values():
                make(SWEEPS)

    def shares(self) -> Floats:
        """The part of its expert's pairs that each replica serves now, `[replica]` float64; the array is not copied."""
        self._want("shares", self._make_shares)
        return self._share

    def table(self) -> Ints:
        """The replica to which each source sends an expert's pairs now, `[source, expert]` int32 numbers of replicas;
        the array is not copied."""
        self._want("table", self._make_table)
        return self._table

    def parts(self) -> tuple[Ints, Ints]:
        """The present shares `[replica]` in millionths, and their sums `[expert]`, both int64; not copied."""
        self._want("shares", self._make_shares)
        return self._part, self._whole

    def entries(self) -> Ints:
        """Replicas as often as their shares ask now, `[expert, ENTRIES]` int32 numbers of replicas; the array is not
        copied."""
        self._want("shares", self._make_shares)
        self._want("entries", self._make_entries)
        return self._entries

    def _want(self, form: str, make: Callable[[int], None]) -> None:
        """Make a form of hints for the first time, and note that it is to be kept up to date."""
        if form not in self._wanted:
            self._wanted[form] = make
            make(SETTLE)

    def _make_shares(self, sweeps: int) -> None:
        add_sources(self._forecast.average, self._load)
        level(self._load, self._start, self._device, self._share, self._heavy, sweeps)
        count_shares(self._share, self._start, self._part, self._whole)

    def _make_table(self, sweeps: int) -> None:
        assign(self._forecast.average, self._start, self._device, self._table, self._heavy, sweeps)

    def _make_entries(self, sweeps: int) -> None:
        """The shares stand already, as they were asked for before the entries."""
        repeat(self._part, self._whole, self._start, self._entries)


class DeviceHints:
    """What sources hold against devices by the last known loads of these: the cheapest hint, one number a device.

    Every batch moves the numbers by what devices have served beyond the mean, per source: where much was served
    without need, less is sent the next time, until all serve equally much.
    """

    def __init__(self, devices: int, sources: int, settings: HintSettings) -> None:
        self._forecast = Forecast.of(np.zeros(devices), settings.lag)
        self._settings, self._sources = settings, sources
        self._held, self._above = np.zeros(devices), np.zeros(devices)

    def observe(self, loads: Ints) -> None:
        """Take note of the pairs that each device has served in a batch, loads `[device]`."""
        recall(*self._forecast, 0.0, loads)
        clock, settings = int(self._forecast.clock[0]), self._settings
        if clock >= settings.lag and clock % settings.refresh == 0:
            np.subtract(self._forecast.average, self._forecast.average.mean(), out=self._above)
            self._above *= 1 - settings.kept
            self._above /= self._sources
            self._held += self._above

    def held(self) -> Floats:
        """How many pairs each source counts for a device before it sends any, `[device]` float64; not copied."""
        return self._held
