"""Policies that choose by load hints equal slow oracles over runs of many batches, and hints are what they promise."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_layers import WIRINGS, Case, Links, TokensAt, as_tokens, case, rows_of
from random_problems import random_batches
from reference_hints import HINT_ORACLES
from reference_traffic import holders

from formulations.kit.arrays import Floats, Ints
from optimizer.errors import InputError
from optimizer.routing.expected_split import level, repeat
from optimizer.routing.hints import ENTRIES, HintSettings, LoadHints
from optimizer.routing.policies import POLICIES, REMEMBERING
from optimizer.traces.batches import Batches

BATCHES = 7  # more than the largest lag and refresh that are drawn, so that hints change several times
wirings = st.sampled_from(WIRINGS)
ways = st.builds(HintSettings, st.sampled_from([0.5, 2.0, 4.0]), st.integers(1, 3), st.integers(1, 3))


def drawn_run(seed: int, tokens: int = 24) -> Case:
    """A case with batches enough for hints to change."""
    shape, rng = (2 + seed % 3, 1 + seed % 2), np.random.default_rng(seed)
    drawn = case(seed, shape, 2, replicas=3)
    return replace(drawn, batches=random_batches(rng, BATCHES, tokens, drawn.model, shape[0]))


def routed(policy: str, drawn: Case, wiring: tuple[TokensAt, Links], how: HintSettings, parts: list[int]) -> Ints:
    """The flat slots that the policy chooses, `[batch, token, k]`, for batches that come in parts cut at `parts`."""
    context, network = drawn.context(wiring, 1, 9, how), drawn.network(wiring)
    cuts = pairwise([0, *parts, drawn.batches.count])
    pieces = [drawn.batches.part(start, stop) for start, stop in cuts if start < stop]
    return np.concatenate(
        [POLICIES[policy](piece.experts, network.source(piece.source_row), context) for piece in pieces]
    )


@pytest.mark.parametrize("policy", REMEMBERING)
@given(seed=st.integers(0, 10**6), wiring=wirings, how=ways)
def test_each_hint_policy_chooses_as_the_oracle(
    policy: str, seed: int, wiring: tuple[TokensAt, Links], how: HintSettings
) -> None:
    drawn = drawn_run(seed)
    chosen, layer = routed(policy, drawn, wiring, how, []), drawn.layer(wiring, 1, 9)
    tokens = [as_tokens(experts) for experts in drawn.batches.experts]
    held = [holders(layer.wires, rows_of(drawn.batches, batch)) for batch in range(BATCHES)]
    for batch, expected in enumerate(HINT_ORACLES[policy](layer, tokens, held, how)):
        assert chosen[batch].tolist() == drawn.flat(expected)


@pytest.mark.parametrize("policy", REMEMBERING)
@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), wiring=wirings, how=ways, cut=st.integers(0, BATCHES))
def test_the_size_of_chunks_changes_nothing(
    policy: str, seed: int, wiring: tuple[TokensAt, Links], how: HintSettings, cut: int
) -> None:
    drawn = drawn_run(seed)
    assert (routed(policy, drawn, wiring, how, []) == routed(policy, drawn, wiring, how, [cut])).all()


@pytest.mark.parametrize("policy", REMEMBERING)
def test_what_a_batch_brings_is_not_known_before_it_is_lag_batches_old(policy: str) -> None:
    """Two runs that differ in batch 2 alone are routed alike until hints know of it, and differ after it."""
    wiring: tuple[TokensAt, Links] = ("row", "rings")
    differ = set()
    for seed in range(30):
        drawn = drawn_run(seed)
        experts = drawn.batches.experts.copy()
        experts[2] = experts[0]
        other = replace(drawn, batches=Batches(experts, drawn.batches.source_row))
        for lag in (1, 3):
            one, two = (routed(policy, each, wiring, HintSettings(2.0, 1, lag), []) for each in (drawn, other))
            for batch in range(3, 2 + lag):
                if policy != "hint":  # which carries what it owes from a batch to the next, hints apart
                    assert (one[batch] == two[batch]).all()
            differ |= {lag} if (one[2 + lag] != two[2 + lag]).any() else set()
    assert differ == {1, 3}


@given(st.integers(0, 10**6))
def test_levelled_shares_are_as_good_as_the_best_of_a_linear_program(seed: int) -> None:
    """The peak after many sweeps is that of the least sum of squares, which is the least peak there is."""
    rng = np.random.default_rng(seed)
    experts, devices = int(rng.integers(1, 7)), int(rng.integers(2, 6))
    held = [rng.permutation(devices)[: rng.integers(1, min(devices, 3) + 1)] for _ in range(experts)]
    start = np.cumsum([0, *map(len, held)]).astype(np.int32)
    device = np.concatenate(held).astype(np.int32)
    load, share, heavy = rng.random(experts) * 9, np.repeat(1 / np.diff(start), np.diff(start)), np.zeros(devices)
    level(load, start, device, share, heavy, 400)
    assert share.min() >= 0
    assert np.add.reduceat(share, start[:-1]) == pytest.approx(np.ones(experts))
    expected = np.zeros(devices)
    np.add.at(expected, device, share * np.repeat(load, np.diff(start)))
    assert heavy == pytest.approx(expected)
    assert heavy.max() == pytest.approx(least_peak(load, held, devices), rel=1e-4)


def least_peak(load: Floats, held: Sequence[Ints], devices: int) -> float:
    """The largest ratio of the load of a set of experts to the number of their devices, over all sets."""
    most = 0.0
    for chosen in range(1, 1 << len(load)):
        of = [expert for expert in range(len(load)) if chosen >> expert & 1]
        most = max(most, load[of].sum() / len({int(device) for expert in of for device in held[expert]}))
    return most


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=6).filter(any))
def test_entries_meet_shares_to_less_than_one_entry(weights: list[int]) -> None:
    part, entries = np.array(weights), np.zeros((1, ENTRIES), dtype=np.int32)
    repeat(part, np.array([part.sum()]), np.array([0, len(part)], dtype=np.int32), entries)
    assert np.abs(np.bincount(entries[0], minlength=len(part)) - part / part.sum() * ENTRIES).max() < 1


def test_hints_that_are_read_late_are_those_that_were_made_in_time() -> None:
    """Shares change every second batch, and are the same whether somebody looks at them between or not."""
    start, device = np.array([0, 2, 3], dtype=np.int32), np.array([0, 1, 1], dtype=np.int32)
    read = LoadHints(start, device, 1, np.array([4.0, 4.0]), HintSettings(1.0, 2, 1))
    before = read.shares().copy()
    assert before == pytest.approx([1.0, 0.0, 1.0])
    read.observe(np.array([[8, 0]], dtype=np.int32))
    assert (read.shares() == before).all()
    read.observe(np.array([[8, 0]], dtype=np.int32))
    assert read.shares() == pytest.approx([4 / 7, 3 / 7, 1.0])


@pytest.mark.parametrize("field", ["half_life", "refresh", "lag"])
def test_hints_of_no_batch_are_refused(field: str) -> None:
    with pytest.raises(InputError) as caught:
        HintSettings(**{field: 0})
    assert caught.value.field == field
