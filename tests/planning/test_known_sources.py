"""Where batches say on which device each token lives, nothing deals their tokens out to devices anew."""

from dataclasses import replace

import numpy as np
import pytest
from random_layers import Case, Links, TokensAt, case, wired
from random_problems import random_batches

from optimizer.domain.network import Network
from optimizer.domain.problem import make_problem
from optimizer.errors import InputError
from optimizer.planning.bounds import bound_any
from optimizer.planning.learning import source_loads
from optimizer.planning.replica_curves import _thinned
from optimizer.search.arrangement import demand_of
from optimizer.search.ring_state import RingDemand
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import simulate
from optimizer.traces.batches import Batches
from optimizer.traces.source import BatchSource

WIRING: tuple[TokensAt, Links] = ("device", "nodes")


def drawn(seed: int) -> tuple[Case, Network]:
    """A case of six batches on two nodes of three devices, whose ranks have tokens of their own."""
    found, rng = case(seed, (2, 3), 2, replicas=3), np.random.default_rng(seed)
    network = Network.of(found.mesh, wired(WIRING).preset.network)
    return replace(found, batches=random_batches(rng, 6, 20, found.model, 2)), network


def shuffled(batches: Batches, network: Network, seed: int) -> Batches:
    """The same tokens on the same devices, in another order within each batch, with their devices named."""
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(batches.tokens), (batches.count, 1)), axis=1)
    source = network.source(batches.source_row)
    rows, ranks = (np.take_along_axis(of, order, axis=1) for of in (batches.source_row, source))
    return Batches(np.take_along_axis(batches.experts, order[..., None], axis=1), rows, source=ranks)


@pytest.mark.parametrize("seed", range(12))
def test_the_order_of_tokens_is_nothing_where_their_devices_are_known(seed: int) -> None:
    """Simulated times and traffic, what searches and tables know of demand, and bounds are those of the first order.
    Without the names, the tokens of a row would be dealt out to other devices."""
    found, network = drawn(seed)
    other, cost = shuffled(found.batches, network, seed), wired(WIRING)
    arguments = found.model, found.mesh, cost, Conditions("nearest", "tokens"), found.learned
    one, two = (simulate(found.placement, each, *arguments) for each in (found.batches, other))
    assert one.latency_us.tolist() == two.latency_us.tolist()
    assert (one.out.tolist(), one.back.tolist()) == (two.out.tolist(), two.back.tolist())
    experts = found.model.experts
    assert (demand_of(found.batches, network, experts) == demand_of(other, network, experts)).all()
    assert (
        RingDemand.of(found.batches, network, experts).tokens.tolist()
        == RingDemand.of(other, network, experts).tokens.tolist()
    )
    problem = make_problem(found.model, found.mesh, cost, found.batches.load(experts))
    taught, again = source_loads(problem, found.batches), source_loads(problem, other)
    assert [each.tolist() for each in taught[:3]] == [each.tolist() for each in again[:3]]
    assert bound_any(found.batches, found.model, found.mesh, cost) == bound_any(other, found.model, found.mesh, cost)


def test_dealing_out_by_the_order_would_be_seen() -> None:
    """The test above can fail: with the names taken away, demand by source is another one."""
    found, network = drawn(3)
    other = shuffled(found.batches, network, 3)
    unnamed = Batches(other.experts, other.source_row)
    assert (demand_of(unnamed, network, found.model.experts) != demand_of(other, network, found.model.experts)).any()


def test_known_sources_are_kept_and_are_part_of_what_a_plan_was_made_from() -> None:
    found, network = drawn(5)
    known = replace(found.batches, source=network.source(found.batches.source_row))
    kept = _thinned(known)
    assert kept.source is not None
    assert known.source is not None
    assert kept.source.tolist() == known.source.tolist()
    prints = [BatchSource(found.model, each, "batches").fingerprint(0) for each in (found.batches, known)]
    assert prints[0] != prints[1]


def test_a_simulation_refuses_devices_that_are_not_in_the_row_of_their_tokens() -> None:
    found, network = drawn(4)
    wrong = replace(found.batches, source=(network.source(found.batches.source_row) + 3) % 6)
    with pytest.raises(InputError, match="is not in its source_row"):
        simulate(found.placement, wrong, found.model, found.mesh, wired(WIRING), Conditions("nearest"), found.learned)
