"""Arrays that immutable objects keep: nothing wraps, nobody changes them later, and nothing is copied in vain."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.domain.arrays import first_double, fitting, frozen, given_away

TYPES = [np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64]


@given(
    st.sampled_from(TYPES), st.sampled_from([np.uint8, np.uint16, np.int32]), st.integers(-1, 0), st.integers(0, 10**6)
)
def test_a_cast_changes_no_number_or_is_refused(given_type: type, wanted: type, lowest: int, seed: int) -> None:
    rng, limits = np.random.default_rng(seed), np.iinfo(given_type)
    spread = int(rng.choice([100, 300, 70_000, 2**40]))
    low, high = max(-(spread // 50), int(limits.min)), min(spread, int(limits.max))
    values = rng.integers(low, high, 5, dtype=given_type, endpoint=True)
    lowest = max(lowest, int(np.iinfo(wanted).min))
    fits = all(lowest <= value <= np.iinfo(wanted).max for value in values.tolist())
    if fits:
        found = fitting("ids", values, wanted, lowest)
        assert found.tolist() == values.tolist()
        assert found.dtype == wanted
    else:
        with pytest.raises(ValueError, match=f"ids hold .* outside {lowest}"):
            fitting("ids", values, wanted, lowest)


def test_numbers_that_are_no_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="ids must be integers, not float64"):
        fitting("ids", np.zeros(2), np.int32)  # type: ignore[arg-type]


def test_a_writeable_array_and_a_read_only_view_of_one_are_copied() -> None:
    own = np.arange(6)
    view = own[:3]
    view.flags.writeable = False
    kept = [frozen(own), frozen(view), frozen(np.broadcast_to(own, (2, 6)))]
    own[:] = 9
    assert [array.max() for array in kept] == [5, 2, 5]
    assert own.flags.writeable
    assert not any(array.flags.writeable for array in kept)


def test_what_nobody_can_change_is_not_copied(tmp_path: Path) -> None:
    away = given_away(np.arange(6))
    assert frozen(away) is away
    assert np.shares_memory(frozen(away[1:3]), away)
    np.save(tmp_path / "a.npy", np.arange(6))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert frozen(mapped) is mapped
    bytes_of = np.frombuffer(b"abc", dtype=np.uint8)
    assert frozen(bytes_of) is bytes_of


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_the_first_double_is_found(seed: int, outer: int, inner: int, ranks: int) -> None:
    ids = np.random.default_rng(seed).integers(0, 6, (outer, inner, ranks))
    doubled = [where for where in np.ndindex(outer, inner) if len(set(ids[where].tolist())) < ranks]
    assert first_double(ids, 6) == (doubled[0] if doubled else (-1, -1))
