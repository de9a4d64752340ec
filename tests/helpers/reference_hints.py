"""Oracles of the policies that choose by load hints, batch by batch and pair by pair, written from their descriptions.

They share no code with what they check. An oracle takes a layer, the tokens and the places of all batches in the order
of time, and how hints are made.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from reference import replicas
from reference_routing import Chosen, Held, Layer, Place, Tokens, by_source
from reference_traffic import all_holders

from optimizer.routing.hints import ENTRIES, SETTLE, SWEEPS, HintSettings
from optimizer.routing.memory import HOP_PAIRS

Loads = list[list[float]]  # by source and expert


@dataclass
class Average:
    """What is known of loads: each batch at least `lag` batches old has its part, younger ones have none."""

    settings: HintSettings
    known: Loads
    seen: list[list[list[int]]] = field(default_factory=list)

    def learn(self, counts: list[list[int]]) -> None:
        """Take note of the counts of a batch, by source and expert."""
        self.seen.append(counts)
        place = len(self.seen) - self.settings.lag
        if place >= 0:
            kept = 2 ** (-1 / self.settings.half_life)
            self.known = [
                [kept * old + (1 - kept) * new for old, new in zip(*rows, strict=True)]
                for rows in zip(self.known, self.seen[place], strict=True)
            ]


def counted(layer: Layer, tokens: Tokens, held: Held) -> list[list[int]]:
    """The pairs of one batch by source and expert."""
    counts = [[0] * len(layer.load) for _ in all_holders(layer.wires)]
    for source, own in enumerate(by_source(layer, held)):
        for token in own:
            for expert in tokens[token]:
                counts[source][expert] += 1
    return counts


def learned(layer: Layer, settings: HintSettings) -> Average:
    """The average before any batch: the learned loads, of which each source has an equal part."""
    sources = len(all_holders(layer.wires))
    return Average(settings, [[round(load * 10**6) / 10**6 / sources for load in layer.load] for _ in range(sources)])


def order(experts: int, sweep: int) -> list[int]:
    """The experts in the order of a sweep: forwards and backwards alternately."""
    return list(range(experts)) if sweep % 2 == 0 else list(range(experts))[::-1]


def level(layer: Layer, load: list[float], share: dict[tuple[int, Place], float], sweeps: int) -> None:
    """Fill the lightest devices of one expert after the other to one level, by trying every number of devices."""
    heavy: dict[int, float] = defaultdict(float)
    for (expert, place), part in share.items():
        heavy[place[0]] += part * load[expert]
    for sweep in range(sweeps):
        for expert in order(len(load), sweep):
            there = replicas(layer.slots, expert)
            if len(there) == 1 or load[expert] == 0:
                continue
            for place in there:
                heavy[place[0]] -= share[expert, place] * load[expert]
            lightest = sorted(there, key=lambda place: heavy[place[0]])
            for count in range(1, len(there) + 1):
                goal = (load[expert] + sum(heavy[place[0]] for place in lightest[:count])) / count
                if count == len(there) or heavy[lightest[count][0]] >= goal:
                    break
            for place in there:
                share[expert, place] = max(0.0, goal - heavy[place[0]]) / load[expert]
                heavy[place[0]] += share[expert, place] * load[expert]


def evenly(layer: Layer) -> dict[tuple[int, Place], float]:
    """Equal shares of all replicas of each expert."""
    there = {expert: replicas(layer.slots, expert) for expert in range(len(layer.load))}
    return {(expert, place): 1 / len(places) for expert, places in there.items() for place in places}


def shares(
    layer: Layer, tokens: list[Tokens], held: list[Held], settings: HintSettings
) -> Iterator[dict[tuple[int, Place], float]]:
    """The shares in force in each batch."""
    known, share = learned(layer, settings), evenly(layer)
    for batch in range(len(tokens)):
        if batch % settings.refresh == 0:
            level(layer, [sum(of) for of in zip(*known.known, strict=True)], share, SWEEPS if batch else SETTLE)
        yield share
        known.learn(counted(layer, tokens[batch], held[batch]))


def hint(layer: Layer, tokens: list[Tokens], held: list[Held], settings: HintSettings) -> list[Chosen]:
    """Each source gives every replica its share of a credit for each pair, and the richest one pays the pair; source s
    has dealt out s pairs of each expert before the first batch."""
    credit: dict[tuple[int, int, Place], int] = defaultdict(int)
    chosen: list[Chosen] = []
    for batch, share in enumerate(shares(layer, tokens, held, settings)):
        part = {key: round(of * 10**6) for key, of in share.items()}
        if batch == 0:
            for source in range(len(all_holders(layer.wires))):
                for expert in range(len(layer.load)):
                    for _ in range(source):
                        dealt(layer, part, credit, source, expert)
        chosen.append([[] for _ in tokens[batch]])
        for source, own in enumerate(by_source(layer, held[batch])):
            for token in own:
                chosen[-1][token] = [dealt(layer, part, credit, source, expert) for expert in tokens[batch][token]]
    return chosen


def dealt(
    layer: Layer,
    part: dict[tuple[int, Place], int],
    credit: dict[tuple[int, int, Place], int],
    source: int,
    expert: int,
) -> Place:
    """The replica with the most credit once all have been given theirs; an expert without shares gives equal ones."""
    there = replicas(layer.slots, expert)
    if len(there) == 1:
        return there[0]
    own = [part[expert, place] for place in there]
    own = own if any(own) else [1] * len(there)
    for place, given in zip(there, own, strict=True):
        credit[source, expert, place] += given
    pick = max(there, key=lambda place: (credit[source, expert, place], -place[0], -place[1]))
    credit[source, expert, pick] -= sum(own)
    return pick


def hint_table(layer: Layer, tokens: list[Tokens], held: list[Held], settings: HintSettings) -> list[Chosen]:
    """Each (source, expert) in turn moves to the device that is the lightest without it."""
    known, sources, experts = learned(layer, settings), len(all_holders(layer.wires)), len(layer.load)
    there = [replicas(layer.slots, expert) for expert in range(experts)]
    table = [[there[expert][source % len(there[expert])] for expert in range(experts)] for source in range(sources)]
    chosen: list[Chosen] = []
    for batch in range(len(tokens)):
        if batch % settings.refresh == 0:
            heavy: dict[int, float] = defaultdict(float)
            for source in range(sources):
                for expert in range(experts):
                    heavy[table[source][expert][0]] += known.known[source][expert]
            for sweep in range(SWEEPS if batch else SETTLE):
                for expert in order(experts, sweep):
                    for source in range(sources if len(there[expert]) > 1 else 0):
                        heavy[table[source][expert][0]] -= known.known[source][expert]
                        table[source][expert] = min(there[expert], key=lambda place: heavy[place[0]])
                        heavy[table[source][expert][0]] += known.known[source][expert]
        chosen.append([[] for _ in tokens[batch]])
        for source, own in enumerate(by_source(layer, held[batch])):
            for token in own:
                chosen[-1][token] = [table[source][expert] for expert in tokens[batch][token]]
        known.learn(counted(layer, tokens[batch], held[batch]))
    return chosen


def hint_random(layer: Layer, tokens: list[Tokens], held: list[Held], settings: HintSettings) -> list[Chosen]:
    """The hash of a token's row in its source picks one of an expert's entries, which replicas share by shares."""
    chosen: list[Chosen] = []
    for batch, share in enumerate(shares(layer, tokens, held, settings)):
        chosen.append([[] for _ in tokens[batch]])
        for own in by_source(layer, held[batch]):
            for row, token in enumerate(own):
                entry = row * 2654435769 % 2**32 % ENTRIES
                chosen[-1][token] = [entries(layer, share, expert)[entry] for expert in tokens[batch][token]]
    return chosen


def entries(layer: Layer, share: dict[tuple[int, Place], float], expert: int) -> list[Place]:
    """Whole entries of each replica, and then those of the largest remainders, one at a time."""
    there = replicas(layer.slots, expert)
    part = {place: round(share[expert, place] * 10**6) for place in there}
    wanted = {place: Fraction(part[place] * ENTRIES, sum(part.values())) for place in there}
    found = [place for place in there for _ in range(math.floor(wanted[place]))]
    while len(found) < ENTRIES:
        left = {place: wanted[place] - found.count(place) for place in there}
        found.append(max(there, key=lambda place: (left[place], -place[0], -place[1])))
    return found


def hint_device(layer: Layer, tokens: list[Tokens], held: list[Held], settings: HintSettings) -> list[Chosen]:
    """Each pair goes where its source has sent least, counting hops, a fixed fraction, and what was too much before."""
    homes, devices = all_holders(layer.wires), len(layer.slots)
    extra, loads = [0.0] * devices, []
    gain = 1 - 2 ** (-1 / settings.half_life)
    chosen: list[Chosen] = []
    for batch in range(len(tokens)):
        served = [0] * devices
        chosen.append([[] for _ in tokens[batch]])
        for source, own in enumerate(by_source(layer, held[batch])):
            weight = [
                (source * devices + device) * 2654435769 % 2**32 / 2**32
                + HOP_PAIRS * layer.far(homes[source], (device, 0))
                + extra[device]
                for device in range(devices)
            ]
            for token in own:
                for expert in tokens[batch][token]:
                    pick = min(replicas(layer.slots, expert), key=lambda place: weight[place[0]])
                    weight[pick[0]] += 1
                    served[pick[0]] += 1
                    chosen[-1][token].append(pick)
        loads.append(served)
        if len(loads) >= settings.lag and len(loads) % settings.refresh == 0:
            last = loads[len(loads) - settings.lag]
            mean = sum(last) / devices
            extra = [old + gain * (load - mean) / len(homes) for old, load in zip(extra, last, strict=True)]
    return chosen


HINT_ORACLES: dict[str, Callable[[Layer, list[Tokens], list[Held], HintSettings], list[Chosen]]] = {
    "hint": hint,
    "hint-table": hint_table,
    "hint-random": hint_random,
    "hint-device": hint_device,
}
