"""Exact dispatch tables equal brute force over all tables, bounds are below them, and the search comes near them."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_table import peaks

from formulations.batches.dispatch_table import SlotCost, TableInstance, choose_table, divided_bound
from formulations.kit.arrays import Ints
from formulations.kit.outcome import SolveStatus
from formulations.kit.solver import Limits
from optimizer.domain.placement import Placement
from optimizer.routing import learned_tables
from optimizer.routing.learned_tables import SourceLoads, learn_table
from optimizer.traces.batches import Batches

LIMITS = Limits(seconds=20, workers=1)
COSTS = [SlotCost(0, 0, 1, 1), SlotCost(117, 130, 8, 0), SlotCost(130, 100, 8, 1)]


@st.composite
def instances(draw: st.DrawFn) -> TableInstance:
    """Random counts of up to three sources and four experts on up to three devices, with at most 256 tables."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    sources, experts, devices = (int(rng.integers(1, most + 1)) for most in (3, 4, 3))
    holders = np.zeros((experts, devices), dtype=np.bool_)
    holders[np.arange(experts), rng.integers(0, devices, experts)] = True
    for expert in range(experts):
        holders[expert, rng.integers(devices)] = True
        if np.prod(holders.sum(axis=1).astype(float)) ** sources > 256:
            holders[expert] &= np.arange(devices) == np.argmax(holders[expert])
    batches = int(rng.integers(1, 4))
    message = rng.integers(0, 4, (sources, devices, 2)) if rng.random() < 0.5 else None
    counts = rng.integers(-4, 12, (batches, sources, experts)).clip(0)
    worst, weight = int(rng.integers(1, batches + 1)), draw(st.sampled_from([0, 2]))
    return TableInstance(counts, holders, draw(st.sampled_from(COSTS)), message, worst, weight)


def plain_objective(instance: TableInstance, table: list[list[int]]) -> float:
    """The objective, batch by batch and link by link."""
    devices, experts = instance.holders.shape[1], len(instance.holders)
    flat = [[device * experts + expert for expert, device in enumerate(row)] for row in table]
    value = instance.slot.of(np.arange(int(instance.counts.sum()) + 1)).tolist()
    times = peaks(flat, instance.counts.tolist(), value, devices, experts)
    if instance.message is not None:
        for batch, counts in enumerate(instance.counts.tolist()):
            busy = [0] * instance.message.shape[2]
            for source, row in enumerate(counts):
                for expert, pairs in enumerate(row):
                    for link in range(len(busy)):
                        busy[link] += pairs * int(instance.message[source, table[source][expert], link])
            times[batch] += max(busy)
    tail = sorted(times)[-instance.worst :]
    return sum(times) / len(times) + instance.tail_weight * sum(tail) / len(tail)


def least(instance: TableInstance) -> float:
    """The least objective of all tables."""
    held = [np.flatnonzero(row).tolist() for row in instance.holders]
    rows = [list(row) for row in product(*held)]
    return min(plain_objective(instance, list(table)) for table in product(rows, repeat=instance.counts.shape[1]))


@given(instances())
def test_the_exact_table_is_the_best_of_all(instance: TableInstance) -> None:
    outcome = choose_table(instance, None, LIMITS)
    assert outcome.status is SolveStatus.OPTIMAL
    assert outcome.value is not None
    assert outcome.objective == pytest.approx(plain_objective(instance, outcome.value.tolist()))
    assert outcome.objective == pytest.approx(least(instance))
    assert divided_bound(instance, LIMITS) <= least(instance) + 1e-6


def of_case(seed: int, sources: int, batches: int) -> tuple[Placement, Ints, TableInstance]:
    """Eight experts on four devices of three slots, and skewed choices of 24 tokens a source, two experts each."""
    rng = np.random.default_rng(seed)
    placement = Placement(np.array([[0, 1, 2], [3, 4, 0], [5, 6, 1], [7, 2, 3]]))
    popular = rng.dirichlet(np.ones(8), (sources,))
    chosen = np.array(
        [[rng.choice(8, 2, replace=False, p=0.9 * popular[token // 24] + 0.0125) for token in range(24 * sources)]
         for _ in range(batches)]
    )  # fmt: skip
    counts = np.zeros((batches, sources, 8), dtype=np.int64)
    source = np.broadcast_to(np.arange(24 * sources) // 24, chosen.shape[:2])
    np.add.at(counts, (np.arange(batches)[:, None, None], source[..., None], chosen), 1)
    holders = np.array([[expert in row for row in placement.slots] for expert in range(8)])
    return placement, chosen, TableInstance(counts, holders, SlotCost(100, 130, 32, 1))


@pytest.mark.parametrize("seed", range(5))
def test_the_search_comes_within_two_per_cent_of_the_optimum(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both minimise the mean peak; the search starts from each expert's first replica and from the level table."""
    monkeypatch.setattr(learned_tables, "TAIL_WEIGHT", 0)
    monkeypatch.setattr(learned_tables, "ANNEALED", 3_000_000)
    placement, chosen, instance = of_case(seed, 4, 8)
    batches = Batches(chosen, np.broadcast_to(np.arange(96) // 24, chosen.shape[:2]))
    loads = SourceLoads.of(batches.experts, batches.source_row, 4, 8)
    value, start = instance.slot.of(np.arange(97)), placement.replicas(8)
    nearest = np.tile(start[1][start[0][:-1]], (4, 1))
    table = learn_table(placement, loads, value, np.zeros((4, 4), dtype=np.int64), nearest).replica // 3
    outcome = choose_table(instance, table, LIMITS)
    assert outcome.status is SolveStatus.OPTIMAL
    assert outcome.objective is not None
    reached = instance.total(table) / instance.scale
    assert outcome.objective <= reached <= 1.02 * outcome.objective


def test_a_hint_is_kept_where_there_is_no_time_and_a_wrong_one_is_refused() -> None:
    instance = of_case(0, 2, 3)[2]
    last = np.tile(instance.holders.shape[1] - 1 - np.argmax(instance.holders[:, ::-1], axis=1), (2, 1))
    outcome = choose_table(instance, last, Limits(seconds=0, cancelled=lambda: True))
    assert outcome.objective is not None
    assert outcome.objective <= instance.total(last) / instance.scale
    with pytest.raises(ValueError, match="does not hold it"):
        choose_table(instance, np.full((2, 8), 3), LIMITS)


@pytest.mark.parametrize(
    ("counts", "holders", "more", "said"),
    [
        ([[1, 2]], [[True], [True]], {}, "do not fit together"),
        ([[[1, 2]]], [[True], [False]], {}, "expert 1 has no replica"),
        ([[[1]]], [[True]], {"worst": 2}, "a tail of 2 batches with weight 0 is none"),
        ([[[1]]], [[True]], {"message": np.zeros((2, 1, 1), dtype=int)}, r"messages are \(2, 1, 1\), not"),
    ],
)
def test_what_is_no_instance_is_refused(counts: object, holders: object, more: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TableInstance(np.array(counts), np.array(holders), COSTS[0], **more)  # type: ignore[arg-type]
