"""Batches as if few requests ran."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from optimizer.planning.few_users import VARIOUS, batches_of_few_users, loads_of_various_users
from optimizer.traces.batches import Batches


@given(st.integers(0, 10**6), st.integers(1, 90), st.integers(1, 40), st.integers(1, 9))
def test_batches_of_few_users_have_rows_as_they_were_and_tokens_of_their_own_stretch(
    seed: int, tokens: int, users: int, count: int
) -> None:
    """Each token comes from the stretch of places that it stands in, and all tokens of a stretch from one place."""
    experts = (np.arange(count)[:, None] * 100 + np.arange(tokens))[:, :, None]
    rows = np.sort(np.random.default_rng(seed).integers(0, 4, tokens))
    batches = Batches(experts, np.broadcast_to(rows, (count, tokens)))
    found = batches_of_few_users(batches, np.random.default_rng(seed), users)
    fewer = batches_of_few_users(batches, np.random.default_rng(seed), users, count + 2)
    assert (fewer.experts == found.experts).all()
    assert batches_of_few_users(batches, np.random.default_rng(seed), users, 1).count == 1
    assert (found.source_row == batches.source_row).all()
    batch, place = np.divmod(found.experts[:, :, 0].astype(int), 100)
    stretch = max(1, tokens // users)
    assert (batch < count).all()
    assert (place // stretch == np.arange(tokens) // stretch).all()
    for first in range(0, tokens, stretch):
        assert all(len(set(chosen.tolist())) == 1 for chosen in place[:, first : first + stretch])


@given(st.integers(0, 10**6), st.integers(1, 600), st.integers(1, 9))
def test_loads_of_various_users_are_of_as_many_places_as_they_say_and_of_whole_batches(
    seed: int, tokens: int, count: int
) -> None:
    """An expert of its own for each place of each batch tells by its load where tokens come from."""
    experts = np.arange(count * tokens).reshape(count, tokens, 1)
    batches = Batches(experts, np.zeros((count, tokens), dtype=np.int32))
    found = loads_of_various_users(batches, batches.load(count * tokens), np.random.default_rng(seed))
    each = -(-count // (len(VARIOUS) + 1))
    assert (found.sum(axis=1) == tokens).all()
    assert (found[len(VARIOUS) * each :] == batches.load(count * tokens)[:: len(VARIOUS) + 1]).all()
    of_place = found.reshape(len(found), count, tokens).sum(axis=1)
    for part, users in enumerate(VARIOUS):
        stretch = max(1, tokens // users)
        assert ((of_place[part * each : (part + 1) * each] > 0).sum(axis=1) == -(-tokens // stretch)).all()
