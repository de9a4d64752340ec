"""Oracles of the routing policies, pair by pair, and of a capacity limit. They share no code with what they check."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction

from reference import Slots, replicas
from reference_sglang import dynamic_copy, static_copies
from reference_traffic import Wires, all_holders, hops

from optimizer.routing.policies import MARGINS

Place = tuple[int, int]  # (device, slot)
Tokens = list[list[int]]  # experts of each token
Held = list[list[int]]  # devices where each token is
Chosen = list[list[Place]]


@dataclass(frozen=True)
class Layer:
    """One layer as a policy sees it; load by expert and share by device and slot are what was learned.

    layers_before: the slots of the model's layers before it, None where they are not known. table: the learned place of
    each source and expert; an empty one stands for none.
    """

    wires: Wires
    slots: Slots
    tile: int
    capacity: int
    load: list[float]
    share: list[list[float]]
    layers_before: list[Slots | None] = field(default_factory=list)
    table: list[list[Place]] = field(default_factory=list)

    def far(self, home: list[int], place: Place) -> int:
        """Hops from a token, by the devices where it is, to a replica."""
        return hops(self.wires, home, place[0])


def primary(layer: Layer, tokens: Tokens, held: Held) -> Chosen:
    """Every pair goes to the first replica of its expert."""
    return [[replicas(layer.slots, expert)[0] for expert in token] for token in tokens]


def even(layer: Layer, tokens: Tokens, held: Held) -> Chosen:
    """The pairs of an expert go to its replicas in turn."""
    seen: Counter[int] = Counter()
    chosen: Chosen = []
    for token in tokens:
        chosen.append([])
        for expert in token:
            there = replicas(layer.slots, expert)
            chosen[-1].append(there[seen[expert] % len(there)])
            seen[expert] += 1
    return chosen


def hashed(layer: Layer, tokens: Tokens, held: Held) -> Chosen:
    """A replica's rank is the upper half of 32 bits of the pair's number times Knuth's constant, modulo replicas."""
    number = 0
    chosen: Chosen = []
    for token in tokens:
        chosen.append([])
        for expert in token:
            there = replicas(layer.slots, expert)
            chosen[-1].append(there[number * 2654435761 % 2**32 // 2**16 % len(there)])
            number += 1
    return chosen


def nearest_table(layer: Layer) -> dict[tuple[tuple[int, ...], int], Place]:
    """The replica of each (source, expert): hot experts first; of equally near replicas the one that got least."""
    sources = all_holders(layer.wires)
    got: dict[int, Fraction] = defaultdict(Fraction)
    table = {}
    for expert in sorted(range(len(layer.load)), key=lambda expert: (-layer.load[expert], expert)):
        for home in sources:
            there = replicas(layer.slots, expert)
            pick = min(there, key=lambda place: (layer.far(home, place), got[place[0]], place))
            got[pick[0]] += Fraction(layer.load[expert])
            table[tuple(home), expert] = pick
    return table


def nearest(layer: Layer, tokens: Tokens, held: Held) -> Chosen:
    """Every pair goes to the replica that the table of nearest replicas names."""
    table = nearest_table(layer)
    return [[table[tuple(home), expert] for expert in token] for token, home in zip(tokens, held, strict=True)]


def table(layer: Layer, tokens: Tokens, held: Held) -> Chosen:
    """The learned place of each (source, expert), if it was learned for these sources and still holds the expert; else
    the place that the table of nearest replicas names."""
    sources, near = all_holders(layer.wires), nearest_table(layer)
    chosen: Chosen = []
    for token, home in zip(tokens, held, strict=True):
        chosen.append([near[tuple(home), expert] for expert in token])
        if len(layer.table) == len(sources):
            named = layer.table[sources.index(home)]
            for choice, expert in enumerate(token):
                if named[expert] in replicas(layer.slots, expert):
                    chosen[-1][choice] = named[expert]
    return chosen


def capacity_fill(layer: Layer, tokens: Tokens, held: Held) -> Chosen:
    """Pairs go to the nearest replica below the capacity in whole tiles, and to all in turn once they are full."""
    capacity = math.ceil(layer.capacity / layer.tile) * layer.tile
    taken: Counter[Place] = Counter()
    overflowed: Counter[int] = Counter()
    chosen: Chosen = []
    for token, home in zip(tokens, held, strict=True):
        chosen.append([])
        for expert in token:
            there = replicas(layer.slots, expert)
            roomy = [place for place in there if taken[place] < capacity]
            if roomy:
                pick = min(roomy, key=lambda place: (layer.far(home, place), place))
            else:
                pick = there[overflowed[expert] % len(there)]
                overflowed[expert] += 1
            taken[pick] += 1
            chosen[-1].append(pick)
    return chosen


def least_loaded(layer: Layer, tokens: Tokens, held: Held) -> Chosen:
    """A tile that is begun comes first, else the lightest device; one elsewhere must be lighter by over the margin."""
    margin = MARGINS[layer.tile > 1]
    taken: Counter[Place] = Counter()
    chosen: Chosen = []
    for token, home in zip(tokens, held, strict=True):
        chosen.append([])
        for expert in token:

            def rank(place: Place, home: list[int] = home) -> tuple[bool, int, bool, Place]:
                device, elsewhere = place[0], layer.far(home, place) > 0
                load = sum(math.ceil(taken[device, s] / layer.tile) for s in range(len(layer.slots[device])))
                return taken[place] % layer.tile == 0, load + margin * elsewhere, elsewhere, place

            pick = min(replicas(layer.slots, expert), key=rank)
            taken[pick] += 1
            chosen[-1].append(pick)
    return chosen


def near_source(layer: Layer, tokens: Tokens, held: Held) -> Chosen:
    """As `weights`, by shares that halve with every hop beyond the nearest replica, down to a millionth, and are those
    of replicas without a hop alone where there are any."""
    chosen: list[list[Place]] = [[] for _ in tokens]
    homes = all_holders(layer.wires)
    for source, own in enumerate(by_source(layer, held)):
        share = [[0.0] * len(device) for device in layer.slots]
        for expert in range(len(layer.load)):
            far = {place: layer.far(homes[source], place) for place in replicas(layer.slots, expert)}
            least = min(far.values())
            for (device, slot), hops_there in far.items():
                near = hops_there == 0 if least == 0 else hops_there - least <= 20
                share[device][slot] = 2.0 ** (least - hops_there) if near else 0.0
        alike, credit = replace(layer, share=share), defaultdict[Place, Fraction](Fraction)
        for _ in range(source):
            for expert in range(len(layer.load)):
                dealt(alike, expert, credit, 2**20)
        for token in own:
            chosen[token] = [dealt(alike, expert, credit, 2**20) for expert in tokens[token]]
    return chosen


def weights(layer: Layer, tokens: Tokens, held: Held) -> Chosen:
    """Each source deals out its own pairs by `dealt`; source s has dealt out s pairs of every expert before."""
    chosen: list[list[Place]] = [[] for _ in tokens]
    for source, own in enumerate(by_source(layer, held)):
        credit: dict[Place, Fraction] = defaultdict(Fraction)
        for _ in range(source):
            for expert in range(len(layer.load)):
                dealt(layer, expert, credit)
        for token in own:
            chosen[token] = [dealt(layer, expert, credit) for expert in tokens[token]]
    return chosen


def dealt(layer: Layer, expert: int, credit: dict[Place, Fraction], finest: int = 10**6) -> Place:
    """A pair gives every replica of its expert a credit of its share, and goes to the richest, which pays 1.

    On a tie the lowest replica is taken. Shares are rounded to millionths, or to other finest parts of 1. If all shares
    of an expert are zero, its replicas get equal ones.
    """
    there = replicas(layer.slots, expert)
    share = [round(layer.share[device][slot] * finest) for device, slot in there]
    share = share if any(share) else [1] * len(there)
    for place, part in zip(there, share, strict=True):
        credit[place] += Fraction(part, sum(share))
    pick = max(there, key=lambda place: (credit[place], -place[0], -place[1]))
    credit[pick] -= 1
    return pick


def even_source(layer: Layer, tokens: Tokens, held: Held) -> Chosen:
    """The tokens of each source are routed as `even` routes a batch of them alone."""
    chosen: list[list[Place]] = [[] for _ in tokens]
    for own in by_source(layer, held):
        for token, places in zip(own, even(layer, [tokens[token] for token in own], []), strict=True):
            chosen[token] = places
    return chosen


def vllm(layer: Layer, tokens: Tokens, held: Held) -> Chosen:
    """A token's row in its source, hashed in 32 bits, modulo the copies of each expert."""
    chosen: list[list[Place]] = [[] for _ in tokens]
    for own in by_source(layer, held):
        for row, token in enumerate(own):
            there = [replicas(layer.slots, expert) for expert in tokens[token]]
            chosen[token] = [places[row * 2654435769 % 2**32 % len(places)] for places in there]
    return chosen


def tensorrt_llm(layer: Layer, tokens: Tokens, held: Held) -> Chosen:
    """The pairs of a source are cut into blocks of 1,024. In block b of source r an expert's pairs take its copies in
    turn, the first of them copy b + r."""
    chosen: list[list[Place]] = [[] for _ in tokens]
    for source, own in enumerate(by_source(layer, held)):
        pairs = [(token, expert) for token in own for expert in tokens[token]]
        for first in range(0, len(pairs), 1024):
            seen: Counter[int] = Counter()
            for token, expert in pairs[first : first + 1024]:
                there = replicas(layer.slots, expert)
                chosen[token].append(there[(first // 1024 + source + seen[expert]) % len(there)])
                seen[expert] += 1
    return chosen


def vllm_ascend(layer: Layer, tokens: Tokens, held: Held) -> Chosen:
    """Source r has one copy of each expert, that of number r modulo the copies."""
    chosen: list[list[Place]] = [[] for _ in tokens]
    for source, own in enumerate(by_source(layer, held)):
        for token in own:
            there = [replicas(layer.slots, expert) for expert in tokens[token]]
            chosen[token] = [places[source % len(places)] for places in there]
    return chosen


def sglang_static(layer: Layer, tokens: Tokens, held: Held) -> Chosen:
    """Every source uses the copies of its own walk over the layers."""
    chosen: list[list[Place]] = [[] for _ in tokens]
    for source, own in enumerate(by_source(layer, held)):
        copies = static_copies(layer.wires, [*layer.layers_before, layer.slots], len(layer.load), source)
        for token in own:
            chosen[token] = [copies[expert] for expert in tokens[token]]
    return chosen


def sglang_dynamic(layer: Layer, tokens: Tokens, held: Held) -> Chosen:
    """Every pair of a source goes by its number there."""
    chosen: list[list[Place]] = [[] for _ in tokens]
    for source, own in enumerate(by_source(layer, held)):
        pairs = [(token, expert) for token in own for expert in tokens[token]]
        for pair, (token, expert) in enumerate(pairs):
            there = replicas(layer.slots, expert)
            chosen[token].append(dynamic_copy(layer.wires, there, held[token], source, pair))
    return chosen


def sglang_rows(layer: Layer, tokens: Tokens, held: Held) -> Chosen:
    """Token t of the batch goes to copy t modulo the copies of each of its experts."""
    copies = [[replicas(layer.slots, expert) for expert in token] for token in tokens]
    return [[there[row % len(there)] for there in of] for row, of in enumerate(copies)]


def by_source(layer: Layer, held: Held) -> list[list[int]]:
    """The tokens of each source, in the order in which sources are numbered; held as the oracles get it."""
    return [[token for token, home in enumerate(held) if home == own] for own in all_holders(layer.wires)]


ORACLES: dict[str, Callable[[Layer, Tokens, Held], Chosen]] = {
    "primary": primary,
    "even-ideal": even,
    "even-source": even_source,
    "near-source": near_source,
    "sglang-static": sglang_static,
    "sglang-dynamic": sglang_dynamic,
    "sglang-rows": sglang_rows,
    "vllm": vllm,
    "tensorrt-llm": tensorrt_llm,
    "vllm-ascend": vllm_ascend,
    "hash": hashed,
    "nearest": nearest,
    "table": table,
    "capacity-fill": capacity_fill,
    "least-loaded": least_loaded,
    "weights": weights,
}


@dataclass
class Limited:
    """What became of the pairs: their places (None if dropped), how many of each kind, and the gate weight lost."""

    places: list[list[Place | None]]
    moved: int = 0
    rerouted: int = 0
    dropped: int = 0
    over: int = 0
    lost: float = 0.0


@dataclass
class Overflow:
    """The state in which pairs look for room: taken pairs by place, and the experts that each token has."""

    layer: Layer
    tokens: Tokens
    held: Held
    taken: Counter[Place]
    has: list[set[int]]

    def room(self, token: int, expert: int) -> Place | None:
        """The expert's nearest replica that is not full, or None."""
        roomy = [place for place in replicas(self.layer.slots, expert) if self.taken[place] < self.layer.capacity]
        return min(roomy, key=lambda place: (self.layer.far(self.held[token], place), place), default=None)

    def settle(self, token: int, own: int, ranking: list[int]) -> tuple[int, Place] | None:
        """Take a place with the own expert, else with the first expert in the ranking that the token does not have."""
        for expert in [own, *(other for other in ranking if other not in self.has[token])]:
            place = self.room(token, expert)
            if place is not None:
                self.taken[place] += 1
                self.has[token].add(expert)
                return expert, place
        return None


def limit(
    layer: Layer,
    chosen: Chosen,
    tokens: Tokens,
    held: Held,
    routed: int,
    ranking: Callable[[int, int], list[int]],
    weight: list[list[float]],
    drop: bool,
) -> Limited:
    """What becomes of pairs beyond a replica's capacity; ranking(token, expert): experts to try, the best first."""
    overflow = Overflow(layer, tokens, held, Counter(), [set(experts) for experts in tokens])
    found = Limited([list(places) for places in chosen])
    waiting = []
    for token, places in enumerate(chosen):
        for choice, place in enumerate(places):
            if tokens[token][choice] < routed and overflow.taken[place] == layer.capacity:
                waiting.append((token, choice))
            else:
                overflow.taken[place] += 1
    for token, choice in waiting:
        own = tokens[token][choice]
        settled = overflow.settle(token, own, ranking(token, own))
        note(found, token, choice, own, settled, drop)
        if found.places[token][choice] is None or (settled is not None and settled[0] != own):
            found.lost += weight[token][choice]
    return found


def note(found: Limited, token: int, choice: int, own: int, settled: tuple[int, Place] | None, drop: bool) -> None:
    """Note in `found` what became of a pair, which settled with (expert, place) or with None."""
    if settled is not None:
        found.places[token][choice] = settled[1]
        found.moved += settled[0] == own
        found.rerouted += settled[0] != own
    elif drop:
        found.places[token][choice] = None
        found.dropped += 1
    else:
        found.over += 1


@dataclass(frozen=True)
class Beside:
    """Logarithms of the share of tokens that choose an expert, and of its ratio to chance beside another expert."""

    share: list[float]
    lift: list[list[float]]


def beside(train: Tokens, routed: int) -> Beside:
    """Counted over train tokens; 5 tokens are added to the seen and to the expected meetings of two experts."""
    total, ids = len(train), range(routed)
    count = [sum(expert in token for token in train) for expert in ids]
    both = [[sum(x in token and y in token for token in train) if x != y else 0 for y in ids] for x in ids]
    lift = [[math.log((both[x][y] + 5) / (count[x] * count[y] / total + 5)) for y in ids] for x in ids]
    return Beside([math.log((number + 0.5) / total) for number in count], lift)


def likeliest(known: Beside, experts: list[int], own: int) -> list[int]:
    """The experts that a token does not have, the likeliest beside its other experts first, by naive Bayes."""
    score = {}
    for expert in range(len(known.share)):
        if expert not in experts:
            score[expert] = known.share[expert]
            for other in experts:
                if other != own and other < len(known.share):
                    score[expert] += known.lift[other][expert]
    return sorted(score, key=lambda expert: (-score[expert], expert))


def weights_by_rank(top_k: int) -> list[float]:
    """Gate weights where none are recorded: the rank to the power of -0.7, scaled to a sum of 1."""
    by_rank = [(rank + 1) ** -0.7 for rank in range(top_k)]
    return [weight / sum(by_rank) for weight in by_rank]
