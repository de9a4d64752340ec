"""A limit to what each replica takes settles every pair as the written rule says, and loses no pair."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_layers import WIRINGS, Case, Links, TokensAt, as_tokens, case, cases, rows_of
from reference_routing import Limited, beside, likeliest, weights_by_rank
from reference_routing import limit as settled
from reference_traffic import holders

from formulations.kit.arrays import Ints
from optimizer.domain.model import Model
from optimizer.routing.capacity import Coactivation, Rerouted, gate_weights, limit_replicas
from optimizer.routing.policies import POLICIES
from optimizer.traces.batches import Batches

wirings = st.sampled_from(WIRINGS)


def recorded(seed: int, drawn: Case) -> Case:
    """The case with candidates, of which the first are the chosen experts, and with gate weights, some all zero."""
    rng, batches, model = np.random.default_rng(seed), drawn.batches, drawn.model
    chosen = batches.experts[..., : model.top_k]
    order = rng.random((2, batches.tokens, model.routed_experts)) + 1
    np.put_along_axis(order, chosen.astype(int), np.arange(model.top_k) / model.top_k, axis=2)
    number = int(rng.integers(model.top_k, model.routed_experts + 1))
    weight = rng.random(chosen.shape) * (rng.random((2, batches.tokens, 1)) < 0.9)
    candidates = np.argsort(order, axis=2)[..., :number]
    return replace(drawn, batches=Batches(batches.experts, batches.source_row, weight, candidates))


def chosen_by(drawn: Case, policy: str, wiring: tuple[TokensAt, Links], capacity: int) -> Ints:
    """What the policy chooses, before the limit: flat slots `[batch, token, k]`."""
    source = drawn.network(wiring).source(drawn.batches.source_row)
    return POLICIES[policy](drawn.batches.experts, source, drawn.context(wiring, 1, capacity))


def limited(
    drawn: Case, chosen: Ints, wiring: tuple[TokensAt, Links], capacity: int, guess: Coactivation | None, drop: bool
) -> Rerouted:
    """What becomes of these choices by the limit."""
    source = drawn.network(wiring).source(drawn.batches.source_row)
    return limit_replicas(chosen, drawn.batches, source, drawn.context(wiring, 1, capacity), drawn.model, guess, drop)


def by_the_rule(
    drawn: Case,
    chosen: Ints,
    batch: int,
    wiring: tuple[TokensAt, Links],
    capacity: int,
    ranking: Callable[[int, int], list[int]],
    drop: bool,
) -> Limited:
    """What becomes of the choices of one batch by the slow oracle."""
    layer, depth = drawn.layer(wiring, 1, capacity), drawn.mesh.slots_per_device
    places = [[divmod(slot, depth) for slot in token] for token in chosen[batch].tolist()]
    tokens, held = as_tokens(drawn.batches.experts[batch]), holders(layer.wires, rows_of(drawn.batches, batch))
    weight = plain_weights(drawn, batch)
    return settled(layer, places, tokens, held, drawn.model.routed_experts, ranking, weight, drop)


def plain_weights(drawn: Case, batch: int) -> list[list[float]]:
    """The gate weights of each token of a batch, which sum to 1."""
    if drawn.batches.weights is None:
        return [weights_by_rank(drawn.model.top_k)] * drawn.batches.tokens
    found = []
    for token in drawn.batches.weights[batch].tolist():
        total = sum(token)
        found.append([weight / total if total > 0 else 1 / len(token) for weight in token])
    return found


def agrees(found: Rerouted, expected: Limited, batch: int, drawn: Case) -> None:
    """Assert that kernel and oracle did the same to every pair of a batch."""
    assert found.chosen[batch].tolist() == drawn.flat(expected.places)
    for name in ("moved", "rerouted", "dropped", "over"):
        assert getattr(found, name)[batch] == getattr(expected, name), name
    assert found.kept[batch] == pytest.approx(1 - expected.lost / drawn.batches.tokens, abs=1e-5)


@given(cases(), st.integers(0, 10**6), wirings, st.sampled_from(sorted(POLICIES)), st.integers(1, 12), st.booleans())
def test_overflow_goes_by_the_rule_to_recorded_candidates(
    plain: Case, seed: int, wiring: tuple[TokensAt, Links], policy: str, capacity: int, drop: bool
) -> None:
    drawn = recorded(seed, plain)
    assert drawn.batches.candidates is not None
    chosen = chosen_by(drawn, policy, wiring, capacity)
    found = limited(drawn, chosen, wiring, capacity, None, drop)
    for batch in range(2):
        ranked = as_tokens(drawn.batches.candidates[batch])
        ranking = lambda token, own: ranked[token]  # noqa: B023, E731
        agrees(found, by_the_rule(drawn, chosen, batch, wiring, capacity, ranking, drop), batch, drawn)


@given(cases(), st.integers(0, 10**6), wirings, st.sampled_from(sorted(POLICIES)), st.integers(1, 12), st.booleans())
def test_overflow_goes_by_the_rule_to_the_likeliest_experts(
    drawn: Case, seed: int, wiring: tuple[TokensAt, Links], policy: str, capacity: int, drop: bool
) -> None:
    rng, model = np.random.default_rng(seed), drawn.model
    train = np.argsort(rng.random((1, 37, model.routed_experts)) * np.arange(1, model.routed_experts + 1), axis=2)
    guess = Coactivation.of(Batches(train[..., : model.top_k], np.zeros((1, 37), dtype=int)), model)
    chosen = chosen_by(drawn, policy, wiring, capacity)
    found = limited(drawn, chosen, wiring, capacity, guess, drop)
    known = beside(train[0, :, : model.top_k].tolist(), model.routed_experts)
    for batch in range(2):
        tokens = as_tokens(drawn.batches.experts[batch])
        ranking = lambda token, own: likeliest(known, tokens[token], own)  # noqa: B023, E731
        agrees(found, by_the_rule(drawn, chosen, batch, wiring, capacity, ranking, drop), batch, drawn)


@given(cases(), st.integers(0, 10**6), wirings, st.sampled_from(sorted(POLICIES)), st.integers(1, 12), st.booleans())
def test_pairs_are_conserved_and_no_replica_is_overfull_unless_it_is_counted(
    plain: Case, seed: int, wiring: tuple[TokensAt, Links], policy: str, capacity: int, drop: bool
) -> None:
    drawn = recorded(seed, plain)
    found = limited(drawn, chosen_by(drawn, policy, wiring, capacity), wiring, capacity, None, drop)
    expert_in = np.append(drawn.placement.slots.ravel(), -1)  # the last for dropped pairs
    routed = drawn.model.routed_experts
    for batch, wanted in enumerate(drawn.batches.experts.astype(int)):
        serving = expert_in[found.chosen[batch]]
        own, dropped = (serving == wanted).sum(), (serving < 0).sum()
        assert own + found.rerouted[batch] + found.dropped[batch] == wanted.size
        assert dropped == found.dropped[batch]
        assert all(
            len({*token}) == len(token) for token in ([e for e in token if e >= 0] for token in serving.tolist())
        )
        load = np.bincount(found.chosen[batch][serving >= 0], minlength=drawn.mesh.slots)
        full = (load - capacity)[(expert_in[:-1] >= 0) & (expert_in[:-1] < routed)]
        assert full.clip(0).sum() == found.over[batch]
        shared = wanted >= routed
        assert (serving[shared] == wanted[shared]).all()
    assert not (found.over if drop else found.dropped).any()
    assert (found.kept >= 0).all()


@given(cases(), wirings, st.sampled_from(sorted(POLICIES)))
def test_a_capacity_that_nobody_reaches_changes_nothing(
    drawn: Case, wiring: tuple[TokensAt, Links], policy: str
) -> None:
    chosen, known = chosen_by(drawn, policy, wiring, 9), recorded(0, drawn)
    found = limited(known, chosen, wiring, drawn.batches.tokens, None, True)
    assert (found.chosen == chosen).all()
    assert not any(getattr(found, name).any() for name in ("moved", "rerouted", "dropped", "over"))
    assert found.kept.tolist() == [1, 1]


def test_dropped_pairs_stay_dropped() -> None:
    drawn = recorded(3, case(3, (2, 2), 2))
    chosen = chosen_by(drawn, "even-source", ("row", "rings"), 9).copy()
    chosen[:, ::2] = -1
    found = limited(drawn, chosen, ("row", "rings"), drawn.batches.tokens, None, False)
    assert (found.chosen == chosen).all()


def test_log_shares_and_lifts_are_those_of_plain_counting() -> None:
    tokens = np.array([[[0, 1], [0, 1]], [[0, 2], [1, 3]]])
    found = Coactivation.of(Batches(tokens, np.zeros((2, 2), dtype=int)), Model("m", 4, 0, 2))
    assert np.exp(found.log_share).tolist() == pytest.approx([3.5 / 4, 3.5 / 4, 1.5 / 4, 1.5 / 4])
    assert np.exp(found.log_lift)[0].tolist() == pytest.approx([5 / 7.25, 7 / 7.25, 6 / 5.75, 5 / 5.75])
    assert (found.log_lift == found.log_lift.T).all()


def test_shared_experts_count_for_no_gate_weight_and_no_lift() -> None:
    model = Model("m", 3, 1, 2)
    batches = Batches(np.array([[[0, 1, 3], [2, 1, 3]]]), np.zeros((1, 2), dtype=int), np.array([[[3.0, 1], [0, 0]]]))
    assert gate_weights(batches, 2).tolist() == [[[0.75, 0.25], [0.5, 0.5]]]
    assert Coactivation.of(batches, model).log_lift.shape == (3, 3)
    unknown = gate_weights(Batches(batches.experts, batches.source_row), 2)
    assert unknown[0, 1].tolist() == pytest.approx(weights_by_rank(2))


def test_without_candidates_and_without_a_guess_nothing_can_be_rerouted() -> None:
    drawn = case(3, (2, 2), 2)
    chosen = chosen_by(drawn, "even-source", ("row", "rings"), 9)
    with pytest.raises(ValueError, match="no candidates are recorded"):
        limited(drawn, chosen, ("row", "rings"), 1, None, False)
