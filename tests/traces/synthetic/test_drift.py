"""Traffic that drifts over the day: by how much was asked, and not at all where nothing was."""

from pathlib import Path

import numpy as np
import pytest

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.statistics.inspect_traces import inspect_traces
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput
from optimizer.traces.synthetic.corpus_writer import CorpusRecipe, synthesise
from optimizer.traces.synthetic.drift import DriftingGates, random_walk
from optimizer.traces.synthetic.generator import calibrated_gates, generate

MODEL = Model("m", 32, 0, 4)
REQUESTS, LENGTH = 400, 64


@pytest.fixture(scope="module")
def gates_and_counts() -> dict[tuple[str, float], Ints]:
    """How often each request chooses each expert, `[request, expert]`, by data set and rate."""
    gates = calibrated_gates(MODEL, [0], 3)
    found = {}
    for name in ("", "law"):
        for rate in (0.0, 0.1, 0.2, 0.4):
            drifting = DriftingGates.of(gates, name, REQUESTS, rate)
            made = [
                generate(drifting.at(number), name, np.array([number]), np.array([LENGTH])).experts
                for number in range(REQUESTS)
            ]
            found[name, rate] = np.array([np.bincount(each.ravel(), minlength=32) for each in made])
    return found


def apart(one: Ints, other: Ints) -> float:
    shares: list[Floats] = [counts.sum(axis=0) / counts.sum() for counts in (one, other)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


@pytest.mark.parametrize("name", ["", "law"])
def test_the_ends_of_the_day_are_as_far_apart_as_asked(
    gates_and_counts: dict[tuple[str, float], Ints], name: str
) -> None:
    """The rate has a meaning: it is within .03 of the total variation between the first and the last tenth of requests,
    once what these differ by without drift is added, as independent deviations add."""
    counts = {rate: gates_and_counts[name, rate] for rate in (0.0, 0.1, 0.2, 0.4)}
    found = {rate: apart(of[: REQUESTS // 10], of[-REQUESTS // 10 :]) for rate, of in counts.items()}
    assert sorted(found.values()) == list(found.values())
    for rate in (0.1, 0.2, 0.4):
        assert found[rate] == pytest.approx(np.hypot(rate, found[0.0]), abs=0.03)


def test_shares_of_the_whole_day_stay_near_those_without_drift(
    gates_and_counts: dict[tuple[str, float], Ints],
) -> None:
    """Else experts would not be chosen as often as counts say, on which the gates are calibrated."""
    assert apart(gates_and_counts["", 0.0], gates_and_counts["", 0.2]) < 0.06
    assert apart(gates_and_counts["", 0.0], gates_and_counts["", 0.2][:200]) > 0.06


def test_without_drift_nothing_changes() -> None:
    """A rate of 0 gives the gates as they are, so that traces are bit for bit those of the former generator."""
    gates = calibrated_gates(MODEL, [0, 5], 3)
    assert DriftingGates.of(gates, "law", 9, 0.0).at(8) is gates
    assert DriftingGates.of(gates, "law", 1, 0.3).at(0) is gates


def test_files_without_drift_are_those_of_a_recipe_that_names_none(tmp_path: Path) -> None:
    """What was generated before drift was an option is generated still, and drift is another trace."""
    for name, recipe in (
        ("plain", CorpusRecipe(20, 4, 9)),
        ("still", CorpusRecipe(20, 4, 9, drift=0.0)),
        ("drifting", CorpusRecipe(20, 4, 9, drift=0.3)),
        ("again", CorpusRecipe(20, 4, 9, drift=0.3)),
        ("seeded", CorpusRecipe(20, 4, 9, seed=1, drift=0.3)),
    ):
        synthesise(tmp_path / name, MODEL, [2], recipe)
    content = {
        name: [file.read_bytes() for file in sorted((tmp_path / name).iterdir())]
        for name in ("plain", "still", "drifting", "again", "seeded")
    }
    assert content["plain"] == content["still"] != content["drifting"] == content["again"] != content["seeded"]


def test_each_layer_drifts_the_same_whatever_other_layers_are_made() -> None:
    """A corpus of all layers holds the same routing as one of a single layer."""
    both, one = (calibrated_gates(MODEL, layers, 3) for layers in ([0, 5], [5]))
    wide, narrow = (DriftingGates.of(gates, "law", 30, 0.3) for gates in (both, one))
    assert (wide.at(29).bias[1] == narrow.at(29).bias[0]).all()


def test_a_walk_has_no_mean_and_its_ends_are_one_apart() -> None:
    walk = random_walk(4, "law", 100)
    assert walk.mean(axis=0) == pytest.approx(np.zeros(16), abs=1e-12)
    assert np.linalg.norm(walk[-10:].mean(axis=0) - walk[:10].mean(axis=0)) == pytest.approx(1)


@pytest.mark.parametrize("rate", [-0.1, 0.61, float("nan")])
def test_an_impossible_drift_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match="total variation from 0") as found:
        CorpusRecipe(5, 5, 5, drift=rate)
    assert found.value.field == "drift"


def test_a_drift_that_a_layer_cannot_reach_is_refused() -> None:
    """A few experts with strong biases stay popular whatever the topic; the trace must not claim more than it does."""
    gates = calibrated_gates(Model("few", 8, 0, 2), [0], 1)
    with pytest.raises(InputError, match=r"layer 0: loads cannot drift by 0\.6.*ask for less") as found:
        DriftingGates.of(gates, "", 512, 0.6)
    assert found.value.field == "drift"


def test_statistics_show_the_drift(tmp_path: Path) -> None:
    """Who generates drifting traffic sees it in `stats`, beside what comes by chance."""
    for name, rate in (("still", 0.0), ("drifting", 0.4)):
        synthesise(tmp_path / name, MODEL, [0], CorpusRecipe(300, 0, 40, drift=rate))
    given = TraceInput(traces=[str(tmp_path)], batch_tokens=16)
    (report,) = inspect_traces(given, ModelChoice(None, 32, 0, 4), [0], Mesh(1, 1, 32), lambda share: None).reports
    drift = dict(zip(report.datasets, report.over_time.tolist(), strict=True))
    assert drift["drifting"][0] == pytest.approx(0.4, abs=0.06)
    assert max(drift["drifting"][1], *drift["still"]) < 0.12
