"""Counts of each forward pass from SGLang's recorder in its mode `per_pass`, one file a rank and dump.

A rank counts its own tokens alone, or, with DeepEP's low latency, those that came to its own experts; nothing is added
up over ranks before the file is written (`_SinglePassGatherer` and `_DetailAccumulator` in SGLang's
`srt/eplb/expert_distribution.py`). So the files of all ranks are added up here, pass by pass. Counts are of slots,
which the map in the file turns into experts; it is the map at the time of the dump, as the file holds no earlier one.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.traces.formats.physical import logical_counts
from optimizer.traces.formats.raw_counts import RawCounts, WholeNumbers
from optimizer.traces.formats.recorder_records import MAP, Recording
from optimizer.traces.formats.steps import MOST_STEPS
from optimizer.traces.formats.untrusted import UnusableError, count_from

COUNTS = "global_physical_count"
MOST_BYTES = 1 << 28
"""Bytes of all steps; 1024 of Kimi K2, which has the most layers and experts in use, take three quarters of it."""


@dataclass
class _Passes:
    """Which passes the files hold, found before any counts are read.

    held: (pass, rank, gatherer) and the file it stands in; shape: layers and slots of all files; experts: the largest
    number of a map's experts.
    """

    held: dict[tuple[int, int, str], Path] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    experts: int = 0

    def look_into(self, path: Path) -> None:
        """Add the passes of a file. Raises UnusableError for what does not fit the files before."""
        with Recording(path) as recording:
            experts_of = recording.physical_to_logical
            if self.shape and experts_of.shape != self.shape:
                raise UnusableError(f"{MAP} has shape {experts_of.shape}, but that of another rank {self.shape}")
            self.shape, self.experts = experts_of.shape, max(self.experts, int(experts_of.max()) + 1)
            if self.experts > self.shape[1]:
                raise UnusableError(f"{MAP} names expert {self.experts - 1}, but there are {self.shape[1]} slots")
            for record in recording.records([]):
                key = _key(record)
                if key in self.held:
                    raise UnusableError(f"holds pass {key[0]} of rank {key[1]}, as {self.held[key].name} does")
                self.held[key] = path

    @property
    def numbers(self) -> list[int]:
        """The numbers of the passes, ascending."""
        return sorted({number for number, _, _ in self.held})

    @property
    def ranks(self) -> list[int]:
        """The ranks that have a file, ascending."""
        return sorted({rank for _, rank, _ in self.held})


def read_passes(paths: Sequence[Path], whole: WholeNumbers) -> RawCounts:
    """Add up the counts of all ranks, pass by pass; with more than `MOST_STEPS` passes neighbouring ones become a step.

    Where all ranks counted the same in every pass, all had the same tokens, as without data parallel attention; they
    are counted once. Raises UnusableError, which names the file if there are several, for whatever keeps a file from
    being used, and for files that hold one pass of one rank twice.
    """
    passes = _Passes()
    for path in paths:
        _named(path, paths, passes.look_into)
    numbers = passes.numbers
    layers, experts = passes.shape[0], passes.experts
    together = -(-len(numbers) // max(1, min(MOST_STEPS, MOST_BYTES // (8 * layers * experts))))
    step_of = {number: place // together for place, number in enumerate(numbers)}
    load = np.zeros((len(set(step_of.values())), layers, experts), dtype=np.int64)
    contents: dict[int, set[bytes]] = {}

    def add(path: Path) -> None:
        with Recording(path) as recording:
            for record in recording.records([COUNTS]):
                (number, rank, gatherer), slots = _key(record), record.get(COUNTS)
                if not isinstance(slots, np.ndarray):
                    raise UnusableError(f"has a record of pass {number} without a tensor {COUNTS}")
                name = f"{COUNTS} of pass {number}"
                counts = logical_counts(whole.counts(slots, name), recording.physical_to_logical, experts, name)
                load[step_of[number]] += counts
                contents.setdefault(rank, set()).add(_digest(number, gatherer, counts))

    for path in paths:
        _named(path, paths, add)
    alike = len(contents) > 1 and len({frozenset(content) for content in contents.values()}) == 1
    if alike:
        load //= len(contents)
    names = tuple(f"pass {number}" for number in numbers) if together == 1 else ()
    return RawCounts(load, names=names, notes=_notes(passes.ranks, len(numbers), together, alike))


def _key(record: dict[str, object]) -> tuple[int, int, str]:
    """The pass, the rank and the gatherer of a record. Raises UnusableError where the first two are missing."""
    number, rank = count_from(record, "forward_pass_id"), count_from(record, "rank")
    if number is None or rank is None:
        raise UnusableError("has a record without forward_pass_id or rank")
    return number, rank, str(record.get("gatherer_key", ""))


def _digest(number: int, gatherer: str, counts: Ints) -> bytes:
    """What tells the counts of one pass from those of another."""
    return hashlib.blake2b(f"{number} {gatherer} ".encode() + counts.tobytes(), digest_size=16).digest()


def _named(path: Path, paths: Sequence[Path], read: Callable[[Path], None]) -> None:
    """Read one of several files, whose name then stands in the error."""
    try:
        read(path)
    except UnusableError as error:
        raise UnusableError(f"{path.name}: {error}" if len(paths) > 1 else str(error), error.field) from None


def _notes(ranks: list[int], passes: int, together: int, alike: bool) -> tuple[str, ...]:
    """Sentences on what was added up, and on ranks that are missing."""
    missing = [rank for rank in range(ranks[-1] + 1) if rank not in set(ranks)]
    if len(ranks) == 1:
        said = [f"only rank {ranks[0]} is there: tokens that other ranks have for themselves are not counted"]
    elif alike:
        said = [f"all {len(ranks)} ranks counted the same tokens, which are counted once"]
    else:
        said = [f"the counts of {len(ranks)} ranks were added up in each of {passes} passes"]
    if missing and len(ranks) > 1:
        said.append(f"rank {missing[0]} is missing: its tokens are not counted")
    if together > 1:
        said.append(f"every {together} passes were added up to one step")
    return tuple(said)
