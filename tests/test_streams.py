"""Random streams never coincide: not for two purposes, not for two keys, not for a key and a longer one."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.streams import Purpose, derived_seed, key_of_text, random_stream

PARTS = (0, 1, 5, 2**31, 2**32, 2**32 + 1, 2**64 - 1)
KEYS = [key for length in range(4) for key in product(PARTS, repeat=length)]
SEED = st.integers(0, 2**64 - 1)


def first_numbers(purpose: Purpose, key: tuple[int, ...]) -> tuple[int, ...]:
    """What a stream begins with: 128 bits, so that two streams share them by chance once in 10^38 pairs."""
    return tuple(random_stream(purpose, *key).integers(2**63, size=2).tolist())


def test_no_two_streams_of_all_purposes_and_many_keys_have_the_same_numbers() -> None:
    found = [first_numbers(purpose, key) for purpose in Purpose for key in KEYS]
    assert len(set(found)) == len(Purpose) * len(KEYS)


def test_spawned_streams_and_plain_seeds_are_streams_of_their_own() -> None:
    streams = [random_stream(purpose, *key) for purpose in Purpose for key in ((), (0,), (0, 0), (3, 1))]
    streams += [child for stream in streams for child in stream.spawn(3)]
    plain = [np.random.default_rng(seed) for seed in (*range(120), *([number, 0] for number in range(3)))]
    found = [tuple(stream.integers(2**63, size=2).tolist()) for stream in streams + plain]
    assert len(found) - len(set(found)) == 3  # numpy takes the plain seeds [n, 0] for n


@given(st.sampled_from(Purpose), st.lists(SEED, max_size=4), st.sampled_from(Purpose), st.lists(SEED, max_size=4))
def test_streams_are_the_same_where_purpose_and_key_are(
    purpose: Purpose, key: list[int], other: Purpose, other_key: list[int]
) -> None:
    same = (purpose, key) == (other, other_key)
    assert (first_numbers(purpose, tuple(key)) == first_numbers(other, tuple(other_key))) == same
    assert first_numbers(purpose, tuple(key)) == first_numbers(purpose, tuple(key))


def test_derived_seeds_differ_and_fit_their_bits() -> None:
    long = [derived_seed(purpose, *key, bits=64) for purpose in Purpose for key in KEYS]
    assert len(set(long)) == len(long)
    short = [derived_seed(purpose, 0, layer) for purpose in Purpose for layer in range(60)]
    assert len(set(short)) == len(short)
    assert max(short) < 2**31
    assert max(long) >= 2**63


@pytest.mark.parametrize("part", [-1, 2**64])
def test_a_key_that_does_not_fit_is_refused(part: int) -> None:
    with pytest.raises(ValueError, match=f"{part} cannot be part"):
        random_stream(Purpose.TABU, 0, part)
    with pytest.raises(ValueError, match=f"{part} cannot be part"):
        derived_seed(Purpose.TABU, part)


def test_numpy_integers_are_as_good_as_plain_ones() -> None:
    assert first_numbers(Purpose.GATES, (np.int64(3),)) == first_numbers(Purpose.GATES, (3,))  # type: ignore[arg-type]


def test_names_have_keys_of_their_own() -> None:
    assert len({key_of_text(name) for name in ("", "a", "b", "ab", "code", "chat")}) == 6
