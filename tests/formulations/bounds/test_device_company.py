"""What an expert is charged for messages that its company on a device shares, against all that its tokens could do."""

from itertools import combinations, product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from formulations.bounds.device_company import DeviceCompany
from formulations.bounds.message_splits import Split
from formulations.bounds.sharing import Sharing
from formulations.kit.arrays import Floats, Ints

Token = tuple[int, frozenset[int]]  # its source, and the experts that it chose besides expert 0


def together_of(tokens: list[Token], sources: int, experts: int) -> Ints:
    """Tokens of each source that chose both experts; all chose expert 0."""
    found = np.zeros((sources, experts, experts), dtype=np.int64)
    for source, others in tokens:
        for pair in product([0, *others], repeat=2):
            found[source][pair] += 1
    return found


def least_part(others: frozenset[int], shift: Floats) -> float:
    """The least that expert 0 is charged for a hop, if any of these others share it."""
    ways = [some for number in range(len(others) + 1) for some in combinations(sorted(others), number)]
    return min(1 / (1 + len(some)) - sum(float(shift[0, other]) for other in some) for some in ways)


def least_charge(token: Token, replicas: list[tuple[int, frozenset[int]]], distance: Ints, shift: Floats) -> float:
    """The least that expert 0 is charged for a token that goes to any of the replicas, at a place with a company; hops
    beyond the nearest replica are charged nothing at least."""
    source, others = token
    near = min(distance[source, place] for place, _ in replicas)
    found = []
    for place, company in replicas:
        part = least_part(others & company, shift)
        found.append(float(near * part + (distance[source, place] - near) * max(0.0, part)))
    return min(found)


@given(st.integers(0, 10**6), st.integers(1, 2), st.integers(1, 2))
def test_no_company_and_no_way_is_charged_less(seed: int, replicas: int, company: int) -> None:
    rng = np.random.default_rng(seed)
    sources, places, experts = 3, 3, 4
    distance = rng.integers(0, 5, (sources, places))
    bundle = [frozenset((1 + rng.choice(experts - 1, rng.integers(0, 3), replace=False)).tolist()) for _ in range(3)]
    tokens = [(int(rng.integers(sources)), bundle[rng.integers(3)]) for _ in range(12)]
    drawn = rng.normal(0, rng.choice([0.03, 0.1, 0.3]), (experts, experts))
    shift = drawn - drawn.T
    split = Split(rng.choice([0.5, rng.uniform(0, 0.5)], (1, experts)), shift)
    stage = Sharing(np.ones(4), np.full(4, company), company + 1, on_device=True)
    sets = np.array(list(combinations(range(places), replicas)))
    least = DeviceCompany.of(together_of(tokens, sources, experts), distance, stage, split).least(sets)
    for found, of_set in zip(least[:, 0], sets.tolist(), strict=True):
        choices = [frozenset(some) for some in combinations(range(1, experts), company)]
        for companies in product(choices, repeat=replicas):
            held = list(zip(of_set, companies, strict=True))
            charged = [least_charge(token, held, distance, shift) for token in tokens]
            assert found <= sum(charged) + 1e-9


def test_a_way_twice_as_long_does_not_pay_for_two_of_company() -> None:
    """All 30 tokens are one hop from one replica, beside which two others are a third of a message each. At a second
    replica as near, that company might be counted once more; at one twice as far, a third for each of two hops is as
    much as two thirds, the charge by this line without any company."""
    tokens = [(0, frozenset({1, 2}))] * 30
    stage, split = Sharing(np.ones(3), np.full(3, 2), 3, on_device=True), Split(np.full((1, 3), 1 / 6))
    for far, charged in ((1, 0.0), (2, 10.0), (3, 10.0)):
        company = DeviceCompany.of(together_of(tokens, 1, 3), np.array([[1, far]]), stage, split)
        assert np.isclose(company.least(np.array([[0, 1]]))[0, 0], charged)
        assert np.isclose(company.least(np.array([[0], [1]]))[:, 0], [10.0, 10.0 * far]).all()


def test_all_sources_have_the_same_company() -> None:
    """The tokens of two sources have chosen one other expert each, and the one replica is beside one of these two."""
    tokens = [(0, frozenset({1}))] * 10 + [(1, frozenset({2}))] * 10
    stage = Sharing(np.ones(1), np.ones(1, dtype=np.int64), 2, on_device=True)
    company = DeviceCompany.of(together_of(tokens, 2, 3), np.array([[1], [1]]), stage, Split(np.full((1, 3), 0.5)))
    assert company.least(np.array([[0]]))[0].tolist() == [15.0, 5.0, 5.0]
