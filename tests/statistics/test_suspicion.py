"""Faults of recording: each that people have met is found and said with a remedy; traffic itself raises no alarm."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import request_experts

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.statistics.checked import suspicions_of_trace
from optimizer.statistics.count_faults import suspicions_of_counts
from optimizer.statistics.enough import ENOUGH, USUAL_BURSTINESS, recorded
from optimizer.statistics.inspect_traces import inspect_traces
from optimizer.statistics.layer_report import report_of_counts
from optimizer.statistics.row_evidence import MOST_SAMPLED, RowEvidence, stretches
from optimizer.statistics.suspicion import Suspicion, refuse, worst
from optimizer.traces.formats.counts import Counts
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput
from optimizer.traces.synthetic.generator import builtin_trace
from optimizer.traces.trace import OUTPUT, PROMPT, RoutingTrace

MODEL = Model("m", 60, 0, 4)
ONE_RANK = [162554, 147879, 102827, 108924, 46123, 505540, 98864, 184719]
ONE_RANK += [322237, 128708, 117722, 118096, 73528, 245469, 119943, 69937]


def trace_of(parts: list[Ints], prompt: int = 0) -> RoutingTrace:
    """Requests with the first `prompt` tokens of each as their prompt."""
    phase = np.concatenate([np.where(np.arange(len(part)) < prompt, PROMPT, OUTPUT) for part in parts])
    offsets = np.cumsum([0, *map(len, parts)])
    return RoutingTrace(np.concatenate(parts), tuple(range(parts[0].shape[1])), offsets, phase, "requests")


def kinds(found: list[Suspicion]) -> list[str]:
    return [each.kind for each in found]


def counts_of(load: Any, tokens: Any = None) -> Counts:
    made = np.asarray(load)
    made = made if made.ndim == 3 else made[None]
    layers = tuple(range(made.shape[1]))
    return Counts(made, layers, None if tokens is None else np.asarray(tokens), None, (), "counts")


def skewed(rng: np.random.Generator, layers: int, experts: int, mean: int = 4000) -> Ints:
    """Counts as uneven as recorded ones: log-normal with sigma .6."""
    return rng.poisson(mean * np.exp(0.6 * rng.standard_normal((layers, experts))))


def test_a_profile_run_is_found_and_its_remedy_said(rng: np.random.Generator) -> None:
    """4,000 of 5,500 rows of a server's log were alike (w11)."""
    rows = np.concatenate(
        [np.tile(np.array([43, 5, 7, 58], np.uint8), (4000, 1, 1)), request_experts(rng, 1500, 1, 60, 4)]
    )
    (found,) = suspicions_of_trace(trace_of([rows]), MODEL)
    assert found.kind == "repeats"
    assert "3,999 of 5,500 tokens (73%)" in found.seen
    assert "--drop-repeats" in found.remedy


def test_only_one_rank_s_counts_are_named_as_such() -> None:
    """Of 256 experts only 0..15 were counted, and it was planned without a word (w09)."""
    (found,) = suspicions_of_counts(counts_of([[*ONE_RANK, *[0] * 240]]), Model("m", 256, 0, 8))
    assert found.kind == "one-rank"
    assert found.seen.startswith("240 of 256 experts were never counted, only the block 0..15")


@pytest.mark.parametrize("rank", [0, 3, 7])
def test_the_block_of_any_rank_is_one(rng: np.random.Generator, rank: int) -> None:
    load = np.zeros((3, 64), dtype=np.int64)
    load[:, rank * 8 : rank * 8 + 8] = skewed(rng, 3, 8)
    assert kinds(suspicions_of_counts(counts_of(load), Model("m", 64, 0, 4)))[0] == "one-rank"


def test_experts_that_were_never_chosen_are_said_where_it_is_no_accident(rng: np.random.Generator) -> None:
    load = skewed(rng, 4, 64)
    load[2, [3, 40]] = 0
    (found,) = suspicions_of_counts(counts_of(load), Model("m", 64, 0, 4))
    assert found.kind == "never-chosen"
    assert "2 of 64 experts of layer 2" in found.seen
    few = np.where(load == 0, 0, 1)
    assert suspicions_of_counts(counts_of(few), Model("m", 64, 0, 4)) == []


