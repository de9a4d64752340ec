"""Generated traces: each figure of DOMAIN section 4 counted afresh, and the gate against one written in plain Python.

How the figures are defined. *Lift* of a pair: how often tokens choose both, over `tokens p_i p_j (k - 1) / k`, what
independent choices of k distinct experts give. *Request variation*: the root of the mean over requests of `v^2 - w^2`,
where v is the total variation of the request's shares against those of its set, and w that of as many tokens
drawn from the whole set at random, so that short requests are not taken for unusual ones. *Overlap* of two tokens: the
share of the k experts that both choose.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path
from statistics import NormalDist, mean

import numpy as np
import pytest

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.model import Model
from optimizer.domain.presets import load_model
from optimizer.errors import InputError
from optimizer.streams import Purpose, derived_seed, key_of_text
from optimizer.traces.corpus import find_files, read_traces
from optimizer.traces.formats.request import Request
from optimizer.traces.formats.write import write_request
from optimizer.traces.synthetic.corpus_writer import CorpusRecipe, synthesise
from optimizer.traces.synthetic.generator import Gates, builtin_trace, calibrated_gates, generate
from optimizer.traces.synthetic.marginals import calibrate, lognormal_shares, shares_of_counts
from optimizer.traces.trace import OUTPUT, PROMPT

V3, LITE = load_model("deepseek-v3"), load_model("deepseek-v2-lite")
GROUPED = Model("grouped", 24, 0, 3, layers=6, first_moe_layer=1, groups=4, groups_per_token=2)
LAYER = 12


@dataclass(frozen=True)
class Sample:
    """The sets of experts of each token, request by request."""

    experts: int
    requests: list[list[frozenset[int]]]

    @property
    def tokens(self) -> list[frozenset[int]]:
        return [token for request in self.requests for token in request]


def sampled(gates: Gates, requests: int, length: int, dataset: str = "") -> Sample:
    made = generate(gates, dataset, np.arange(requests), np.full(requests, length)).experts[:, 0].tolist()
    tokens = [frozenset(token) for token in made]
    parts = [tokens[start : start + length] for start in range(0, len(tokens), length)]
    return Sample(gates.model.routed_experts, parts)


def shares(tokens: list[frozenset[int]]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for token in tokens:
        counts.update(token)
    return counts


def variation(one: Counter[int], other: Counter[int]) -> float:
    """Total variation between the shares of two counts."""
    return sum(abs(one[e] / one.total() - other[e] / other.total()) for e in one | other) / 2


@pytest.fixture(scope="module")
def v3() -> Gates:
    return calibrated_gates(V3, [LAYER], 0)


@pytest.fixture(scope="module")
def lite() -> Gates:
    return calibrated_gates(LITE, [LAYER], 0)


@pytest.fixture(scope="module")
def usual(v3: Gates) -> Sample:
    """60,000 tokens."""
    return sampled(v3, 2500, 24)


def lifts(sample: Sample) -> dict[tuple[int, int], float]:
    counts, tokens = shares(sample.tokens), len(sample.tokens)
    together: Counter[tuple[int, int]] = Counter()
    for token in sample.tokens:
        together.update(combinations(sorted(token), 2))
    k = len(sample.tokens[0])
    return {
        (i, j): together[i, j] * tokens / (counts[i] * counts[j] * (k - 1) / k)
        for i, j in combinations(range(sample.experts), 2)
    }


def test_co_activation_has_the_lifts_of_the_fit_and_of_real_traces(usual: Sample) -> None:
    """The lowest quantile is .200-.208 and the highest 3.47-3.60 for ten gates tried: the margins hold these."""
    found = lifts(usual)
    quantiles = np.quantile(list(found.values()), [0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
    assert quantiles[:3] == pytest.approx([0.24, 0.54, 0.86], abs=0.05)
    assert quantiles[3:] == pytest.approx([1.29, 2.25, 3.25], rel=0.12)
    assert quantiles[:3] == pytest.approx([0.27, 0.59, 0.87], abs=0.09)
    assert quantiles[3:] == pytest.approx([1.22, 2.15, 3.5], rel=0.12)
    assert mean(lift for (i, j), lift in found.items() if i // 32 == j // 32) == pytest.approx(1.6, abs=0.08)


def test_shares_have_the_measured_tail(usual: Sample) -> None:
    counts = sorted(shares(usual.tokens).values(), reverse=True)
    average = sum(counts) / 256
    found = [counts[rank - 1] / average for rank in (1, 2, 4, 8)]
    assert found == pytest.approx([5.6, 4.9, 4.1, 3.25], rel=0.06)
    assert sum(counts[:32]) / sum(counts) == pytest.approx(0.32, abs=0.02)
    assert np.std(np.log(counts)) == pytest.approx(0.63, abs=0.04)


def variation_of_requests(sample: Sample, rng: np.random.Generator) -> float:
    tokens, excess = sample.tokens, []
    whole = shares(tokens)
    for request in sample.requests:
        strangers = [tokens[i] for i in rng.integers(len(tokens), size=len(request))]
        excess.append(variation(shares(request), whole) ** 2 - variation(shares(strangers), whole) ** 2)
    return math.sqrt(mean(excess))


def test_a_request_differs_from_its_data_set(v3: Gates, rng: np.random.Generator) -> None:
    """DeepSeek-V3's requests differ from their set by .2."""
    for dataset in ("law", "maths"):
        assert variation_of_requests(sampled(v3, 200, 250, dataset), rng) == pytest.approx(0.2, abs=0.02)


