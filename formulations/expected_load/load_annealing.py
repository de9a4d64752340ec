"""Annealing of expected device loads: replicas change places, and slots change from one expert to another.

The objective is the sum over devices of the squared load above a target. It is zero where no device is above. Partners
of an exchange are drawn by their distance in the order of weights, where the logarithm of the distance is uniform.
While the temperature is high the far partners do most; at the end the near ones do, since slots drawn at random rarely
differ by little. The method is simulated annealing (Kirkpatrick, Gelatt and Vecchi, Science 220, 1983).
"""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.kernels import kernel

REFRESH = (
    4096  # steps between two sums from scratch, as differences add up rounding errors; rare enough to cost nothing
)
DISTANCES = 256  # partners of an exchange are at one of these distances; more would resolve no finer differences

FULL = -1  # in place of a least number of empty slots: slots that are filled stay so


class Layout(NamedTuple):
    """A placement under change. The last "expert" stands for an empty slot and has load 0.

    load `[expert + 1]`, any unit; slots `[slot]` expert of each flat slot; replicas `[expert + 1]`; holder
    `[expert + 1, slot]` int32 the slots of each expert, the first `replicas` valid, and seat `[slot]` each slot's place
    there; home `[slot]` device of each slot; weight `[expert + 1]` load of one replica; device `[device]` loads;
    spread `[expert + 1]` experts that every mesh row must keep a replica of: they are exchanged within a row only, so
    that the row keeps its number of replicas; cols devices of a row; depth slots of a device; least_empty: the number
    of slots that must stay empty, or FULL.
    """

    load: Floats
    slots: Ints
    replicas: Ints
    holder: Ints
    seat: Ints
    home: Ints
    weight: Floats
    device: Floats
    spread: Bools
    cols: int
    depth: int
    least_empty: int


