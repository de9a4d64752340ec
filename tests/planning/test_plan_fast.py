"""All layers planned on expected load, against plain counting."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from random_problems import cost, request_experts, write_request
from rich.console import Console

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.problem import Constraints
from optimizer.errors import InputError
from optimizer.planning.options import SolveOptions
from optimizer.planning.plan_fast import TEST, TOKENS, TRAIN, FastLayer, fast_plan, loads_of
from optimizer.planning.plan_file import Plan, read_plan, write_plan
from optimizer.report import fast as report
from optimizer.report.rendering import WIDTH, print_parts
from optimizer.traces.batches import split_requests
from optimizer.traces.source import TraceInput, TraceSource, open_source
from optimizer.traces.trace import OUTPUT, PROMPT

MODEL, MESH, LAYERS = Model("drawn", 8, 1, 2), Mesh(2, 2, 4), [2, 0, 1]
NO_LIMITS = Constraints()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve requests, of which some have no output and others no prompt."""
    rng, folder = np.random.default_rng(7), tmp_path_factory.mktemp("traces")
    for number in range(12):
        tokens = int(rng.integers(10, 30))
        prompt = (0, 6, tokens)[number % 3]
        write_request(folder / f"r{number}.npz", request_experts(rng, tokens, 3, 8, 2), prompt)
    return folder


def opened(corpus: Path, phase: str = "decode", model: Model = MODEL) -> TraceSource:
    named = TraceInput(traces=[str(corpus)], phase=phase, batch_tokens=64)
    source = open_source(named, [0, 1, 2], model, MESH, lambda share: None)
    assert isinstance(source, TraceSource)
    return source


def counted(source: TraceSource, turn: int, layer: int, phase: int) -> tuple[Counter[int], int]:
    """Pairs and tokens of the requests of a set in one phase; a request without such tokens counts as a whole."""
    trace, pairs, tokens = source.trace, Counter[int](), 0
    for request in split_requests(trace.requests, source.seed)[turn].tolist():
        every = range(int(trace.offsets[request]), int(trace.offsets[request + 1]))
        chosen = [token for token in every if trace.phase[token] == phase] or list(every)
        tokens += len(chosen)
        for token in chosen:
            pairs.update(trace.experts[token, layer].tolist())
    return pairs, tokens


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize(("phase", "shares"), [("decode", (1, 0)), ("prefill", (0, 1)), ("mixed", (0.5, 0.5))])
def test_loads_are_what_plain_counting_gives(corpus: Path, phase: str, shares: tuple[float, float], jobs: int) -> None:
    source = opened(corpus, phase)
    found = loads_of(source, LAYERS, jobs)
    for turn, place in ((0, TRAIN), (2, TEST)):
        for number, layer in enumerate(LAYERS):
            expected = np.zeros(9)
            expected[8] = TOKENS
            for share, part in zip(shares, (OUTPUT, PROMPT), strict=True):
                pairs, tokens = counted(source, turn, layer, part)
                expected[:8] += [share * TOKENS * pairs[expert] / tokens for expert in range(8)]
            assert np.abs(found[place, number] - expected).max() <= 0.5 + 1e-6


def planned(corpus: Path, limits: Constraints = NO_LIMITS) -> tuple[Plan, list[FastLayer], list[str]]:
    """The plan of all layers, their figures, and the notes."""
    made = fast_plan(opened(corpus), LAYERS, MESH, cost(), SolveOptions(constraints=limits))
    return made.plan, made.layers, made.notes


@pytest.mark.parametrize(
    ("limits", "shared", "replicas"),
    [
        (Constraints(), 2, 16),
        (Constraints("auto"), None, 16),
        (Constraints(3), 3, 16),
        (Constraints(extra_replicas=2), 2, 12),
    ],
)
def test_every_layer_is_planned_within_the_limits(
    corpus: Path, limits: Constraints, shared: int | None, replicas: int
) -> None:
    plan, rows, _ = planned(corpus, limits)
    assert (plan.policy, sorted(plan.layers), [row.layer for row in rows]) == ("even-source", [0, 1, 2], LAYERS)
    for row in rows:
        placement = plan.layers[row.layer].placement
        assert placement is row.placement
        assert placement.violations(9, 4, 4) == []
        counts = placement.counts(9)
        assert counts.sum() == replicas
        assert shared is None or counts[8] == shared


def test_imbalance_is_that_of_the_loads(corpus: Path) -> None:
    _, rows, _ = planned(corpus)
    load = loads_of(opened(corpus), LAYERS)
    for number, row in enumerate(rows):
        counts = row.placement.counts(9)
        for turn, found in ((TRAIN, row.train_imbalance), (TEST, row.test_imbalance)):
            held = row.placement.slots.tolist()
            device = [sum(load[turn, number, e] / counts[e] for e in slots if e >= 0) for slots in held]
            assert found == pytest.approx(max(device) * 4 / sum(device))
        assert row.train_imbalance >= 1


def test_the_plan_can_be_written_and_says_what_it_was_made_from(corpus: Path, tmp_path: Path) -> None:
    plan, rows, notes = planned(corpus)
    write_plan(tmp_path / "plan.json", plan)
    again = read_plan(tmp_path / "plan.json")
    source = opened(corpus)
    for row in rows:
        part = again.layers[row.layer]
        assert part.provenance["traces"] == source.fingerprint(row.layer)
        assert (part.provenance["phase"], part.provenance["row_users"]) == ("decode", [32, 32])
        assert part.quality["expected_imbalance"]["mean"] == row.test_imbalance
    assert notes[0] == "12 requests"
    assert "expected load" in notes[-1]


def test_seed_and_loads_alone_decide(corpus: Path) -> None:
    def slots(layers: list[int], seed: int, jobs: int) -> dict[int, list[list[int]]]:
        made = fast_plan(opened(corpus), layers, MESH, cost(), SolveOptions(seed=seed, jobs=jobs))
        return {layer: part.placement.slots.tolist() for layer, part in made.plan.layers.items()}

    every = slots([0, 1, 2], 0, 2)
    assert every == slots([2, 1, 0], 0, 1)
    assert every[1] == slots([1], 0, 2)[1]
    assert every != slots([0, 1, 2], 1, 2)


def test_what_cannot_be_kept_is_refused(corpus: Path) -> None:
    with pytest.raises(InputError, match="traffic between rows"):
        planned(corpus, Constraints(row_traffic=3))
    with pytest.raises(InputError, match="shared"):
        planned(corpus, Constraints(100))


def test_the_report_shows_layers_mean_and_worst(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, rows, _ = planned(corpus)
    print_parts(report.parts(rows), Console(width=WIDTH))
    shown = capsys.readouterr().out
    found = report.as_json(rows)["layers"]
    assert list(found) == ["2", "0", "1"]
    for row in found.values():
        assert f"{row['test_imbalance']:.4f}" in shown
    assert f"{max(row['test_imbalance'] for row in found.values()):.4f}" in shown.split("worst")[1]