def test_a_request_differs_more_from_traffic_of_all_domains(v3: Gates, rng: np.random.Generator) -> None:
    """Recorded requests differ by .27 (V2-Lite) and .40 (GPT-OSS) from all data sets of their corpus together."""
    assert 0.27 < variation_of_requests(sampled(v3, 200, 250), rng) < 0.40


def overlaps(sample: Sample, rng: np.random.Generator) -> tuple[float, float, float]:
    """Of neighbours, of tokens of one request that are no neighbours, and of tokens of two requests."""

    def overlap(pairs: list[tuple[frozenset[int], frozenset[int]]]) -> float:
        return mean(len(one & other) / len(one) for one, other in pairs)

    neighbours = [pair for request in sample.requests for pair in pairwise(request)]
    inside = [(r[i], r[j]) for r in sample.requests for i, j in rng.integers(len(r), size=(30, 2)) if abs(i - j) > 1]
    numbers = rng.integers(len(sample.requests), size=(9000, 2))
    across = [(sample.requests[i][0], sample.requests[j][0]) for i, j in numbers if i != j]
    return overlap(neighbours), overlap(inside), overlap(across)


def test_neighbours_resemble_each_other_most_then_tokens_of_one_request(
    v3: Gates, lite: Gates, rng: np.random.Generator
) -> None:
    """DOMAIN's ranges are of models with 32 and 64 experts: among 256, eight random choices meet far less often."""
    near, same, far = overlaps(sampled(lite, 300, 80), rng)
    assert 0.26 < near < 0.43
    assert 0.16 < same < 0.29
    assert 0.12 < far < 0.19
    near, same, far = overlaps(sampled(v3, 300, 80), rng)
    assert 3.2 < near / far < 4.2
    assert 1.6 < same / far < 2.2


def excess_overlap(sample: Sample, lag: int, rng: np.random.Generator) -> float:
    """How much of the overlap that chance leaves open is there between tokens of a request that are `lag` apart."""
    pairs = [(r[i], r[i + lag]) for r in sample.requests for i in range(len(r) - lag)]
    inside = mean(len(one & other) / len(one) for one, other in pairs)
    across = overlaps(sample, rng)[2]
    return (inside - across) / (1 - across)


