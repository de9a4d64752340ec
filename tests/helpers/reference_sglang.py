"""Which copy of an expert SGLang uses, by Python's own random numbers. Shares no code with what it checks."""

import random

from reference import Slots, replicas
from reference_traffic import Wires, all_holders, hops

Place = tuple[int, int]  # (device, slot)


def near(wires: Wires, places: list[Place], home: list[int]) -> Place | None:
    """The only copy; or the first without a hop; or the first in the source's row, unless all copies are there."""
    own = [place for place in places if hops(wires, home, place[0]) == 0]
    node = [place for place in places if place[0] // wires.cols == home[0] // wires.cols]
    if len(places) == 1 or own:
        return [*own, *places][0]
    return node[0] if node and len(node) < len(places) else None


def static_copies(wires: Wires, layers: list[Slots | None], experts: int, rank: int) -> list[Place]:
    """The copy of each expert that a source uses in the last of the layers: what its own walk over all of them gives.

    A layer that is None has expert p modulo the number of experts in slot p.
    """
    sources, stream, last = all_holders(wires), random.Random(42), layers[-1]
    assert last is not None
    depth = len(last[0])
    trivial = [[(device * depth + slot) % experts for slot in range(depth)] for device in range(len(last))]
    used: list[Place | None] = []
    for slots in layers:
        used = []
        for expert in range(experts):
            places = replicas(slots or trivial, expert)
            collapsed = near(wires, places, sources[rank])
            places = places if collapsed is None else [collapsed]
            picks = [near(wires, places, home) for home in sources]
            left = [other for other, pick in enumerate(picks) if pick is None]
            if left:
                dealt = places * (len(left) // len(places)) + stream.sample(places, len(left) % len(places))
                stream.shuffle(dealt)
                for other, place in zip(left, dealt, strict=True):
                    picks[other] = place
            used.append(picks[rank])
    return [place for place in used if place is not None]


def split_mix(number: int) -> int:
    """Output `number`, counted from 0, of SplitMix64 from seed 0."""
    mixed = (number + 1) * 0x9E3779B97F4A7C15 % 2**64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
    return mixed ^ mixed >> 31


def dynamic_copy(wires: Wires, places: list[Place], home: list[int], source: int, pair: int) -> Place:
    """The near copy; or copy (16 bits of the random number of the source's pair) modulo copies."""
    found = near(wires, places, home)
    return places[split_mix(source * 2**32 + pair) // 2**32 % 2**16 % len(places)] if found is None else found