def deal(load: Ints | Floats, counts: Ints, rows: int, cols: int, depth: int) -> Ints:
    """A placement `[device, slot]` int32, -1 = empty, with these counts `[expert]`, dealt out like cards.

    The heaviest replicas come first. Turns go from row to row, so that the replicas of one expert, whose turns follow
    each other, are on distinct devices and shared evenly by the rows. Raises ValueError where the replicas do not fit.
    """
    if counts.max(initial=0) > rows * cols or counts.sum() > rows * cols * depth:
        raise ValueError(f"{counts.sum()} replicas do not fit on {rows * cols} devices with {depth} slots each")
    order = np.argsort(-load / counts, kind="stable")
    replica = np.repeat(order, counts[order])
    turn = np.arange(len(replica))
    slots = np.full((rows * cols, depth), -1, dtype=np.int32)
    slots[turn % rows * cols + turn // rows % cols, turn // (rows * cols)] = replica
    return slots


def layout_of(load: Floats, slots: Ints, spread: Bools, cols: int, least_empty: int = 0) -> Layout:
    """A layout of slots `[device, slot]`, -1 = empty, with load and spread `[expert]`, in rows of `cols` devices.

    Spread experts must be in every row. least_empty: how many of the empty slots must stay empty, or FULL.
    """
    (devices, depth), experts = slots.shape, len(load)
    layout = Layout(
        load=np.append(load.astype(np.float64), 0.0),
        slots=np.where(slots < 0, experts, slots).astype(np.int64).ravel(),
        replicas=np.zeros(experts + 1, dtype=np.int64),
        holder=np.empty((experts + 1, slots.size), dtype=np.int32),
        seat=np.empty(slots.size, dtype=np.int64),
        home=np.arange(slots.size) // depth,
        weight=np.empty(experts + 1),
        device=np.empty(devices),
        spread=np.append(spread, False),
        cols=cols,
        depth=depth,
        least_empty=least_empty,
    )
    refresh(layout)
    return layout


def slots_of(layout: Layout) -> Ints:
    """The placement of a layout, `[device, slot]` int32, -1 = empty."""
    slots = np.where(layout.slots == len(layout.load) - 1, -1, layout.slots)
    return slots.reshape(-1, layout.depth).astype(np.int32)


@kernel
def refresh(layout: Layout) -> None:
    """Compute everything that follows from the slots from scratch: counts, holders, weights and device loads."""
    layout.replicas[:] = 0
    for slot, expert in enumerate(layout.slots):
        layout.holder[expert, layout.replicas[expert]] = slot
        layout.seat[slot] = layout.replicas[expert]
        layout.replicas[expert] += 1
    for expert in range(len(layout.replicas)):
        layout.weight[expert] = layout.load[expert] / max(layout.replicas[expert], 1)
    layout.device[:] = 0
    for slot, expert in enumerate(layout.slots):
        layout.device[layout.home[slot]] += layout.weight[expert]


@kernel
def anneal(
    layout: Layout, target: float, steps: int, hot: float, cold: float, replicas: float, rng: np.random.Generator
) -> None:
    """Anneal for `steps` steps, cooled from `hot` to `cold` (squared units of load), in place.

    replicas: the share of steps that change counts. The walk ends early where no device is above the target.
    """
    order, place = np.empty_like(layout.seat), np.empty_like(layout.seat)
    far = np.exp(np.linspace(0, np.log(len(order)), DISTANCES)).astype(np.int64)
    far = np.concatenate((far, -far))
    temperature, cooling = hot, (cold / hot) ** (1 / max(steps, 1))
    for step in range(steps):
        if step % REFRESH == 0:
            refresh(layout)
            _sort(layout, order, place)
            if layout.device.max() <= target:
                return
        temperature *= cooling
        if rng.random() < replicas:
            _give(layout, target, temperature, rng)
        else:
            _exchange(layout, order, place, far, target, temperature, rng)
    refresh(layout)


@kernel
def overload(load: float, target: float) -> float:
    """The square of the load above the target, 0 below it."""
    return (load - target) * (load - target) if load > target else 0.0


@kernel
def draw(number: int, rng: np.random.Generator) -> int:
    """A random one of 0 .. number - 1; nine times as fast as `integers` in a kernel."""
    return int(rng.random() * number)


@kernel
def _sort(layout: Layout, order: Ints, place: Ints) -> None:
    """Fill order `[slot]` with the slots by weight, and place `[slot]` with the position of each slot in that order."""
    for number, slot in enumerate(np.argsort(layout.weight[layout.slots])):
        order[number], place[slot] = slot, number


@kernel
def _accepted(change: float, temperature: float, rng: np.random.Generator) -> bool:
    """Whether annealing takes a change of the objective: always if it is no worse, else by chance (Metropolis)."""
    return change <= 0 or rng.random() < np.exp(-change / temperature)


@kernel
def fits(layout: Layout, expert: int, device: int) -> bool:
    """Whether the device does not hold the expert yet; the empty slot fits any number of times."""
    if expert == len(layout.load) - 1:
        return True
    for slot in range(device * layout.depth, (device + 1) * layout.depth):
        if layout.slots[slot] == expert:
            return False
    return True


@kernel
def _spared(layout: Layout, slot: int) -> bool:
    """Whether this slot may be taken from its expert: another replica must remain, and one in this row if it is spread.

    An empty slot may be taken as long as enough others are empty.
    """
    expert = layout.slots[slot]
    if expert == len(layout.load) - 1:
        return bool(layout.replicas[expert] > layout.least_empty)
    if not layout.spread[expert]:
        return bool(layout.replicas[expert] > 1)
    in_row, row = 0, layout.home[slot] // layout.cols
    for number in range(layout.replicas[expert]):
        in_row += layout.home[layout.holder[expert, number]] // layout.cols == row
    return in_row > 1


@kernel
def shift(layout: Layout, device: int, change: float, target: float) -> float:
    """Change the load of a device, and return how much more overload that makes."""
    before = layout.device[device]
    layout.device[device] = before + change
    return overload(before + change, target) - overload(before, target)


@kernel
def reweigh(layout: Layout, expert: int, weight: float, target: float) -> float:
    """Give the replicas of an expert another weight, and return how much more overload that makes."""
    change, more = weight - layout.weight[expert], 0.0
    layout.weight[expert] = weight
    if change != 0:
        for number in range(layout.replicas[expert]):
            more += shift(layout, layout.home[layout.holder[expert, number]], change, target)
    return more


@kernel
def _give(layout: Layout, target: float, temperature: float, rng: np.random.Generator) -> None:
    """Try to give a random slot to another random expert, or to empty it."""
    slot, taker = draw(len(layout.slots), rng), draw(len(layout.load), rng)
    giver, device = layout.slots[slot], layout.home[slot]
    if giver == taker or not _spared(layout, slot) or not fits(layout, taker, device):
        return
    if taker == len(layout.load) - 1 and layout.least_empty == FULL:
        return
    light, heavy = layout.weight[giver], layout.weight[taker]
    more = reweigh(layout, giver, layout.load[giver] / max(layout.replicas[giver] - 1, 1), target)
    more += reweigh(layout, taker, layout.load[taker] / (layout.replicas[taker] + 1), target)
    change = layout.weight[taker] - layout.weight[giver]
    more += shift(layout, device, change, target)
    if _accepted(more, temperature, rng):
        _hand_over(layout, slot, taker)
    else:
        shift(layout, device, -change, target)
        reweigh(layout, taker, heavy, target)
        reweigh(layout, giver, light, target)


@kernel
def _hand_over(layout: Layout, slot: int, taker: int) -> None:
    """Note in slots, counts and holders that a slot now holds another expert; weights are the caller's matter."""
    giver = layout.slots[slot]
    layout.replicas[giver] -= 1
    last = layout.holder[giver, layout.replicas[giver]]
    layout.holder[giver, layout.seat[slot]] = last
    layout.seat[last] = layout.seat[slot]
    layout.holder[taker, layout.replicas[taker]] = slot
    layout.seat[slot] = layout.replicas[taker]
    layout.replicas[taker] += 1
    layout.slots[slot] = taker


@kernel
def _exchange(
    layout: Layout, order: Ints, place: Ints, far: Ints, target: float, temperature: float, rng: np.random.Generator
) -> None:
    """Try to exchange the experts of a random slot and of one at a random distance in the order of weights."""
    one = draw(len(order), rng)
    number = place[one] + far[draw(len(far), rng)]
    if number < 0 or number >= len(order):
        return
    two = order[number]
    a, b = layout.home[one], layout.home[two]
    p, q = layout.slots[one], layout.slots[two]
    if a == b or p == q or ((layout.spread[p] or layout.spread[q]) and a // layout.cols != b // layout.cols):
        return
    change, before_a, before_b = layout.weight[q] - layout.weight[p], layout.device[a], layout.device[b]
    more = overload(before_a + change, target) - overload(before_a, target)
    more += overload(before_b - change, target) - overload(before_b, target)
    if not _accepted(more, temperature, rng) or not fits(layout, q, a) or not fits(layout, p, b):
        return
    layout.device[a], layout.device[b] = before_a + change, before_b - change
    layout.slots[one], layout.slots[two] = q, p
    layout.holder[p, layout.seat[one]], layout.holder[q, layout.seat[two]] = two, one
    layout.seat[one], layout.seat[two] = layout.seat[two], layout.seat[one]
    place[one], place[two] = number, place[one]
    order[place[one]], order[place[two]] = one, two