@pytest.mark.parametrize("ranks", [2, 8, 16, 32])
def test_counts_times_ranks_are_told_by_their_common_factor(rng: np.random.Generator, ranks: int) -> None:
    (found,) = suspicions_of_counts(counts_of(skewed(rng, 3, 64) * ranks), Model("m", 64, 0, 4))
    assert found.kind == "times-ranks"
    assert f"multiple of {ranks}" in found.seen


def test_pairs_per_token_that_are_a_multiple_of_top_k_are_said(rng: np.random.Generator) -> None:
    """Where tokens are known, sums of ranks that rounded differently are told as well."""
    load = skewed(rng, 1, 64)
    tokens = load.sum() // 32
    load[0, 0] += tokens * 32 - load.sum()
    found = suspicions_of_counts(counts_of(load, [tokens]), Model("m", 64, 0, 4))
    assert [each.seen for each in found if each.kind == "times-ranks"] == [
        "32.0 pairs per token are 8 times the top-4: 8 ranks' counts"
    ]


def test_padded_rows_in_counts_are_told_by_the_excess_of_top_k_experts(rng: np.random.Generator) -> None:
    load = skewed(rng, 5, 64)
    for layer in load:
        layer[rng.choice(64, 4, replace=False)] += layer.sum() // 4
    (found,) = suspicions_of_counts(counts_of(load), Model("m", 64, 0, 4))
    assert found.kind == "padding"
    assert "exactly 4 experts" in found.seen


def test_padded_rows_in_requests_are_told_by_one_frequent_row(rng: np.random.Generator) -> None:
    """They need not come one after another."""
    parts = [request_experts(rng, 100, 3, 60, 4) for _ in range(6)]
    for part in parts:
        part[rng.choice(100, 10, replace=False)] = parts[0][0]
    (found,) = suspicions_of_trace(trace_of(parts), MODEL)
    assert found.kind == "frequent-row"
    assert found.seen.startswith("10% of all tokens")


@pytest.mark.parametrize(("start", "stop", "kind"), [(0, 30, "prompts-alike"), (30, 80, "outputs-alike")])
def test_stale_rows_of_a_phase_are_told(rng: np.random.Generator, start: int, stop: int, kind: str) -> None:
    """Prompts that a decode-only server did not fill in; outputs of a CUDA graph that was replayed."""
    stale = request_experts(rng, 80, 3, 60, 4)
    parts = [request_experts(rng, 80, 3, 60, 4) for _ in range(6)]
    for part in parts[1:]:
        part[start:stop] = stale[start:stop]
    (found,) = [each for each in suspicions_of_trace(trace_of(parts, 30), MODEL) if each.kind != "frequent-row"]
    assert found.kind == kind
    assert "5 of 6 requests" in found.seen


def test_a_shared_system_prompt_is_no_stale_prompt(rng: np.random.Generator) -> None:
    """Its tokens are the same in all requests, but what follows is not."""
    system = request_experts(rng, 40, 3, 60, 4)
    parts = [np.concatenate([system, request_experts(rng, 60, 3, 60, 4)]) for _ in range(60)]
    assert "prompts-alike" not in kinds(suspicions_of_trace(trace_of(parts, 80), MODEL))


def test_a_top_1_model_that_chose_expert_0_alone_is_refused() -> None:
    """With top-1, zeros are valid ids; with more they name an expert twice, which readers refuse."""
    found = suspicions_of_trace(trace_of([np.zeros((200, 2, 1), dtype=np.uint8)]), Model("m", 16, 0, 1))
    with pytest.raises(InputError, match="nothing was captured"):
        refuse(found, strict=False)


