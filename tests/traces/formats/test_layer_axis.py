"""Which model layers the entries of a recorded layer axis are: the plan of a wrongly numbered layer is of no use."""

import numpy as np
import pytest

from optimizer.domain.model import Model
from optimizer.domain.presets import load_model
from optimizer.errors import InputError
from optimizer.traces.formats.layer_axis import fits, numbered
from optimizer.traces.formats.npz import layer_ids

DEEPSEEK = load_model("deepseek-v3")
ONE_DENSE = Model("one dense layer", 8, 0, 2, layers=46, first_moe_layer=1, mtp_layers=1)


@pytest.mark.parametrize(
    ("axis", "dense_seen", "first", "held"),
    [
        (58, False, None, range(3, 61)),
        (59, False, None, range(3, 62)),  # 58 MoE layers and the MTP layer
        (61, True, None, range(61)),
        (62, True, None, range(62)),  # all layers and the MTP layer
        (61, False, None, range(61)),
        (62, False, None, range(62)),
        (59, False, 0, range(59)),
        (7, False, 20, range(20, 27)),
        (7, False, None, range(7)),
    ],
)
def test_an_axis_of_known_length_is_numbered_as_in_the_model(
    axis: int, dense_seen: bool, first: int | None, held: range
) -> None:
    # A row more than the MoE layers has is the MTP layer: without that, layer 15 was planned as layer 12.
    assert numbered(axis, dense_seen, DEEPSEEK, first) == tuple(held)


def test_an_axis_of_an_unknown_model_begins_with_layer_0() -> None:
    # A custom model has no layers that an axis could be compared with.
    assert numbered(59, False, None, None) == tuple(range(59))
    assert numbered(59, False, Model("custom", 8, 0, 2), None) == tuple(range(59))


def test_an_axis_that_can_be_read_in_two_ways_is_asked_about() -> None:
    # With one dense layer and one MTP layer, all layers are as many as those with experts: neither may be guessed.
    with pytest.raises(InputError, match=r"layers 0\.\.45 of one dense layer, or .* 1\.\.46; say whether") as caught:
        numbered(46, False, ONE_DENSE, None)
    assert caught.value.field == "first_moe_layer"
    assert numbered(46, False, ONE_DENSE, 1) == tuple(range(1, 47))
    assert numbered(46, True, ONE_DENSE, None) == tuple(range(46))
    assert numbered(45, False, ONE_DENSE, None) == tuple(range(1, 46))
    assert numbered(47, False, ONE_DENSE, None) == tuple(range(47))


def test_the_lengths_of_a_model() -> None:
    # By these lengths the model of a trace is told.
    assert [axis for axis in range(1, 70) if fits(axis, DEEPSEEK.moe_layers, DEEPSEEK)] == [58, 59]
    assert [axis for axis in range(1, 70) if fits(axis, DEEPSEEK.layers, DEEPSEEK)] == [61, 62]


def test_dense_layers_between_the_others_are_left_out() -> None:
    # Llama 4 Maverick has experts in every second layer, so that a recording of them alone skips the others.
    maverick = load_model("llama-4-maverick")
    assert numbered(24, False, maverick, None) == tuple(range(1, 48, 2))
    assert numbered(48, True, maverick, None) == tuple(range(48))


@pytest.mark.parametrize(("axis", "dense", "held"), [(59, 0, range(3, 62)), (62, 3, range(62)), (62, 0, range(62))])
def test_requests_with_the_mtp_layer(axis: int, dense: int, held: range) -> None:
    # Requests are numbered by the same rule, their dense layers being those of zeros.
    experts = np.random.default_rng(0).integers(1, 256, (4, axis, 8))
    experts[:, :dense] = 0
    assert layer_ids(experts, DEEPSEEK, None) == tuple(held)
