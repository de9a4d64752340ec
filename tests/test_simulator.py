"""The simulator against the token-by-token oracle, and what must hold of every run."""

import numpy as np
import pytest
import reference
from builders import cost, random_batches, random_placement
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer import simulator
from optimizer.mesh import Mesh
from optimizer.model import Model
from optimizer.placement import Placement
from optimizer.routing.policies import POLICIES
from optimizer.simulator import simulate
from optimizer.statistics import FIVE
from optimizer.traces.batches import Batches


@settings(max_examples=150)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(1, 1), (1, 4), (2, 2), (3, 2), (4, 1), (4, 3), (5, 2), (8, 1)]),
    st.integers(1, 3),
    st.integers(0, 2),
    st.sampled_from(sorted(POLICIES)),
    st.booleans(),
)
def test_simulator_equals_the_oracle(
    seed: int, shape: tuple[int, int], depth: int, shared: int, policy: str, per_expert: bool
) -> None:
    rng = np.random.default_rng(seed)
    mesh = Mesh(*shape, depth)
    routed = int(rng.integers(1, max(mesh.slots - shared, 1) + 1))
    model = Model("drawn", routed, shared, int(rng.integers(1, min(routed, 4) + 1)))
    if model.experts > mesh.slots:
        return
    batches = random_batches(rng, 2, int(rng.integers(1, 90)), model, mesh.rows)
    placement = random_placement(rng, model.experts, mesh)
    report = simulate(placement, batches, model.experts, mesh, cost(per_expert), policy)
    for batch in range(2):
        expected = reference.simulate_batch(
            placement.slots.tolist(),
            batches.experts[batch].tolist(),
            batches.source_row[batch].tolist(),
            *shape,
            policy,
            per_expert,
        )
        for name, value in expected.items():
            assert getattr(report, name)[batch].tolist() == pytest.approx(value), name


def home_report(policy: str, chunk_pairs: int | None = None) -> simulator.SimulationReport:
    rng = np.random.default_rng(3)
    model, mesh = Model("m", 40, 1, 6), Mesh(4, 4, 3)
    batches = random_batches(rng, 5, 64, model, mesh.rows)
    return simulate(random_placement(rng, 41, mesh), batches, 41, mesh, cost(), policy)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_pair_is_served_once(policy: str) -> None:
    assert home_report(policy).device_load.sum(axis=1).tolist() == [64 * 7] * 5


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = home_report("even")
    monkeypatch.setattr(simulator, "CHUNK_PAIRS", 64 * 7 * 2)
    parts = home_report("even")
    assert (whole.latency_us == parts.latency_us).all()
    assert (whole.device_load == parts.device_load).all()


def test_even_splits_to_within_one_token() -> None:
    batches = Batches(np.zeros((1, 11, 1), dtype=int), np.zeros((1, 11), dtype=int))
    placement = Placement(np.array([[0], [0], [0]]))
    report = simulate(placement, batches, 1, Mesh(3, 1, 1), cost(), "even")
    assert report.device_load.tolist() == [[4, 4, 3]]


def test_a_replica_in_the_own_row_costs_no_hop_and_the_antipode_splits() -> None:
    placement = Placement(np.array([[0], [1], [2], [3]]))
    token = Batches(np.array([[[0, 2]]]), np.zeros((1, 1), dtype=int))
    report = simulate(placement, token, 4, Mesh(4, 1, 1), cost(), "even")
    assert report.hops.tolist() == [2.0]
    assert report.dispatch_us[0] == pytest.approx(20.7 + 0.5 * 14336 / 27900)


def test_an_invalid_placement_is_refused() -> None:
    batches = Batches(np.zeros((1, 1, 1), dtype=int), np.zeros((1, 1), dtype=int))
    with pytest.raises(ValueError, match="expert 0 twice on device 0"):
        simulate(Placement(np.array([[0, 0]])), batches, 1, Mesh(1, 1, 2), cost(), "even")


def test_summary_has_five_statistics_of_seven_figures() -> None:
    summary = home_report("even").summary()
    assert (summary["batches"], summary["tokens"], summary["routing"]) == (5, 64, "even")
    for name in ("latency_us", "dispatch_us", "compute_us", "combine_us", "imbalance", "tiles", "hops"):
        figures = summary[name]
        assert isinstance(figures, dict)
        assert tuple(figures) == FIVE
        assert figures["p50"] <= figures["p95"] <= figures["p99"] <= figures["max"]
