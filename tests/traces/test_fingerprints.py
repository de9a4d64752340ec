"""Fingerprints tell layers and traces apart, by what they hold and nothing else."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from random_problems import request_experts

from formulations.kit.arrays import Ints
from optimizer.traces.fingerprints import fingerprints
from optimizer.traces.trace import RoutingTrace


def trace(experts: Ints) -> RoutingTrace:
    tokens = len(experts)
    return RoutingTrace(experts, (3, 4, 5), np.array([0, tokens // 2, tokens]), np.zeros(tokens, np.uint8), "drawn")


def drawn(seed: int) -> Ints:
    return request_experts(np.random.default_rng(seed), 20, 3, 8, 2)


@given(st.integers(0, 10**6), st.integers(0, 19), st.integers(0, 2), st.integers(0, 1), st.integers(1, 7))
def test_one_changed_choice_changes_that_layer_alone(seed: int, token: int, layer: int, rank: int, by: int) -> None:
    experts = drawn(seed)
    before = fingerprints(trace(experts.copy()), [3, 4, 5])
    experts[token, layer, rank] = (experts[token, layer, rank] + by) % 8
    after = fingerprints(trace(experts), [3, 4, 5])
    assert [one != other for one, other in zip(before, after, strict=True)] == [place == layer for place in range(3)]


def test_order_counts_and_types_do_not() -> None:
    experts = drawn(1)
    found = fingerprints(trace(experts), [3, 4, 5])
    assert len(set(found)) == 3
    assert fingerprints(trace(experts.astype(np.uint16)), [5, 3]) == [found[2], found[0]]
    assert fingerprints(trace(np.asfortranarray(experts)), [3]) == found[:1]
    assert fingerprints(trace(experts[::-1].copy()), [3]) != found[:1]
    assert fingerprints(trace(experts[..., ::-1].copy()), [3]) != found[:1]


def test_requests_and_phases_count() -> None:
    one = trace(drawn(1))
    longer = replace(one, offsets=np.array([0, 9, 20]))
    prompts = replace(one, phase=np.ones(20, np.uint8))
    assert len({fingerprints(of, [3])[0] for of in (one, longer, prompts)}) == 3
    assert fingerprints(replace(one, source="elsewhere"), [3]) == fingerprints(one, [3])


def test_experts_of_number_0_count() -> None:
    shapes = [np.zeros((tokens, 3, 2), dtype=np.uint8) for tokens in (4, 6)]
    assert (
        len({fingerprints(replace(trace(experts), offsets=np.array([0, len(experts)])), [3])[0] for experts in shapes})
        == 2
    )
