"""vLLM's proposed statistics of expert load: JSONL, a line that describes the run, then a line for each step.

The loads are of physical experts, which are slots, and each line says which expert each slot held at that step. Read in
vllm-project/vllm pull request 41141 of 2026-04, whose test of the reader has such lines.
"""

from pathlib import Path

from formulations.kit.arrays import Ints
from optimizer.traces.formats.physical import logical_counts, slot_map
from optimizer.traces.formats.raw_counts import RawCounts, WholeNumbers
from optimizer.traces.formats.steps import Steps
from optimizer.traces.formats.untrusted import UnusableError, array_from_lists, count_from, json_values

META, STATS = "eplb_load_meta", "eplb_load_stats"


def read_load(path: Path, whole: WholeNumbers) -> RawCounts:
    """Read the statistics, line by line, as counts of experts; lines of other types are passed over.

    There are as many experts as the first line with loads has slots less the redundant ones that the run's description
    names, or, without that, as its map names. Raises UnusableError with the line for whatever keeps it from being used,
    and InputError for a file that cannot be opened.
    """
    steps, redundant, first = Steps(), None, None
    for where, value in json_values(path):
        try:
            if isinstance(value, UnusableError):
                raise value
            kind = value.get("record_type") if isinstance(value, dict) else None
            if kind == META:
                redundant = count_from(value, "num_redundant_experts")
            elif kind == STATS and isinstance(value, dict):
                physical, experts_of = _line(value, whole)
                first = first or (physical.shape, _experts(experts_of, redundant))
                if physical.shape != first[0]:
                    raise UnusableError(f"expert_load has shape {physical.shape}, but that of earlier lines {first[0]}")
                steps.add(logical_counts(physical, experts_of, first[1], "expert_load"))
        except UnusableError as error:
            raise UnusableError(f"{where}{error}", error.field) from None
    if first is None:
        raise UnusableError(f"has no line of record_type {STATS}")
    mapped = f"loads of {first[0][1]} physical experts were added up to those of {first[1]} experts by each step's map"
    return RawCounts(steps.load, notes=(*steps.notes, mapped))


def _line(value: dict[str, object], whole: WholeNumbers) -> tuple[Ints, Ints]:
    """The loads of slots and the experts that they held, each `[layer, slot]`."""
    physical = whole.counts(array_from_lists(value.get("expert_load"), "expert_load"), "expert_load")
    if physical.ndim != 2:
        raise UnusableError(f"expert_load has shape {physical.shape}, not [layer, physical expert]")
    return physical, slot_map(array_from_lists(value.get("p2l_map"), "p2l_map"), "p2l_map")


def _experts(experts_of: Ints, redundant: int | None) -> int:
    """How many experts a map `[layer, slot]` is of, where so many slots are redundant."""
    named, room = int(experts_of.max()) + 1, experts_of.shape[1] - (redundant or 0)
    if not 1 <= named <= room:
        raise UnusableError(f"p2l_map names expert {named - 1}, but its slots that are not redundant are {room}")
    return named if redundant is None else room
