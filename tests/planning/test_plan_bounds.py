"""The bounds of a layer against the simulator: nothing that is run goes below them."""

import dataclasses

import numpy as np
import pytest
from random_layers import WIRINGS, case, wired
from random_problems import cost, random_batches, random_placement

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.planning.bounds import (
    COMBINE,
    COPIES,
    DISPATCH,
    HOPS,
    IMBALANCE,
    LATENCY,
    TILES,
    TIME,
    Bound,
    Gap,
    bound_any,
    bound_compute,
    bound_given,
    bound_steps,
    gaps,
    reached_by,
)
from optimizer.planning.plan_expected_load import expected_imbalance
from optimizer.routing.policies import POLICIES
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.report import SimulationReport
from optimizer.simulation.simulator import simulate

SMALL = 1 + 1e-9


def figures(report: SimulationReport) -> dict[str, np.ndarray]:
    """What is bounded, `[batch]`."""
    return {
        IMBALANCE: report.imbalance,
        TILES: report.tiles,
        COPIES: report.per_token("copies"),
        HOPS: report.hops,
        DISPATCH: report.dispatch_us,
        TIME: report.compute_us,
        COMBINE: report.combine_us,
        LATENCY: report.latency_us - report.price_us,
    }


def check(bounds: list[Bound], report: SimulationReport) -> None:
    found = figures(report)
    for bound in (each for each in bounds if each.holds_for(report.routing)):
        values = found[bound.unit]
        assert bound.mean <= values.mean() * SMALL, bound
        for name, share in (("p50", 50), ("p99", 99)):
            least = getattr(bound, name)
            assert least is None or least <= np.percentile(values, share) * SMALL, bound


def test_compute_is_bounded_alone_as_with_all_else() -> None:
    drawn = case(3, (3, 2), 2)
    about = drawn.batches, drawn.model, drawn.mesh
    for op in ("optimized", "functional"):
        hardware = dataclasses.replace(cost(), moe_op=op)
        alone = [bound for bound in (bound_compute(*about, hardware),) if bound]
        assert alone == [bound for bound in bound_any(*about, hardware) if bound.unit == TIME]


@pytest.mark.parametrize("wiring", WIRINGS, ids=str)
def test_no_policy_on_any_placement_beats_a_bound(wiring: tuple[str, str]) -> None:
    """Nine wirings with 4 layers of their own, 2 placements of each: 72 runs of each policy."""
    shapes = [(2, 2), (3, 2), (4, 3), (1, 4), (5, 2)]
    first = 4 * WIRINGS.index(wiring)  # type: ignore[arg-type]
    for seed in range(first, first + 4):
        drawn = case(seed, shapes[seed % len(shapes)], 1 + seed % 3, shared=seed // 3 % 3)
        hardware = wired(wiring)  # type: ignore[arg-type]
        free = bound_any(drawn.batches, drawn.model, drawn.mesh, hardware)
        for again in range(2):
            placement = random_placement(np.random.default_rng(again), drawn.model.experts, drawn.mesh)
            given = bound_given(drawn.batches, drawn.model, drawn.mesh, hardware, placement)
            assert all(bound.given for bound in given)
            taught = dataclasses.replace(
                drawn.learned, share=drawn.learned.nothing(placement, drawn.model.experts).share
            )
            for policy in POLICIES:
                conditions = Conditions(policy)
                args = (placement, drawn.batches, drawn.model, drawn.mesh, hardware, conditions, taught)
                check(free + given, simulate(*args))


def test_optimal_routing_reaches_the_bound_of_its_placement() -> None:
    for seed in range(30):
        drawn = case(seed, (3, 2), 2)
        given = bound_given(drawn.batches, drawn.model, drawn.mesh, cost(), drawn.placement)
        peak = {bound.unit: bound.mean for bound in given}
        for unit, reached in (("tokens", IMBALANCE), ("tiles", TILES)):
            conditions = Conditions("optimal", unit)  # type: ignore[arg-type]
            report = simulate(drawn.placement, drawn.batches, drawn.model, drawn.mesh, cost(), conditions)
            assert figures(report)[reached].mean() == pytest.approx(peak[reached])


def test_gaps_are_to_the_strongest_bound_and_say_whose_it_is() -> None:
    bounds = [
        Bound("weak", IMBALANCE, "", 1.0),
        Bound("strong", IMBALANCE, "", 1.25),
        Bound("own", IMBALANCE, "", 1.5, given=True),
        Bound("hops", HOPS, "", 2.0),
    ]
    (imbalance, hops) = gaps(bounds, {IMBALANCE: 2.0, HOPS: 3.0, TILES: 4.0})
    assert imbalance == Gap(IMBALANCE, 2.0, bounds[1], bounds[2])
    assert imbalance.summary() == {
        "reached": 2.0,
        "any_placement": 1.25,
        "by": "strong",
        "gap_to_any_placement": pytest.approx(0.6),
        "this_placement": 1.5,
        "gap_to_this_placement": pytest.approx(1 / 3),
    }
    assert hops.to_this is None
    assert set(hops.summary()) == {"reached", "any_placement", "by", "gap_to_any_placement"}


def test_what_is_reached_is_a_mean_over_batches() -> None:
    drawn = case(3, (3, 2), 2)
    report = simulate(drawn.placement, drawn.batches, drawn.model, drawn.mesh, cost(), Conditions())
    found = figures(report) | {LATENCY: report.latency_us}
    assert reached_by(report) == {unit: pytest.approx(values.mean()) for unit, values in found.items()}


def test_no_placement_beats_the_bounds_of_steps() -> None:
    rng = np.random.default_rng(5)
    mesh = Mesh(2, 2, 3)
    for _ in range(50):
        experts = int(rng.integers(2, 13))
        load = rng.integers(1, 200, (4, experts)) * rng.choice([1, 20], (4, experts))
        for _ in range(5):
            reached = expected_imbalance(random_placement(rng, experts, mesh), load)
            for bound in bound_steps(load, mesh):
                assert bound.mean <= reached.mean() * SMALL
                assert bound.p50 is None or bound.p50 <= np.median(reached) * SMALL


def test_too_many_experts_are_refused_with_what_to_do() -> None:
    model, mesh = Model("big", 9, 0, 2), Mesh(2, 2, 2)
    batches = random_batches(np.random.default_rng(0), 2, 6, model, 2)
    with pytest.raises(InputError, match="9 experts do not fit in 8 slots; take more slots"):
        bound_any(batches, model, mesh, cost())
    with pytest.raises(InputError, match="do not fit"):
        bound_steps(np.ones((2, 9), dtype=np.int64), mesh)


def test_the_op_that_works_on_blocks_has_no_bound_on_time() -> None:
    drawn = case(1, (3, 2), 2)
    functional = wired(("row", "rings"), moe_op="functional")
    units = {bound.unit for bound in bound_any(drawn.batches, drawn.model, drawn.mesh, functional)}
    assert TIME not in units
    assert {IMBALANCE, COPIES, HOPS} <= units
