"""Expected loads of rings and the search for latency: increments equal a fresh state, loads those of every path."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import random_batches, random_placement, small_problem
from reference_traffic import Load, Wires, all_holders, carry, hops, link_order

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.domain.presets import load_hardware
from optimizer.domain.problem import Problem
from optimizer.planning.candidates import FINALISTS, SearchShare, shorten
from optimizer.planning.options import SolveOptions
from optimizer.search.latency import LatencyAnnealer, LatencySchedule, LatencyWork, _work, anneal_latency, prices_of
from optimizer.search.moves import MoveRules, is_legal
from optimizer.search.ring_moves import apply, communication, delta, forget, touched_for
from optimizer.search.ring_state import ALONE, BACK, OUT, RingDemand, RingState, busiest
from optimizer.search.seeds.orders import random_permutation
from optimizer.search.side_by_side import Team
from optimizer.search.stop import Deadline, SearchBudget
from optimizer.traces.batches import Batches

WEIGHT = np.array([1.0, 0.7, 0.4])
HOME = "tt-wormhole-quad-galaxy"


def everywhere(tokens: Ints, rows: int) -> Batches:
    """One batch in which every row has all these tokens `[token, k]`, so that sources are alike."""
    source = np.repeat(np.arange(rows, dtype=np.int32), len(tokens))
    return Batches(np.tile(tokens, (rows, 1))[None].astype(np.uint16), source[None])


def served(wires: Wires, slots: list[list[int]], home: int, expert: int) -> int:
    """The device with the fewest hops; where two are as far, the one that comes first on the way downwards."""
    held = all_holders(wires)[home]
    found = [device for device, there in enumerate(slots) if expert in there]
    up = {device: (device // wires.cols - home) % wires.rows for device in found}
    return min(found, key=lambda device: (hops(wires, held, device), 2 * up[device] < wires.rows, device))


def walked(wires: Wires, placement: Placement, batches: Batches) -> tuple[Load, Load, Load]:
    """What each link carries out and back, and of that for experts with one replica, by walking every message."""
    slots, holders = placement.slots.tolist(), all_holders(wires)
    rows = batches.source_row[0].tolist()
    tokens = [list(map(int, token)) for token in batches.experts[0]]
    single = {e for e in range(int(placement.slots.max()) + 1) if sum(e in there for there in slots) == 1}
    held = [holders[row] for row in rows]
    pairs = list(zip(rows, tokens, strict=True))
    every = [[served(wires, slots, row, e) for e in token] for row, token in pairs]
    alone = [[served(wires, slots, row, e) for e in token if e in single] for row, token in pairs]
    told = carry(wires, held, every, False, False)
    return told.out, told.back, carry(wires, held, alone, False, True).back


def as_array(wires: Wires, load: Load) -> Floats:
    """The loads of all links in the order of `link_order`."""
    return np.array([float(load.get(link, Fraction(0))) for link in link_order(wires)])


@given(st.integers(0, 10**6), st.sampled_from([(4, 3), (5, 2), (2, 2), (6, 3), (1, 3), (3, 1)]))
def test_loads_are_those_of_every_message_where_a_token_has_two_experts(seed: int, shape: tuple[int, int]) -> None:
    """Pairs then say all about how experts depend on each other, but for triples that no token has."""
    rng, (rows, cols) = np.random.default_rng(seed), shape
    wires, mesh = Wires(rows, cols), Mesh(rows, cols, 1)
    experts = int(rng.integers(2, min(2 * cols, mesh.slots) + 1)) if mesh.slots > 1 else 1
    slots = np.full((rows, cols), -1, dtype=np.int32)
    for place in rng.permutation(min(2 * cols, rows * cols))[:experts].tolist():
        in_column = rng.permutation(np.flatnonzero(slots[:, place % cols] < 0))
        slots[in_column[0], place % cols] = (slots >= 0).sum()
    placement = Placement(slots.reshape(-1, 1))
    tokens = np.array([rng.permutation(experts)[:2] for _ in range(30)])
    batches = everywhere(tokens, rows)
    rings = RingState.of(placement, RingDemand.of(batches, Network(mesh), experts), cols)
    for kind, load in zip((OUT, BACK, ALONE), walked(wires, placement, batches), strict=True):
        assert rings.load[kind].ravel() == pytest.approx(as_array(wires, load), abs=1e-3)


def test_loads_are_nearly_those_of_every_message_on_a_layer() -> None:
    rng, model, mesh, wires = np.random.default_rng(5), Model("m", 24, 0, 4), Mesh(6, 2, 3), Wires(6, 2)
    placement = random_placement(rng, 24, mesh)
    batches = everywhere(random_batches(rng, 1, 60, model, 1).experts[0], 6)
    rings = RingState.of(placement, RingDemand.of(batches, Network(mesh), 24), 2)
    for kind, load in zip((OUT, BACK, ALONE), walked(wires, placement, batches), strict=True):
        told = as_array(wires, load)
        assert rings.load[kind].ravel() == pytest.approx(told, abs=0.1 * told.max())
        assert rings.load[kind].sum() == pytest.approx(told.sum(), rel=0.02)


@settings(max_examples=15)
@given(
    st.integers(0, 10**6),
    st.sampled_from([None, "auto", 1, 3]),
    st.sampled_from([None, 2]),
    st.sampled_from([(3, 2, 3, 9), (1, 6, 2, 5), (2, 5, 4, 9), (6, 2, 2, 9)]),
)
def test_every_step_of_a_walk_is_exact_and_valid(
    seed: int, replicas: int | str | None, extra: int | None, shape: tuple[int, int, int, int]
) -> None:
    rows, cols, slots, routed = shape
    problem, sets = small_problem(
        seed, rows=rows, cols=cols, slots=slots, routed=routed, replicas=replicas, extra=extra
    )
    rng, demand = np.random.default_rng(seed), RingDemand.of(sets.train, Network(problem.mesh), problem.model.experts)
    start = random_permutation(problem, rng).slots.copy()
    spare = [i for i, e in enumerate(start.ravel()) if (start == e).sum() > 1 and not problem.spread[e]][:1]
    start.ravel()[spare] = -1  # an empty slot, so that moves meet one
    current = RingState.of(Placement(start), demand, cols)
    trial, touched, size, made, rules = current.copy(), touched_for(current), start.size, 0, MoveRules.of(problem)
    for move in rng.integers(size * (size + problem.model.experts), size=20_000):
        if not is_legal(move, current.slots, current.copies, rules):
            continue
        before = current.copy()
        told = delta(move, current, trial, touched, WEIGHT)
        assert same(before, current)
        fresh = RingState.of(trial.placement(), demand, cols)
        assert told == pytest.approx(communication(fresh, WEIGHT), abs=1e-9)
        if made % 2:
            apply(current, trial, touched)
            assert (current.nearest == fresh.nearest).all()
            assert (current.copies == fresh.copies).all()
            for found, expected in zip(current[4:7], fresh[4:7], strict=True):
                assert found == pytest.approx(expected, abs=1e-9)
            assert problem.violations(current.placement()) == []
        else:
            forget(current, trial, touched)
        assert same(current, trial)
        made += 1
        if made == 200:
            break
    assert made == 200


def same(one: RingState, other: RingState) -> bool:
    """Whether two states agree in everything that a placement decides."""
    valid = [[sorted(held[:many]) for held, many in zip(of.held, of.copies, strict=True)] for of in (one, other)]
    pairs = [(one[i], other[i]) for i in (0, 1, 3, 4, 5, 6)]
    return valid[0] == valid[1] and all(np.array_equal(here, there) for here, there in pairs)


def test_the_busiest_link_is_between_the_most_and_what_chance_adds() -> None:
    even = np.full((2, 2, 8), 30.0)
    assert busiest(even) == pytest.approx(30)
    one = even.copy()
    one[1, 0, 3] = 60.0
    assert 50 < busiest(one) < 60
    assert busiest(np.zeros((2, 2, 4))) == 0


def annealer(problem: Problem, demand: RingDemand, cost: Cost) -> LatencyAnnealer:
    """An annealer of latency at a random placement."""
    prices, rng = prices_of(cost, Network(problem.mesh)), np.random.default_rng(0)
    start = random_permutation(problem, np.random.default_rng(1))
    work = LatencyWork(problem.cost.tiles(problem.load), demand, prices)
    return LatencyAnnealer(start, work, MoveRules.of(problem), LatencySchedule(), rng)


def layer() -> tuple[Problem, RingDemand, Cost]:
    """A small problem on column rings, the demand of its train batches and the prices of the home hardware."""
    problem, sets = small_problem(6, rows=6, cols=3, routed=30, slots=3, tokens=200)
    return problem, RingDemand.of(sets.train, Network(problem.mesh), 31), Cost(HOME, load_hardware(HOME))


def test_cold_only_gets_better_and_stays_feasible() -> None:
    problem, demand, cost = layer()
    one = annealer(problem, demand, cost)
    first = before = one.objective()
    for _ in range(20):
        one.run(200, 0.0)
        assert one.objective() <= before + 1e-9
        assert problem.violations(one.placement()) == []
        before = one.objective()
    assert before < first - 5
    needed = problem.cost.tiles(problem.load).max(axis=0)
    counts = [one.placement().counts(31), annealer(problem, demand, cost).placement().counts(31)]
    assert (counts[0] >= np.minimum(counts[1], needed)).all()


@pytest.mark.parametrize(
    ("peak", "tiles"),
    [(0.5, 1.0), (1.2, 2.0), (1.8, 2 + 4 / 15), (2.0, 2 + 2 / 3), (2.1, 2 + 13 / 15)],
)
def test_work_is_whole_tiles_and_more_where_the_next_is_near(peak: float, tiles: float) -> None:
    """What is less than an eighth above a whole tile is taken for rounding; other batches may well need the next."""
    held = np.array([[round(peak * 960), 480]], dtype=np.int32)
    assert _work(held, 960) == pytest.approx(tiles + 1, abs=0.01)


def spell(iterations: int) -> SearchShare:
    """One thread, the seed 0 and this many iterations for a search."""
    return SearchShare(SearchBudget(Deadline(600), 600, iterations), 0, 1, lambda stage, share: None)


def test_a_search_that_finds_nothing_better_early_is_left() -> None:
    problem, demand, cost = layer()
    start, prices = random_permutation(problem, np.random.default_rng(1)), prices_of(cost, Network(problem.mesh))
    asked: list[Placement] = []

    def shortened(answer: bool) -> list[Placement]:
        """What the search finds when every placement that it asks about is said to be better, or none."""

        def better(found: Placement) -> bool:
            """Note the placement that is asked about, and answer."""
            asked.append(found)
            return answer

        return shorten(problem, start, demand, prices, spell(4000), better, SolveOptions())

    assert shortened(answer=False) == []
    found = shortened(answer=True)
    assert len(asked) == 2
    assert (asked[0].slots == asked[1].slots).all()
    assert len(found) == FINALISTS
    worth = [communication(RingState.of(of, demand, 3), prices.message) for of in (found[0], start)]
    assert worth[0] < worth[1]


def ends(seed: int) -> list[list[list[int]]]:
    """The slots of all placements that the search yields with this seed."""
    problem, demand, cost = layer()
    start, tiles = random_permutation(problem, np.random.default_rng(1)), problem.cost.tiles(problem.load)
    budget, rng = SearchBudget(Deadline(600), 600, 4000), np.random.default_rng(seed)
    prices = prices_of(cost, Network(problem.mesh))
    work, team = LatencyWork(tiles, demand, prices), Team(2, 2)
    found = anneal_latency(start, work, MoveRules.of(problem), budget, rng, team=team)
    return [placement.slots.tolist() for placement in found]


def test_the_seed_decides() -> None:
    here = ends(1)
    assert len(here) > 2
    assert here == ends(1)
    assert here != ends(2)