def test_tokens_of_a_request_forget_as_slowly_as_real_ones(lite: Gates, rng: np.random.Generator) -> None:
    """DeepSeek-V2-Lite's recorded tokens 1, 4, 16 and 64 apart, all data sets together: .218, .119, .107 and .073."""
    sample = sampled(lite, 300, 100)
    found = [excess_overlap(sample, lag, rng) for lag in (1, 4, 16, 64)]
    assert found == pytest.approx([0.218, 0.119, 0.107, 0.073], abs=0.03)
    assert found == sorted(found, reverse=True)


def test_data_sets_differ_as_text_domains_do(v3: Gates) -> None:
    """Ten text domains differ by .34 pairwise, data sets recorded from GPT-OSS and V2-Lite by .34 and .40."""
    counts = [shares(sampled(v3, 400, 25, name).tokens) for name in ("law", "maths", "code", "chat", "news")]
    pairs = [variation(one, other) for one, other in combinations(counts, 2)]
    assert all(0.25 < pair < 0.5 for pair in pairs)
    assert mean(pairs) == pytest.approx(0.34, abs=0.05)
    again = generate(v3, "law", np.arange(400, 800), np.full(400, 25)).experts[:, 0].tolist()
    assert variation(counts[0], shares([frozenset(token) for token in again])) < 0.08


def misses(gates: Gates, wanted: Floats) -> float:
    """Total variation of the long-run shares against the wanted ones, 400,000 tokens, sampling noise taken off."""
    made = generate(gates, "", np.arange(20_000), np.full(20_000, 20)).experts
    found = np.bincount(made.ravel(), minlength=len(wanted)) / made.size
    noise = 0.5 * math.sqrt(2 / math.pi) * np.sqrt(wanted / made.size).sum()
    return math.sqrt(max(0.0, float(0.5 * abs(found - wanted).sum()) ** 2 - float(noise) ** 2))


def test_given_counts_are_reproduced(rng: np.random.Generator, real_traces: Path) -> None:
    with np.load(real_traces / "glm-5.2" / "expert_counts.npz") as archive:
        real = archive["counts"][1].sum(axis=0)[[9]]
    assert misses(calibrated_gates(V3, [LAYER], 0, real), real[0] / real.sum()) < 0.01


def test_counts_with_idle_and_with_very_hot_experts_are_reproduced(rng: np.random.Generator) -> None:
    counts = np.concatenate([np.zeros(10), [3000, 2500], rng.exponential(100, 52) ** 1.2]).astype(int)[None]
    gates = calibrated_gates(LITE, [LAYER], 5, counts)
    assert misses(gates, counts[0] / counts.sum()) < 0.01
    assert (builtin_trace(LITE, [LAYER], 5, counts).experts >= 10).all()