def test_experts_beyond_the_model_and_a_shared_one_are_said(rng: np.random.Generator) -> None:
    load = skewed(rng, 3, 64)
    load[:, 0] += -load.sum(axis=1) % 4
    with_shared = np.concatenate([load, load.sum(axis=1, keepdims=True) // 4], axis=1)
    assert kinds(suspicions_of_counts(counts_of(with_shared), Model("m", 64, 1, 4)))[:2] == [
        "shared-expert",
        "beyond-model",
    ]
    twice = np.concatenate([load, load], axis=1)
    (found,) = suspicions_of_counts(counts_of(twice), Model("m", 64, 0, 4))
    assert "50% of all pairs" in found.seen
    assert "--no-op-experts 64" in found.remedy


def test_a_row_more_than_the_model_has_layers_is_said(rng: np.random.Generator) -> None:
    """58 MoE layers and the MTP layer, which ran less often: 59 rows."""
    load = skewed(rng, 6, 64)
    load[-1] //= 50
    found = suspicions_of_counts(counts_of(load), Model("m", 64, 0, 4, layers=5))
    assert kinds(found) == ["layer-axis", "uneven-layers"]
    assert "layers 0..5 are counted, but m has none above 4 (6 rows, 5 MoE layers)" in found[0].seen


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([(8, 1), (8, 2), (32, 4), (64, 6), (256, 8)]))
def test_uneven_counts_alone_raise_no_alarm(seed: int, layers: int, size: tuple[int, int]) -> None:
    experts, top_k = size
    load = skewed(np.random.default_rng(seed), layers, experts)
    load = np.minimum(load, load.sum(axis=1, keepdims=True) // max(top_k, 2))
    found = suspicions_of_counts(counts_of(load), Model("m", experts, 0, top_k))
    assert [each for each in found if each.kind != "uneven-layers"] == []


@pytest.mark.parametrize("model", [Model("m", 64, 0, 6), Model("m", 32, 1, 4), Model("m", 8, 0, 2)])
def test_generated_traces_raise_no_alarm(model: Model) -> None:
    for seed in range(3):
        trace = builtin_trace(model, [3], seed)
        assert suspicions_of_trace(trace, model) == []


def test_real_traces_raise_no_alarm(real_traces: Any) -> None:
    for path in ("deepseek-v2-lite", "glm-5.2/expert_counts.npz"):
        named = TraceInput([str(real_traces / path)])
        assert inspect_traces(named, ModelChoice(), [12], Mesh(4, 8, 3), lambda share: None).suspicions == []


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(1, 4))
def test_stretches_are_those_that_one_sees(values: list[int], usual: int) -> None:
    """Against cutting the rows at every change."""
    rows = np.array(values, dtype=np.uint64)
    lengths = [len(run) for run in np.split(rows, np.flatnonzero(np.diff(rows)) + 1)]
    assert stretches(rows, usual) == (max(lengths), sum(length - 1 for length in lengths if length > usual))


def test_rows_are_thinned_where_there_are_very_many(rng: np.random.Generator) -> None:
    """What is remembered stays small, and the share of the most frequent row is still right."""
    evidence = RowEvidence(several_layers=True)
    for _ in range(10):
        rows = rng.integers(1, 2**60, MOST_SAMPLED, dtype=np.uint64)
        rows[rng.random(MOST_SAMPLED) < 0.1] = 0
        evidence.add_rows(rows, 0)
    sampled, most, _ = evidence.modal()
    assert MOST_SAMPLED / 2 <= sampled <= 2 * MOST_SAMPLED
    assert most / sampled == pytest.approx(0.1, abs=0.01)


def test_one_line_says_the_worst_and_how_many_more() -> None:
    found = [Suspicion("a", "this was seen", "do that"), Suspicion("b", "and this", "do so")]
    assert worst(found) == ("looks wrong: this was seen; do that; 1 more thing(s) look wrong, see `moeplan stats`",)
    assert worst([]) == ()
    with pytest.raises(InputError, match="this was seen") as caught:
        refuse(found, strict=True)
    assert caught.value.field == "strict"
    refuse(found, strict=False)


def test_enough_is_recorded_once_the_expected_loss_is_small() -> None:
    """loss = .8 sqrt(burstiness experts / (tokens top-k)), by which tokens that make it 5 % are wanted."""
    model = Model("m", 8, 0, 2)
    counted = counts_of(np.full((1, 1, 8), 1000))
    found = recorded(report_of_counts(counted, model, 0, Mesh(2, 2, 2)), model.top_k)
    assert (found.tokens, found.burstiness, found.known) == (4000, USUAL_BURSTINESS, False)
    assert found.wanted == 256 * USUAL_BURSTINESS * 4
    assert found.verdict == "record 17,000 more"
    assert found.loss == pytest.approx(ENOUGH * np.sqrt(found.wanted / found.tokens))
    steps = np.random.default_rng(0).multinomial(200_000, np.full(8, 1 / 8), size=10)[:, None]
    enough = recorded(report_of_counts(counts_of(steps), model, 0, Mesh(2, 2, 2)), model.top_k)
    assert enough.known
    assert enough.burstiness < 2
    assert enough.verdict == "enough"
