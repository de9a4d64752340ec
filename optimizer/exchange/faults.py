"""What is wrong with a placement, in the words of the server that would load it."""

from collections.abc import Collection, Iterator

import numpy as np

import optimizer.exchange.rtp_llm as rtp_llm
import optimizer.exchange.sglang as sglang
import optimizer.exchange.tt_metal as tt_metal
from formulations.kit.arrays import Ints
from optimizer.exchange.arrays import EMPTY
from optimizer.exchange.formats import FORMATS
from optimizer.exchange.server_placement import ServerPlacement

MOST_FAULTS = 100  # what has more is no placement; rows are not looked at for ever
MOST_NAMED = 5  # ids in one sentence, so that it still is one


def faults(
    placement: ServerPlacement, experts: int | None = None, dense: Collection[int] = (), doubles: bool = True
) -> list[str]:
    """The rules of the server that a placement breaks, in a sentence each; when there are a hundred, the rest is not
    looked for.

    experts: how many there are in the model, where that is known; else as many as the file shows. dense: rows' ids that
    are dense layers, which may hold anything. doubles: whether two copies of an expert on a rank count. What depends on
    ranks is told where their number is known.
    """
    known = experts or placement.experts
    found = list(_sizes(placement, known))
    for layer, row in zip(placement.layers, placement.physical_to_logical, strict=True):
        if layer not in dense and len(found) < MOST_FAULTS:
            found += _row(placement, layer, row, known)
            if placement.ranks and placement.slots % placement.ranks == 0:
                by_rank = row.reshape(placement.ranks, -1)
                found += _doubles(layer, by_rank) if doubles else []
                found += _on_ranks(placement, layer, by_rank)
    return found


def _sizes(placement: ServerPlacement, experts: int) -> Iterator[str]:
    """What is wrong with the numbers of slots, ranks and experts."""
    if placement.ranks and placement.slots % placement.ranks:
        yield f"{placement.slots} slots are not divisible by {placement.ranks} ranks"
    redundant = placement.slots - experts
    if placement.format == rtp_llm.NAME and redundant > experts:
        yield f"{redundant} redundant experts are more than the {experts} experts, which RTP-LLM refuses"


def _row(placement: ServerPlacement, layer: int, row: Ints, experts: int) -> Iterator[str]:
    """What is wrong with one layer."""
    outside = np.flatnonzero((row >= experts) | (row < EMPTY))
    if len(outside):
        yield f"expert {row[outside[0]]} in slot {outside[0]} of layer {layer}, but ids are 0..{experts - 1}"
    empty = np.flatnonzero(row == EMPTY)
    if len(empty) and FORMATS[placement.format].empty == "no":
        meant = ", which SGLang takes for the last expert" if placement.format == sglang.NAME else ""
        yield f"no expert (-1{meant}) in slot {empty[0]} of layer {layer}"
    inside = row[(row >= 0) & (row < experts)]
    missing = np.flatnonzero(np.bincount(inside, minlength=experts) == 0)
    if len(missing):
        yield f"{_experts(missing)} missing in layer {layer}"


def _doubles(layer: int, by_rank: Ints) -> Iterator[str]:
    """The experts that a rank has twice. by_rank: ids `[rank, slot]`."""
    ordered = np.sort(by_rank, axis=1)
    rank, slot = np.nonzero((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0))
    for pair in sorted({(int(each), int(ordered[each, at])) for each, at in zip(rank, slot, strict=True)}):
        yield f"expert {pair[1]} twice on rank {pair[0]} in layer {layer}"


def _on_ranks(placement: ServerPlacement, layer: int, by_rank: Ints) -> Iterator[str]:
    """What is wrong with how many experts the ranks have in one layer. by_rank: ids `[rank, slot]`."""
    filled = (by_rank != EMPTY).sum(axis=1)
    if FORMATS[placement.format].empty == "evenly" and filled.min() != filled.max():
        fullest, emptiest = int(filled.argmax()), int(filled.argmin())
        yield (
            f"device {fullest} has {filled.max()} experts in layer {layer}, but device {emptiest} has {filled.min()}; "
            "all devices must have equally many"
        )
    if placement.format == tt_metal.YAML_NAME:
        yield from _equal_parts(placement, by_rank)


def _equal_parts(placement: ServerPlacement, by_rank: Ints) -> Iterator[str]:
    """tt-metal cuts the routed experts into equal parts, one for each device, whatever the list says."""
    routed = placement.experts if placement.routed is None else placement.routed
    each = ((by_rank >= 0) & (by_rank < routed)).sum(axis=1)
    for name, count in (("routed", each), ("shared", (by_rank >= routed).sum(axis=1))):
        if count.min() != count.max():
            most, least = int(count.argmax()), int(count.argmin())
            yield (
                f"device {most} has {count.max()} {name} experts, but device {least} has {count.min()}; tt-metal wants "
                "equally many on all devices"
            )


def _experts(ids: Ints) -> str:
    """The first few ids as the subject of a sentence, and how many more there are."""
    named = ", ".join(map(str, ids[:MOST_NAMED].tolist()))
    rest = f" and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else ""
    return f"expert {named}" if len(ids) == 1 else f"experts {named}{rest}"
