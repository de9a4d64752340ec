"""Sampling batches: decode walks, prefill streams, mixed batches, users per row."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces.batches import Batches
from optimizer.traces.composition import PHASES, Composition, sample_batches, stream_batches
from optimizer.traces.order import spans, walk_segments
from optimizer.traces.trace import OUTPUT, PROMPT, RoutingTrace

WIDE = Model("wide", 60_000, 2, 1)  # so many experts that a token's expert can be its own number


def numbered_trace(prompts: list[int], outputs: list[int]) -> RoutingTrace:
    """Token i chose expert i."""
    lengths = np.array(prompts) + np.array(outputs)
    phase = [phase for p, o in zip(prompts, outputs, strict=True) for phase in [PROMPT] * p + [OUTPUT] * o]
    return RoutingTrace(
        experts=np.arange(lengths.sum(), dtype=np.uint16)[:, None, None],
        layers=(0,),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        phase=np.array(phase, dtype=np.uint8),
        source="test",
    )


def sample(
    trace: RoutingTrace, phase: str, users: tuple[int, ...], count: int, seed: int, requests: list[int] | None = None
) -> Batches:
    chosen = np.arange(trace.requests) if requests is None else np.array(requests)
    return sample_batches(trace, 0, chosen, WIDE, Composition(phase, users), count, np.random.default_rng(seed))


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 9), st.integers(1, 40))
def test_slots_walk_through_whole_outputs(seed: int, requests: int, slots: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    prompts, outputs = rng.integers(1, 5, requests).tolist(), rng.integers(0, 8, requests).tolist()
    trace = numbered_trace(prompts, outputs)
    batches = sample(trace, "decode", (slots,), steps, seed)
    owner = np.repeat(np.arange(requests), np.diff(trace.offsets))
    last = {int(stop) - 1 for stop in trace.offsets[1:]}
    started: list[tuple[int, int, int]] = []
    for slot, walk in enumerate(batches.experts[..., 0].T.astype(int)):
        for step, token in enumerate(walk):
            request = owner[token]
            assert outputs[request] == 0 or trace.phase[token] == OUTPUT
            if step and walk[step - 1] not in last:
                assert token == walk[step - 1] + 1  # it walks on, inside its request
            else:
                started.append((step, slot, int(request)))
    arrivals = [request for _, _, request in sorted(started)]
    for first in range(0, len(arrivals) - requests + 1, requests):
        assert sorted(arrivals[first : first + requests]) == list(range(requests))  # each pass takes every request once


def test_requests_that_arrive_later_start_at_their_first_output_token() -> None:
    tokens = sample(numbered_trace([2] * 30, [5] * 30), "decode", (3,), 20, 0).experts[..., 0].astype(int)
    for slot in range(3):
        for step in range(1, 20):
            if tokens[step, slot] != tokens[step - 1, slot] + 1:
                assert tokens[step, slot] % 7 == 2


def test_running_requests_are_entered_at_different_offsets() -> None:
    batches = sample(numbered_trace([0] * 400, [50] * 400), "decode", (200,), 2, 0)
    assert len(np.unique(batches.experts[0, :, 0] % 50)) > 40


def test_only_the_given_requests_are_used_and_shared_experts_are_appended() -> None:
    batches = sample(numbered_trace([1] * 6, [3] * 6), "decode", (2, 2), 9, 0, requests=[1, 4])
    assert set((batches.experts[..., 0] // 4).ravel().tolist()) == {1, 4}
    assert (batches.experts[..., 1:] == [60_000, 60_001]).all()
    assert batches.source_row.tolist() == [[0, 0, 1, 1]] * 9
    with pytest.raises(ValueError, match="read-only"):
        batches.experts[0, 0, 0] = 1


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 9), st.integers(1, 20))
def test_prefill_lays_whole_prompts_end_to_end(seed: int, requests: int, slots: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    prompts, outputs = rng.integers(0, 5, requests).tolist(), rng.integers(1, 8, requests).tolist()
    trace = numbered_trace(prompts, outputs)
    tokens = sample(trace, "prefill", (slots,), steps, seed).experts[..., 0].ravel().astype(int).tolist()
    expected = {
        int(trace.offsets[r]): list(range(trace.offsets[r], trace.offsets[r] + (prompts[r] or outputs[r])))
        for r in range(requests)
    }
    order = []
    while tokens:
        prompt = expected[tokens[0]]  # a stretch starts where a prompt starts
        assert tokens[: len(prompt)] == prompt[: len(tokens)]
        order.append(tokens[0])
        tokens = tokens[len(prompt) :]
    for first in range(0, len(order) - requests + 1, requests):
        assert sorted(order[first : first + requests]) == sorted(expected)


def test_mixed_batches_decode_in_one_half_of_each_row_and_prefill_in_the_other() -> None:
    trace = numbered_trace([7] * 40, [9] * 40)
    batches = sample(trace, "mixed", (5, 0, 4), 30, 1)
    phase = trace.phase[batches.experts[..., 0]]
    assert (phase == [OUTPUT] * 3 + [PROMPT] * 2 + [OUTPUT] * 2 + [PROMPT] * 2).all()
    assert batches.source_row.tolist() == [[0] * 5 + [2] * 4] * 30


def test_the_same_seed_gives_the_same_batches() -> None:
    trace = numbered_trace([7] * 40, [9] * 40)
    for phase in ("decode", "prefill", "mixed"):
        one, same, other = (sample(trace, phase, (8, 8), 5, seed).experts for seed in (1, 1, 2))
        assert (one == same).all()
        assert (one != other).any()


class Queue:
    """Requests in shuffled order, each time round in another, drawn when they are needed."""

    def __init__(self, requests: int, rng: np.random.Generator) -> None:
        self.requests, self.rng = requests, rng
        self.order: list[int] = []
        self.passes = 0

    def next(self) -> int:
        if not self.order:
            self.order = self.rng.permutation(self.requests).tolist()
            self.passes += 1
        return self.order.pop(0)


def plain_walk(tokens_of: Ints, slots: int, steps: int, rng: np.random.Generator) -> list[list[int]]:
    """Decoding, one token of one slot at a time."""
    queue, running, index = Queue(len(tokens_of), rng), [range(0)] * slots, []
    for step in range(steps):
        for slot in range(slots):
            if not running[slot]:
                start, stop = tokens_of[queue.next()].tolist()
                late = step == 0 or queue.passes > 1
                running[slot] = range(int(rng.integers(start, stop)) if late else start, stop)
        index.append([tokens[0] for tokens in running])
        running = [tokens[1:] for tokens in running]
    queue.next()  # who comes next is drawn before it is seen that there is no next step
    return index


def plain_lay(tokens_of: Ints, slots: int, steps: int, rng: np.random.Generator) -> list[list[int]]:
    """Prompts laid end to end, one at a time, and then cut."""
    queue, laid = Queue(len(tokens_of), rng), list[int]()
    while len(laid) < slots * steps:
        laid += range(*tokens_of[queue.next()].tolist())
    return [laid[step * slots : (step + 1) * slots] for step in range(steps)]


def plain_batches(trace: RoutingTrace, composition: Composition, count: int, rng: np.random.Generator) -> Ints:
    """All of the decoding first, then all of the prefilling, from one generator, `[batch, token]`."""
    decodes, requests = composition.decodes(), np.arange(trace.requests)
    index = np.empty((count, composition.tokens), dtype=int)
    if decodes.any():
        index[:, decodes] = plain_walk(spans(trace, requests, output=True), int(decodes.sum()), count, rng)
    if not decodes.all():
        index[:, ~decodes] = plain_lay(spans(trace, requests, output=False), int((~decodes).sum()), count, rng)
    return index


def streamed(
    trace: RoutingTrace, composition: Composition, count: int, chunk: int, rng: np.random.Generator
) -> Iterator[Batches]:
    return stream_batches(trace, 0, np.arange(trace.requests), WIDE, composition, count, rng, chunk)


@given(
    st.integers(0, 10**6),
    st.integers(1, 12),
    st.sampled_from(PHASES),
    st.lists(st.integers(0, 5), min_size=1, max_size=3).filter(any),
    st.integers(1, 40),
    st.integers(1, 50),
)
def test_batches_are_the_same_in_any_chunks_and_as_drawn_token_by_token(
    seed: int, requests: int, phase: str, users: list[int], count: int, chunk: int
) -> None:
    rng = np.random.default_rng(seed)
    trace = numbered_trace(rng.integers(0, 5, requests).tolist(), rng.integers(1, 20, requests).tolist())
    composition = Composition(phase, tuple(users))
    one, other, plain = (np.random.default_rng(seed) for _ in range(3))
    whole = sample_batches(trace, 0, np.arange(requests), WIDE, composition, count, one)
    chunks = list(streamed(trace, composition, count, chunk, other))
    assert [part.count for part in chunks] == [min(chunk, count - start) for start in range(0, count, chunk)]
    assert (np.concatenate([part.experts for part in chunks]) == whole.experts).all()
    assert (np.concatenate([part.source_row for part in chunks]) == whole.source_row).all()
    assert (whole.experts[..., 0] == plain_batches(trace, composition, count, plain)).all()
    assert one.random() == other.random() == plain.random()  # as much was drawn


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 9), st.integers(1, 40))
def test_segments_come_in_time_order_and_fill_every_step_of_every_slot(
    seed: int, requests: int, slots: int, steps: int
) -> None:
    lengths = np.random.default_rng(seed).integers(1, 9, requests)
    ends = np.cumsum(lengths)
    tokens_of = np.stack([ends - lengths, ends], axis=1)
    found = list(walk_segments(tokens_of, slots, steps, np.random.default_rng(seed)))
    assert [first for _, first, _, _, _ in found] == sorted(first for _, first, _, _, _ in found)
    taken = [(slot, first + at) for _, first, _, length, slot in found for at in range(length)]
    assert sorted(taken) == [(slot, step) for slot in range(slots) for step in range(steps)]
    for request, first, token, length, _ in found:
        start, stop = tokens_of[request]
        assert start <= token < token + length <= stop
        assert token + length == stop or first + length == steps


@pytest.mark.parametrize("phase", PHASES)
def test_memory_does_not_grow_with_the_number_of_batches(phase: str) -> None:
    trace = numbered_trace([20] * 200, [30] * 200)

    def peak(count: int) -> int:
        batches = streamed(trace, Composition(phase, (60, 60)), count, 10, np.random.default_rng(0))
        tracemalloc.start()
        assert sum(part.count for part in batches) == count
        reached = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return reached

    peak(30)  # whatever is only made once
    assert peak(1500) < 1.2 * peak(30)


@pytest.mark.parametrize("phase", PHASES)
def test_tokens_bring_their_weights_and_candidates(phase: str) -> None:
    plain = numbered_trace([7] * 40, [9] * 40)
    number = np.arange(plain.tokens)[:, None, None]
    candidates = np.concatenate([number, number + 1], axis=2).astype(np.uint16)
    trace = replace(plain, weights=(number / 8).astype(np.float32), candidates=candidates)
    for batches in streamed(trace, Composition(phase, (5, 4)), 30, 20, np.random.default_rng(1)):
        assert batches.weights is not None
        assert batches.candidates is not None
        assert (batches.weights * 8 == batches.experts[..., :1]).all()
        assert (batches.candidates == batches.experts[..., :1] + np.arange(2)).all()
    for batches in streamed(plain, Composition(phase, (5, 4)), 3, 20, np.random.default_rng(1)):
        assert batches.weights is None
        assert batches.candidates is None


def test_row_users_are_checked_against_the_mesh() -> None:
    mesh = Mesh(4, 2, 3)
    assert Composition.of("decode", 10, None, mesh).row_users == (3, 2, 3, 2)
    assert Composition.of("decode", 3, None, mesh).tokens == 3
    assert Composition.of("prefill", 10, (1, 0, 5, 2), mesh).tokens == 8
    for users in ((1, 2), (1, 2, 3, -1), (0, 0, 0, 0)):
        with pytest.raises(InputError, match="give those of each of"):
            Composition.of("decode", 10, users, mesh)
    with pytest.raises(InputError, match="phase 'lunar'"):
        Composition.of("lunar", 10, None, mesh)
