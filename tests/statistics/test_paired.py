"""Gains between two ways of doing the same batches, with intervals that follow from the pairs."""

import numpy as np
import pytest

from formulations.kit.arrays import Floats
from optimizer.statistics.paired import Gain, gain_of_mean, gain_of_p99, gain_of_summed_p99


@pytest.fixture
def before() -> Floats:
    """Latencies that differ much from batch to batch."""
    return np.random.default_rng(0).lognormal(3, 0.5, 512)


@pytest.mark.parametrize("gain_of", [gain_of_mean, gain_of_p99])
def test_what_is_lower_by_a_tenth_in_each_batch_is_so_for_sure(before: Floats, gain_of: object) -> None:
    assert callable(gain_of)
    found = gain_of(before, 0.9 * before)
    assert found == pytest.approx(Gain(0.1, 0.1, 0.1))
    assert found.sure
    assert not found.may_be_chance
    same = gain_of(before, before)
    assert not same.sure
    assert not same.may_be_chance


def test_a_gain_that_is_chance_is_not_sure(before: Floats) -> None:
    after = np.random.default_rng(1).permutation(before)
    found = gain_of_mean(before, after * np.random.default_rng(2).normal(1, 0.2, len(before)))
    assert found.low < 0 < found.high
    assert found.may_be_chance
    assert not found.sure


def test_a_sum_over_layers_is_surer_than_each_layer_where_their_noise_is_their_own(before: Floats) -> None:
    rng, layers = np.random.default_rng(5), [before] * 40
    after = [0.97 * layer * rng.normal(1, 0.1, len(layer)) for layer in layers]
    alone = [gain_of_p99(*pair) for pair in zip(layers, after, strict=True)]
    found = gain_of_summed_p99(layers, after)
    was, now = (sum(np.percentile(layer, 99) for layer in every) for every in (layers, after))
    assert found.share == pytest.approx(1 - now / was)
    assert found.high - found.low < 0.7 * np.mean([each.high - each.low for each in alone])
    assert gain_of_summed_p99(layers, [0.9 * layer for layer in layers]) == pytest.approx(Gain(0.1, 0.1, 0.1))


def test_pairs_tell_more_than_two_means(before: Floats) -> None:
    """Noise that both share cancels out: the interval is far narrower than the batches' own spread."""
    found = gain_of_mean(before, 0.98 * before + np.random.default_rng(3).normal(0, 0.1, len(before)))
    assert found.sure
    assert found.high - found.low < 0.005 < before.std() / before.mean() / np.sqrt(len(before))


def test_the_interval_holds_what_is_true_in_nearly_all_samples() -> None:
    rng, held = np.random.default_rng(4), 0
    for _ in range(100):
        before = rng.lognormal(0, 0.3, 256)
        found = gain_of_mean(before, before * rng.normal(0.95, 0.1, 256))
        held += found.low <= 0.05 <= found.high
    assert held >= 85