@pytest.mark.parametrize("model", [V3, LITE, GROUPED, Model("m", 8, 0, 2), Model("m", 5, 1, 1), Model("m", 4, 0, 4)])
def test_experts_are_distinct_and_of_the_best_groups(model: Model) -> None:
    layer = model.first_moe_layer
    chosen = np.sort(generate(calibrated_gates(model, [layer], 2), "a", np.arange(50), np.full(50, 20)).experts, axis=2)
    assert chosen.shape == (1000, 1, model.top_k)
    assert (np.diff(chosen.astype(int), axis=2) > 0).all()
    assert chosen.max() < model.routed_experts
    size = model.routed_experts // model.groups
    assert max(len(set(token // size)) for token in chosen[:, 0]) == min(model.groups_per_token, model.top_k)


def test_candidates_begin_with_the_experts_and_weights_sum_to_one(v3: Gates) -> None:
    plain = generate(v3, "a", np.arange(30), np.full(30, 20))
    made = generate(v3, "a", np.arange(30), np.full(30, 20), candidates=True, weights=True)
    assert plain.candidates is None
    assert plain.weights is None
    assert made.candidates is not None
    assert made.weights is not None
    assert (made.experts == plain.experts).all()
    assert (made.candidates[..., :8] == plain.experts).all()
    assert made.candidates.shape == (600, 1, 16)
    assert all(len(set(token)) == 16 and len(set(token // 32)) <= 4 for token in made.candidates[:, 0])
    assert made.weights.dtype == np.float16
    assert made.weights.astype(float).sum(axis=2) == pytest.approx(np.ones((600, 1)), abs=3e-3)


def test_candidates_are_as_many_as_there_may_be() -> None:
    made = generate(calibrated_gates(GROUPED, [1], 0), "", np.arange(2), np.full(2, 3), candidates=True)
    assert made.candidates is not None
    assert made.candidates.shape[2] == 12
    with pytest.raises(InputError, match="a token may use no expert beyond its top-4"):
        generate(calibrated_gates(Model("m", 4, 0, 4), [0], 0), "", np.arange(2), np.full(2, 3), candidates=True)


def test_the_builtin_trace_has_weights_and_candidates_where_they_are_asked_for() -> None:
    plain, trace = builtin_trace(LITE, [LAYER, 3], 1), builtin_trace(LITE, [LAYER, 3], 1, extras=True)
    assert plain.weights is None
    assert plain.candidates is None
    assert (trace.experts == plain.experts).all()
    assert trace.candidates is not None
    assert trace.weights is not None
    assert trace.candidates.shape == (trace.tokens, 2, 16)
    assert (trace.candidates[..., :6] == trace.experts).all()
    assert trace.weights.dtype == np.float32
    assert trace.candidates.dtype == np.uint16
    assert trace.weights.sum(axis=2) == pytest.approx(np.ones((trace.tokens, 2)), abs=3e-3)
    lonely = builtin_trace(Model("m", 4, 0, 4), [0], 0, extras=True)  # no expert is beyond the top-4
    assert lonely.candidates is None
    assert lonely.weights is not None


MASK = (1 << 64) - 1


def hashed(bits: int) -> int:
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & MASK
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & MASK
    return bits ^ bits >> 31


def sixteen_bits(state: int) -> Iterator[int]:
    """The numbers of splitmix64, lowest sixteen bits first."""
    while True:
        state = state + 0x9E3779B97F4A7C15 & MASK
        for shift in (0, 16, 32, 48):
            yield hashed(state) >> shift & 0xFFFF


def test_splitmix64_gives_its_published_numbers() -> None:
    bits = sixteen_bits(1234567)
    numbers = [sum(next(bits) << shift for shift in (0, 16, 32, 48)) for _ in range(3)]
    assert numbers == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def drawn(bits: Iterator[int], count: int, quantile: Callable[[float], float]) -> list[float]:
    """This many numbers, and the rest of the last 64 bits thrown away."""
    return [quantile((next(bits) + 0.5) / 65536) for _ in range(-(-count // 4) * 4)][:count]


def plain_choices(gates: Gates, place: int, request: int, length: int) -> Iterator[tuple[list[int], list[float]]]:
    """The usable experts of each token of a request without a data set, ranked, and the weights of the first k."""
    model = gates.model
    bias, topics, directions = (array[place].astype(float) for array in (gates.bias, gates.topics, gates.directions))
    normal = NormalDist().inv_cdf
    key = hashed(derived_seed(Purpose.REQUEST_ROUTING, gates.seed, key_of_text(""), bits=64) ^ hashed(request))
    topic = math.hypot(0.9, 0.35) * np.array(drawn(sixteen_bits(key), 16, normal))
    bits = sixteen_bits(hashed(key ^ hashed(gates.layers[place] + 0x9E3779B97F4A7C15)))
    fast, slow = (math.sqrt(share) * np.array(drawn(bits, 12, normal)) for share in (0.8, 0.2))
    size = model.routed_experts // model.groups
    for _ in range(length):
        clean = bias + topic @ topics + (fast + slow) @ directions
        score = clean + drawn(bits, model.routed_experts, lambda share: -math.log(-math.log(share)))
        strength = [sum(sorted(score[g * size : g * size + size])[-2:]) for g in range(model.groups)]
        kept = sorted(range(model.groups), key=lambda g: -strength[g])[: model.groups_per_token]
        ranked = sorted((e for e in range(model.routed_experts) if e // size in kept), key=lambda e: -score[e])
        weights = np.exp(clean[ranked[: model.top_k]])
        yield ranked, (weights / weights.sum()).tolist()
        fast = 0.6 * fast + math.sqrt(0.8 * (1 - 0.6**2)) * np.array(drawn(bits, 12, normal))
        slow = 0.985 * slow + math.sqrt(0.2 * (1 - 0.985**2)) * np.array(drawn(bits, 12, normal))


@pytest.mark.parametrize("model", [GROUPED, replace(GROUPED, top_k=7), replace(GROUPED, groups=1), Model("m", 7, 0, 2)])
def test_the_gate_is_the_one_of_the_formula(model: Model) -> None:
    gates = calibrated_gates(model, [4, 2], 9)
    made = generate(gates, "", np.array([8, 3]), np.array([15, 40]), candidates=True, weights=True)
    assert made.candidates is not None
    assert made.weights is not None
    for place in (0, 1):
        plain = [*plain_choices(gates, place, 8, 15), *plain_choices(gates, place, 3, 40)]
        m = made.candidates.shape[2]
        assert made.candidates[:, place].tolist() == [ranked[:m] for ranked, _ in plain]
        assert made.weights[:, place].astype(float) == pytest.approx(np.array([w for _, w in plain]), abs=2e-3)


def test_a_request_depends_on_seed_data_set_number_and_layer_alone() -> None:
    gates = calibrated_gates(GROUPED, [1, 3], 0)
    lengths = np.array([5, 9, 7])
    whole = generate(gates, "a", np.arange(3), lengths).experts
    assert (generate(gates, "a", np.array([1]), np.array([9])).experts == whole[5:14]).all()
    assert (generate(gates, "a", np.array([2, 1]), np.array([7, 9])).experts[7:] == whole[5:14]).all()
    assert (generate(gates, "a", np.array([1]), np.array([4])).experts == whole[5:9]).all()
    alone = calibrated_gates(GROUPED, [3], 0)
    assert (generate(alone, "a", np.arange(3), lengths).experts[:, 0] == whole[:, 1]).all()
    others = [
        generate(gates, "b", np.arange(3), lengths),
        generate(gates, "a", np.arange(3, 6), lengths),
        generate(calibrated_gates(GROUPED, [1, 3], 1), "a", np.arange(3), lengths),
        generate(calibrated_gates(GROUPED, [3, 1], 0), "a", np.arange(3), lengths),
    ]
    assert all((other.experts != whole).mean() > 0.5 for other in others)


def test_the_target_scales_to_other_numbers_of_experts(rng: np.random.Generator) -> None:
    for experts, hottest in ((256, 5.6), (64, 4.6), (32, 4.0)):
        share = lognormal_shares(experts, rng)
        assert share.sum() == pytest.approx(1)
        assert share.max() * experts == pytest.approx(hottest, rel=0.02)
    assert not (lognormal_shares(64, rng) == lognormal_shares(64, rng)).all()


def test_calibration_finds_the_biases_of_a_known_router() -> None:
    """Top-1 with noise alone is a softmax of the biases: they must come out as the logarithms of the shares."""
    wanted = np.array([0.5, 0.25, 0.15, 0.07, 0.03, 0.0])

    def softmax(bias: Floats, turn: int, tokens: int) -> Ints:
        odds = np.exp(bias)
        counts: Ints = np.rint(1000 * tokens * odds / odds.sum()).astype(int)
        return counts

    odds = np.exp(calibrate(wanted, 1, softmax))
    assert odds / odds.sum() == pytest.approx(wanted, abs=1e-3)


def test_impossible_counts_and_models_are_refused() -> None:
    with pytest.raises(
        InputError, match="counts of layer 7: expert 1 has 60 of 100 selections, more than one per token"
    ):
        shares_of_counts(np.array([20, 60, 20]), 2, 7)
    for counts in ([0, 0], [3, -1]):
        with pytest.raises(InputError, match="counts of layer 7: they are all zero, or some are negative"):
            shares_of_counts(np.array(counts), 1, 7)
    with pytest.raises(InputError, match=r"counts have shape \(1, 8\), not 2 layers x 24 experts"):
        calibrated_gates(GROUPED, [1, 2], 0, np.ones((1, 8), dtype=int))
    for wrong in (replace(GROUPED, routed_experts=25), replace(GROUPED, groups=24), replace(GROUPED, top_k=13)):
        with pytest.raises(InputError, match=r"does not fit 2 of \d+ equal groups of two or more"):
            calibrated_gates(wrong, [1], 0)
    with pytest.raises(InputError, match="layer 0 is no MoE layer of grouped"):
        calibrated_gates(GROUPED, [0], 0)


def test_a_corpus_is_read_back_layer_by_layer(tmp_path: Path) -> None:
    corpus = CorpusRecipe(6, 10, 20, ("law", "maths"), seed=4)
    synthesise(tmp_path / "all", GROUPED, range(1, 6), corpus)
    synthesise(tmp_path / "some", GROUPED, [2, 4], corpus)
    whole = read_traces(find_files([str(tmp_path / "all")]), GROUPED, [1, 2, 3, 4, 5], strict=True)
    some = read_traces(find_files([str(tmp_path / "some")]), GROUPED, [2, 4], strict=True)
    assert whole.requests == 12
    assert (some.experts == whole.experts[:, [1, 3]]).all()
    assert (some.offsets == whole.offsets).all()
    gates = calibrated_gates(GROUPED, [3], 4)
    length = np.diff(whole.offsets)[7]
    expected = generate(gates, "maths", np.array([1]), np.array([length])).experts[:, 0]
    assert (whole.layer(3)[whole.offsets[7] : whole.offsets[8]] == expected).all()
    with np.load(tmp_path / "all" / "law" / "request_00003.npz") as archive:
        assert sorted(archive) == ["output_token_ids", "prompt_token_ids", "request_id", "routed_experts"]
        assert archive["request_id"] == 3
        assert archive["routed_experts"].shape[1:] == (5, 3)
        assert archive["routed_experts"].dtype == np.uint8
    with np.load(tmp_path / "some" / "law" / "request_00003.npz") as archive:
        assert archive["routed_experts"].shape[1:] == (5, 3)
        assert not archive["routed_experts"][:, [0, 1, 3]].any()


def test_all_moe_layers_of_a_model_are_written_as_they_are(tmp_path: Path) -> None:
    model = replace(GROUPED, layers=9, first_moe_layer=3)
    synthesise(tmp_path, model, range(3, 9), CorpusRecipe(2, 3, 3))
    files = find_files([str(tmp_path)])
    with np.load(files[0].path) as archive:
        assert archive["routed_experts"].shape[1] == 6
    layer = read_traces(files, model, [8], strict=True).layer(8)
    lengths = np.diff(read_traces(files, model, [8]).offsets)
    assert (layer == generate(calibrated_gates(model, [8], 0), "", np.arange(2), lengths).experts[:, 0]).all()


def test_files_are_the_same_for_a_seed_whatever_their_number(tmp_path: Path) -> None:
    for name, requests, seed in (("a", 4, 0), ("b", 7, 0), ("c", 4, 1)):
        synthesise(
            tmp_path / name, GROUPED, [1], CorpusRecipe(requests, 4, 9, seed=seed, candidates=True, weights=True)
        )
    for number in range(4):
        one, same, other = (tmp_path / name / f"request_{number:05}.npz" for name in "abc")
        assert one.read_bytes() == same.read_bytes() != other.read_bytes()
    assert len(list((tmp_path / "b").iterdir())) == 7


def test_lengths_follow_their_means_and_progress_ends_at_one(tmp_path: Path) -> None:
    seen: list[float] = []
    synthesise(tmp_path, Model("m", 8, 0, 2), [0], CorpusRecipe(400, 30, 60), progress=seen.append)
    trace = read_traces(find_files([str(tmp_path)]), Model("m", 8, 0, 2), [0])
    assert (trace.phase == PROMPT).sum() / 400 == pytest.approx(30, rel=0.15)
    assert (trace.phase == OUTPUT).sum() / 400 == pytest.approx(60, rel=0.15)
    lengths = np.diff(trace.offsets)
    assert lengths.min() >= 2
    assert np.std(lengths) > 20
    assert seen == sorted(seen)
    assert seen[-1] == 1
    synthesise(tmp_path / "outputs", Model("m", 8, 0, 2), [0], CorpusRecipe(3, 0, 5))
    assert (read_traces(find_files([str(tmp_path / "outputs")]), Model("m", 8, 0, 2), [0]).phase == OUTPUT).all()


def test_a_corpus_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one request and a positive mean length"):
        CorpusRecipe(0, 5, 5)
    with pytest.raises(InputError, match="at least one request and a positive mean length"):
        CorpusRecipe(1, 0, 0)
    for names in (("a", "a"), ("a/b",), ("..",), (".",), ()):
        with pytest.raises(InputError, match="each names a folder"):
            CorpusRecipe(1, 5, 5, names)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: cannot be made"):
        synthesise(tmp_path / "file", GROUPED, [1], CorpusRecipe(1, 5, 5))
    synthesise(tmp_path / "made", GROUPED, [1], CorpusRecipe(1, 5, 5))
    with pytest.raises(InputError, match=r"request_00000\.npz: is there already"):
        synthesise(tmp_path / "made", GROUPED, [1], CorpusRecipe(1, 5, 5))


def test_a_request_is_written_with_all_it_has(tmp_path: Path, rng: np.random.Generator) -> None:
    candidates = np.argsort(rng.random((5, 2, 300)), axis=2)[..., :6]
    weights = rng.random((5, 2, 3)).astype(np.float16)
    request = Request(candidates[..., :3], 2, (4, 1), weights, candidates)
    write_request(tmp_path / "a.npz", request, 77)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert archive["request_id"] == 77
        assert archive["prompt_token_ids"].tolist() == [-1] * 2
        assert archive["output_token_ids"].tolist() == [-1] * 3
        for key, given in (("routed_experts", request.experts), ("routed_weights", weights)):
            assert archive[key].shape == (5, 5, 3)
            assert (archive[key][:, [4, 1]] == given).all()
            assert not archive[key][:, [0, 2, 3]].any()
        assert (archive["candidate_experts"][:, [4, 1]] == candidates).all()
        assert archive["candidate_experts"].dtype == np.uint16
    model = Model("m", 300, 0, 3)
    assert (read_traces(find_files([str(tmp_path)]), model, [4]).layer(4) == candidates[:, 0, :3]).all()


def test_impossible_ids_are_not_turned_into_possible_ones(tmp_path: Path) -> None:
    for number, wrong in enumerate((-1, 1 << 16)):
        write_request(tmp_path / f"{number}.npz", Request(np.array([[[0, wrong]]]), 0), 0)
        with pytest.raises(InputError, match=f"expert id {wrong}"):
            read_traces(find_files([str(tmp_path / f"{number}.npz")]), Model("m", 300, 0, 2), [0])


def test_a_request_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, request = tmp_path / "a.npz", Request(np.array([[[0, 1]]]), 0)
    write_request(path, request, 1)
    before = path.read_bytes()

    def fail(file: object, **arrays: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(InputError, match=r"a\.npz: cannot be written \(No space left on device\)"):
        write_request(path, request, 2)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]
    with pytest.raises(InputError, match="cannot be written"):
        write_request(tmp_path / "none" / "a.npz", request, 1)
