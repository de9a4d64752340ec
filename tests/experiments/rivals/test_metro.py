"""METRO serves each expert at one replica, with as few activated experts on the fullest device as is possible."""

from collections import Counter
from itertools import product

from hypothesis import given
from random_layers import WIRINGS, Case, case, cases
from random_problems import small_problem

from formulations.kit.arrays import Ints
from optimizer.experiments.rivals.metro import METRO, MetroSimulation, metro
from optimizer.search.seeds.greedy import greedy
from optimizer.simulation.conditions import Conditions

RINGS = WIRINGS[0]
Replica = tuple[int, int]  # expert, device


def routed_by_metro(drawn: Case) -> Ints:
    """The flat slot that METRO chooses for each pair of the case, `[batch, token, k]`."""
    context = drawn.context(RINGS, 1, 1)
    return metro(drawn.batches.experts, drawn.batches.source_row, context, drawn.model.routed_experts)


def activated(drawn: Case, chosen: Ints, batch: int) -> set[Replica]:
    """The experts that are activated in a batch, each with its device."""
    devices = chosen[batch] // drawn.mesh.slots_per_device
    experts = drawn.batches.experts[batch]
    return set(zip(experts.ravel().tolist(), devices.ravel().tolist(), strict=True))


def least_activated(drawn: Case, shared: set[Replica], experts: set[int]) -> int:
    """The fewest activated experts on the fullest device for any choice of one replica for each expert, by brute
    force."""
    held = [
        [device for device, slots in enumerate(drawn.placement.slots.tolist()) if expert in slots]
        for expert in sorted(experts)
    ]
    before = [device for _, device in shared]
    return min(max(Counter([*before, *chosen]).values()) for chosen in product(*held))


@given(cases(shared=1, replicas=2))
def test_the_fullest_device_has_as_few_activated_experts_as_can_be(drawn: Case) -> None:
    chosen, routed = routed_by_metro(drawn), drawn.model.routed_experts
    for batch in range(2):
        found = activated(drawn, chosen, batch)
        used = {expert for expert, _ in found if expert < routed}
        if 2 ** len(used) > 2000:
            continue
        nearest = drawn.context(RINGS, 1, 1).nearest_slot[:, routed:].ravel() // drawn.mesh.slots_per_device
        shared = {(routed, int(device)) for device in nearest}
        fullest = max(Counter(device for _, device in found | shared).values())
        assert fullest == least_activated(drawn, shared, used)


@given(cases())
def test_every_pair_goes_to_a_replica_of_its_expert_and_all_of_an_expert_to_the_same(drawn: Case) -> None:
    chosen = routed_by_metro(drawn)
    assert (drawn.placement.slots.ravel()[chosen] == drawn.batches.experts).all()
    for batch in range(2):
        routed = [pair for pair in activated(drawn, chosen, batch) if pair[0] < drawn.model.routed_experts]
        assert len(routed) == len({expert for expert, _ in routed})


def test_shared_experts_are_served_nearby() -> None:
    drawn = case(5, (4, 3), 3, shared=1)
    chosen, nearest = routed_by_metro(drawn), drawn.context(RINGS, 1, 1).nearest_slot
    shared = drawn.batches.experts == drawn.model.routed_experts
    rows = drawn.batches.source_row[..., None].repeat(chosen.shape[2], axis=2)
    assert (chosen[shared] == nearest[rows[shared], drawn.model.routed_experts]).all()


def test_the_simulator_judges_it_and_names_it() -> None:
    problem, sets = small_problem(3)
    simulation = MetroSimulation(greedy(problem), problem.model, problem.mesh, problem.cost, Conditions(METRO))
    simulation.feed(sets.test)
    report = simulation.report()
    assert report.routing == METRO
    assert (report.device_load.sum(axis=1) == 70 * 4).all()
