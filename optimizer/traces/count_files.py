"""Counts of one run in several files: rank files, dumps one after another, or copies of the same counts."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from optimizer.errors import InputError
from optimizer.traces.corpus import TraceFile
from optimizer.traces.formats.counts import Counts, CountsReading, numbered_counts, raw_counts, raw_passes
from optimizer.traces.formats.raw_counts import RawCounts
from optimizer.traces.formats.sniff import COUNTS_ONLY, Format

MANY = 64
"""Counts in a dump from which on dumps that never decrease are taken for running totals: chance would need that many
comparisons to end alike. With fewer each dump is a step of its own."""


def read_count_files(files: Sequence[TraceFile], reading: CountsReading, strict: bool = False) -> Counts:
    """Read the counts of one run from its files, whose steps follow one another in the order of the files.

    A file that holds the same counts as another is counted once. Dumps of running totals become steps by their
    differences. Files of a known format that holds no counts are refused, files of none are left out, and refused if
    `strict`; sentences say all that. Raises InputError for these, for files that do not fit together, and as
    `read_counts` does.
    """
    counted, left = _apart(files, strict)
    found = _read(counted, reading.scale)
    for path, other in found[1:]:
        _check(found[0], (path, other))
    kept, copies = _without_copies(found)
    steps, told = _differences([raw for _, raw in kept])
    notes = dict.fromkeys(note for raw in steps for note in raw.notes)
    whole = numbered_counts(_joined(steps), found[0][0], reading)
    if len(kept) > 1:
        folder = kept[0][0].parent.name or "this folder"
        told = (f"{len(kept)} files were read as one run, with {len(whole.load)} steps in all", *told)
        whole = replace(whole, source=f"{len(whole.load)} steps of {len(kept)} files in {folder}")
    return replace(whole, notes=(*left, *copies, *told, *notes))


def _read(counted: Sequence[tuple[TraceFile, Format]], scale: float | None) -> list[tuple[Path, RawCounts]]:
    """What each file holds; rank files of passes are one recording, under the path of the first."""
    ranks = [file.path for file, kind in counted if kind is Format.RECORDER_PASSES]
    found = [(file.path, raw_counts(file.path, kind, scale)) for file, kind in counted if file.path not in ranks]
    return [*([(ranks[0], raw_passes(ranks, scale))] if ranks else []), *found]


def _apart(files: Sequence[TraceFile], strict: bool) -> tuple[list[tuple[TraceFile, Format]], tuple[str, ...]]:
    """The files of counts with their formats, and a sentence on files that hold no routing, if there are any."""
    counted = [(file, file.format) for file in files if file.format in COUNTS_ONLY]
    others = [file for file in files if file.format not in COUNTS_ONLY]
    for file in others:
        if file.format is not None or strict:
            what = f"holds requests ({file.format})" if file.format else file.fault
            raise InputError(
                f"{file.path}: {what}, and {counted[0][0].path} holds counts; name the files of counts alone, or each "
                "as a data set of its own",
                "traces",
            )
    said = (f"{len(others)} files left out, as they hold no counts; the first: {others[0].path}",) if others else ()
    return [(file, kind) for file, kind in counted if kind is not None], said


def _check(one: tuple[Path, RawCounts], other: tuple[Path, RawCounts]) -> None:
    """Raise InputError for counts of two files that cannot be of one run."""
    (path, first), (place, second) = one, other
    (_, layers, experts), (_, others, more) = first.load.shape, second.load.shape
    shapes = (layers, experts) == (others, more)
    if not shapes or first.layers != second.layers or first.top_k != second.top_k:
        counts = f"counts {others} layers of {more} experts" if not shapes else "counts other layers or another top-k"
        raise InputError(
            f"{place}: {counts}, unlike {path} with {layers} of {experts}; name the files of one run, or each as a "
            "data set of its own",
            "traces",
        )


def _without_copies(found: list[tuple[Path, RawCounts]]) -> tuple[list[tuple[Path, RawCounts]], tuple[str, ...]]:
    """The files without those that hold the same counts as an earlier one, and a sentence on each of these."""
    kept: list[tuple[Path, RawCounts]] = []
    said = []
    seen: dict[bytes, Path] = {}
    for path, raw in found:
        content = raw.load.tobytes()
        if content in seen:
            said.append(f"{path.name} holds the same counts as {seen[content].name}, which were counted once")
            continue
        seen[content] = path
        kept.append((path, raw))
    return kept, tuple(said)


def _differences(parts: list[RawCounts]) -> tuple[list[RawCounts], tuple[str, ...]]:
    """The steps of dumps that each hold the counts of those before them, and a sentence on that; other parts as they
    are."""
    single = all(len(raw.load) == 1 and raw.tokens is None for raw in parts)
    if len(parts) < 2 or not single or parts[0].load.size < MANY:
        return parts, ()
    ordered = sorted(parts, key=lambda raw: int(raw.load.sum()))
    between = [other.load - one.load for one, other in pairwise(ordered)]
    if any((step < 0).any() for step in between):
        return parts, ()
    steps = [ordered[0], *(replace(raw, load=step) for raw, step in zip(ordered[1:], between, strict=True))]
    return steps, ("every dump holds the counts of those before it, so the steps are their differences",)


def _joined(parts: Sequence[RawCounts]) -> RawCounts:
    """All steps of parts that fit together."""
    tokens = [raw.tokens for raw in parts if raw.tokens is not None]
    names = [name for raw in parts for name in raw.names]
    load = np.concatenate([raw.load for raw in parts])
    return RawCounts(
        load,
        parts[0].layers,
        np.concatenate(tokens) if len(tokens) == len(parts) else None,
        parts[0].top_k,
        tuple(names) if len(names) == len(load) else (),
    )
