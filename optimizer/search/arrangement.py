"""Where on the mesh each device's set of experts goes: fewer hops and evenly used links, at the same compute.

Which experts share a device decides the time of compute, where the device is does not. So whole devices change places
(exchanges of whole rows were tried and gained nothing). Routing is taken as *nearest*: a source's tokens go to the
replicas with the fewest hops, in equal parts where several have them, as the policies do that look at distance first.
Expected loads of links come from the paths of results, one message per token and expert. What is least at the end is
the sum of their squares, the energy: it falls both with fewer hops and with more even loads. The search is simulated
annealing (Kirkpatrick, Gelatt and Vecchi, Science 220, 1983).

All loads are whole numbers, with parts rounded down, so that no error builds up: thousandths of tokens per batch times
how long each keeps a link busy.
"""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Bools, Ints
from formulations.kit.copying import copy
from formulations.kit.kernels import kernel
from optimizer.domain.link_paths import LinkPaths
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.search.stop import SearchBudget
from optimizer.traces.batches import Batches

SCALE = 1000  # parts of a token, so that loads are whole numbers and rounding does not matter
ACCEPTED_FIRST, ACCEPTED_LAST = 0.1, 1e-20  # probability of accepting a usual loss, at first and at last; a compromise:
# hotter spends moves on chance, and at the end only what improves is made
SAMPLES = 200  # exchanges that tell the usual loss, which temperatures need only roughly
MOVES = 60_000  # .26 s on the 16 x 8 mesh; seven times as many gain .1 % of the root of the energy
CHUNK = 2_000  # moves at one temperature, and between looks at the clock: about .01 s at 128 devices
WORK = (
    1_000  # sources times replicas that a move looks at, up to which so many are made; at 2,048 devices they are some
)
# 12,000 and a move takes milliseconds, so that fewer are made in proportion
NOBODY = (-1, -1)  # stands for no pair of devices that change places


class ArrangementState(NamedTuple):
    """A placement with what it is expected to put on links.

    slots `[device, slot]`; held `[expert, replica]` the devices of each expert, of which the first replicas `[expert]`
    are valid; load `[link]`; demand `[source, expert]`. All int64; slots, held and load change with the moves.
    """

    slots: Ints
    held: Ints
    replicas: Ints
    load: Ints
    demand: Ints

    @classmethod
    def of(cls, placement: Placement, demand: Ints, link_paths: LinkPaths) -> "ArrangementState":
        """The state of a valid placement; demand `[source, expert]` as from `demand_of`."""
        slots, experts = placement.slots.astype(np.int64), demand.shape[1]
        count = placement.counts(experts).astype(np.int64)
        held = np.full((experts, int(count.max())), -1, dtype=np.int64)
        for expert in range(experts):
            held[expert, : count[expert]] = np.flatnonzero((slots == expert).any(axis=1))
        state = cls(slots, held, count, np.zeros(link_paths.links, dtype=np.int64), demand)
        for expert in range(experts):
            _carry(expert, 1, NOBODY, state, link_paths, state.load)
        return state


def demand_of(batches: Batches, network: Network, experts: int) -> Ints:
    """Tokens of each source that choose each expert, thousandths per batch, `[source, expert]`."""
    source = batches.source_on(network)[:, :, None]
    pair = (source * experts + batches.experts).ravel()
    count = np.bincount(pair, minlength=network.sources * experts).reshape(network.sources, experts)
    demand: Ints = np.rint(count * (SCALE / batches.count)).astype(np.int64)
    return demand


def arrange(
    placement: Placement,
    demand: Ints,
    link_paths: LinkPaths,
    spread: Bools,
    cols: int,
    budget: SearchBudget,
    rng: np.random.Generator,
) -> Placement:
    """The placement with its devices rearranged, so that nearest routing loads links little and evenly.

    demand `[source, expert]` as from `demand_of`; spread `[expert]`: experts whose number of replicas in each row
    stays as it is; cols: devices of a mesh row. The same random generator gives the same answer, unless the budget's
    time is too short for all moves: then temperatures fall with the time.
    """
    state, kind = ArrangementState.of(placement, demand, link_paths), _kinds(placement, spread)
    if len(placement.slots) < 2 or not state.load.any():
        return placement
    trial, best, least = state.load.copy(), state.slots.copy(), energy(state.load)
    usual = _usual_loss(state, link_paths, trial, rng)
    first, last = -usual / np.log(ACCEPTED_FIRST), -usual / np.log(ACCEPTED_LAST)
    done, timed, chunk = 0, budget.iterations is None, _chunk(state)
    while done < MOVES and (granted := min(budget.grant(chunk), MOVES - done)):
        share = max(done / MOVES, budget.share() if timed else 0.0)  # large meshes do not come to make all moves
        heat = first * (last / first) ** share
        least = _anneal(state, link_paths, kind, cols, granted, heat, rng, trial, best, least)
        budget.spend(granted)
        done += granted
    return Placement(best.astype(np.int32))


def _chunk(state: ArrangementState) -> int:
    """Moves between looks at the clock, from what a move of two usual devices looks at."""
    looked_at = int((state.replicas**2).sum()) // len(state.slots) * len(state.demand)
    return max(1, min(CHUNK, CHUNK * WORK // max(looked_at, 1)))


def _kinds(placement: Placement, spread: Bools) -> Ints:
    """A number for each set of spread experts, `[device]`; devices of one number may change places between rows."""
    held = np.zeros((len(placement.slots), len(spread) + 1), dtype=np.bool_)
    held[np.arange(len(held))[:, None], placement.slots] = True  # -1, an empty slot, marks the last column
    kind: Ints = np.unique(held[:, :-1] & spread, axis=0, return_inverse=True)[1].reshape(-1)
    return kind


@kernel
def energy(load: Ints) -> int:
    """The sum of the squared loads of links, which is to be least."""
    return int((load * load).sum())


@kernel
def delta(pair: tuple[int, int], state: ArrangementState, link_paths: LinkPaths, trial: Ints) -> int:
    """The change of the energy by an exchange of two devices; the load after it is left in trial `[link]`."""
    copy(state.load, trial)
    for device in pair:
        for expert in state.slots[device]:
            if expert >= 0 and (device == pair[0] or not _holds(pair[0], expert, state.slots)):
                _carry(expert, -1, NOBODY, state, link_paths, trial)
                _carry(expert, 1, pair, state, link_paths, trial)
    return energy(trial) - energy(state.load)


@kernel
def apply(pair: tuple[int, int], state: ArrangementState, trial: Ints) -> None:
    """Make the exchange of which `delta` was just taken."""
    copy(trial, state.load)
    for device in pair:
        for expert in state.slots[device]:
            if expert >= 0 and (device == pair[0] or not _holds(pair[0], expert, state.slots)):
                for place in range(state.replicas[expert]):
                    state.held[expert, place] = _seat(state.held[expert, place], pair)
    for slot in range(state.slots.shape[1]):
        one, two = state.slots[pair[0], slot], state.slots[pair[1], slot]
        state.slots[pair[0], slot], state.slots[pair[1], slot] = two, one


@kernel
def _holds(device: int, expert: int, slots: Ints) -> bool:
    """Whether a device holds a replica of this expert."""
    for other in slots[device]:
        if other == expert:
            return True
    return False


@kernel
def _seat(device: int, pair: tuple[int, int]) -> int:
    """Where a device is once this pair has changed places."""
    if device == pair[0]:
        return pair[1]
    return pair[0] if device == pair[1] else device


@kernel
def _carry(
    expert: int, sign: int, pair: tuple[int, int], state: ArrangementState, link_paths: LinkPaths, load: Ints
) -> None:
    """Add what an expert's tokens put on links (sign 1) or take it away (sign -1), as if a pair of devices had changed
    places."""
    devices = len(state.slots)
    for source in range(len(state.demand)):
        tokens = state.demand[source, expert]
        if tokens == 0:
            continue
        nearest, ties = 1 << 30, 0
        for place in range(state.replicas[expert]):
            hops = link_paths.distance[source, _seat(state.held[expert, place], pair)]
            if hops < nearest:
                nearest, ties = hops, 1
            elif hops == nearest:
                ties += 1
        if nearest == 0:
            continue
        part = sign * (tokens // ties)
        for place in range(state.replicas[expert]):
            device = _seat(state.held[expert, place], pair)
            if link_paths.distance[source, device] == nearest:
                path = source * devices + device
                for entry in range(link_paths.start[path], link_paths.start[path + 1]):
                    load[link_paths.link[entry]] += part * link_paths.work[entry]


def _usual_loss(state: ArrangementState, link_paths: LinkPaths, trial: Ints, rng: np.random.Generator) -> float:
    """The mean increase of the energy by random exchanges, of those that increase it."""
    pairs = np.array([rng.choice(len(state.slots), 2, replace=False) for _ in range(SAMPLES)])
    changes = _changes(pairs, state, link_paths, trial)
    return float(changes[changes > 0].mean()) if (changes > 0).any() else 1.0


@kernel
def _changes(pairs: Ints, state: ArrangementState, link_paths: LinkPaths, trial: Ints) -> Ints:
    """What exchanges of these pairs of devices, `[exchange, 2]`, would change of the energy, `[exchange]`."""
    changes = np.empty(len(pairs), dtype=np.int64)
    for number in range(len(pairs)):
        changes[number] = delta((pairs[number, 0], pairs[number, 1]), state, link_paths, trial)
    return changes


@kernel
def _anneal(
    state: ArrangementState, link_paths: LinkPaths, kind: Ints, cols: int, moves: int, heat: float,
    rng: np.random.Generator, trial: Ints, best: Ints, least: int,
) -> int:  # fmt: skip
    """Try this many exchanges at one temperature; the best slots are kept in `best`, and their energy is returned."""
    devices, now = len(kind), energy(state.load)
    for _ in range(moves):
        one, two = int(rng.integers(0, devices)), int(rng.integers(0, devices))
        pair = (one, two)
        if one == two or (one // cols != two // cols and kind[one] != kind[two]):
            continue
        change = delta(pair, state, link_paths, trial)
        if change > 0 and rng.random() >= np.exp(-change / heat):
            continue
        apply(pair, state, trial)
        kind[one], kind[two] = kind[two], kind[one]
        now += change
        if now < least:
            least = now
            for device in range(devices):
                copy(state.slots[device], best[device])
    return least
