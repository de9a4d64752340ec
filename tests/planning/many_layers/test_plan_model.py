"""All layers of a model in one plan: what the first look decides, and who gets how much time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_problems import WORMHOLE, cost, random_batches, random_placement, request_experts, write_request
from small_model import with_few_batches

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.problem import Constraints
from optimizer.errors import OutOfTimeError
from optimizer.planning.many_layers.layer import EXCESS, LayerTask, plan_layer, survey_layer
from optimizer.planning.many_layers.plan_model import ModelToPlan, plan_model
from optimizer.planning.many_layers.reading import LayerReader
from optimizer.planning.many_layers.run import WRITING_SECONDS, Run
from optimizer.planning.many_layers.settings import Settings
from optimizer.planning.many_layers.survey import surveyed, weights
from optimizer.planning.many_layers.work import WorkFolder
from optimizer.planning.many_layers.workers import Crew
from optimizer.planning.options import SolveOptions
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.planning.portfolio import Portfolio
from optimizer.search.stop import Deadline
from optimizer.traces.batches import Sets
from optimizer.traces.source import TraceInput

MODEL, MESH = Model("drawn", 8, 0, 2), Mesh(2, 2, 3)
TIME = 1e6


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        with_few_batches(patch)
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten requests of three layers, of which in the second two experts, and in the third four are hot."""
    rng, folder = np.random.default_rng(7), tmp_path_factory.mktemp("traces")
    for number in range(10):
        experts = request_experts(rng, 20, 3, 8, 2)
        experts[:16, 1] = [0, 1]
        experts[:16, 2] = rng.permuted(np.tile(np.arange(4), (16, 1)), axis=1)[:, :2]
        write_request(folder / f"r{number}.npz", experts)
    return folder


def settings(**changed: Any) -> Settings:
    """What tests have in common, with these of the options changed."""
    known: dict[str, Any] = {
        "routings": ("even-source", "nearest"),
        "iterations": 100,
        "constraints": Constraints("auto"),
    }
    return Settings(MODEL, MESH, cost(), SolveOptions(**(known | changed)))


def whole(corpus: Path, **changed: Any) -> ModelToPlan:
    reader = LayerReader.of(TraceInput([str(corpus)], batch_tokens=96), MODEL, MESH, (0, 1, 2), lambda share: None)
    return ModelToPlan(settings(**changed), reader)


def alone(work: WorkFolder | None = None) -> Run:
    return Run(Crew(1), Deadline(TIME), lambda stage, share: None, work)


def layer_task(**changed: Any) -> LayerTask:
    sets = Sets(*(random_batches(np.random.default_rng(turn), 8, 96, MODEL, 2) for turn in range(3)))
    return LayerTask(settings(**changed), 5, sets, {"origin": "drawn"})


def excess_plan(**excess: float) -> Plan:
    placement = random_placement(np.random.default_rng(1), 8, MESH)
    parts = {int(layer[1:]): LayerPlan(placement, {EXCESS: value}) for layer, value in excess.items()}
    return Plan(MODEL, MESH, WORMHOLE, "even-source", parts)


def test_layers_far_from_their_bound_weigh_more() -> None:
    found = weights(excess_plan(l0=10, l1=30, l2=80), [0, 1, 2])
    assert (found[0], found[1], found[2]) == pytest.approx((10, 30, 80))


def test_layers_at_their_bound_weigh_something() -> None:
    assert weights(excess_plan(l0=0, l1=100, l2=-3), [0, 1, 2]) == pytest.approx(
        {0: 0.2 * 97 / 3, 1: 100, 2: 0.2 * 97 / 3}
    )
    assert min(weights(excess_plan(l0=0, l1=0), [0, 1]).values()) > 0
    assert min(weights(excess_plan(l0=-5, l1=1), [0, 1]).values()) > 0


def test_layers_without_seeds_weigh_as_others_do() -> None:
    assert weights(excess_plan(l0=10, l1=30), [1, 7]) == pytest.approx({1: 30, 7: 20})
    assert weights(excess_plan(), [1, 7]) == {1: 1, 7: 1}


def test_the_survey_is_a_valid_plan_of_seeds(corpus: Path, tmp_path: Path) -> None:
    found = surveyed(alone(WorkFolder.opened(tmp_path, {}, False)), whole(corpus))
    assert found.policy in ("even-source", "nearest")
    for layer in range(3):
        part = found.layers[layer]
        assert part.placement.violations(8, 4, 3) == []
        assert part.provenance["method"] == "seed"
        assert part.quality[EXCESS] > 0
    assert json.loads((tmp_path / "survey.json").read_text())["routing"]["policy"] == found.policy


def test_the_policy_is_one_for_all_layers_and_the_fastest_over_them(corpus: Path) -> None:
    asked = whole(corpus)
    each = {layer: survey_layer(asked.task(layer)) for layer in range(3)}
    sums = {
        name: sum(of[name].quality["latency_us"]["mean"] for of in each.values()) for name in ("even-source", "nearest")
    }
    assert sums["even-source"] != sums["nearest"]
    found = surveyed(alone(), asked)
    assert found.policy == min(sums, key=lambda name: sums[name])
    for layer, part in found.layers.items():
        assert (part.placement.slots == each[layer][found.policy].placement.slots).all()


def test_a_policy_that_cannot_serve_all_layers_is_not_taken(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = surveyed(alone(), whole(corpus)).policy

    def without(task: LayerTask) -> dict[str, LayerPlan]:
        found = survey_layer(task)
        return {name: part for name, part in found.items() if task.layer != 2 or name != first}

    monkeypatch.setattr("optimizer.planning.many_layers.survey.survey_layer", without)
    assert surveyed(alone(), whole(corpus)).policy == ({"even-source", "nearest"} - {first}).pop()


def test_seconds_follow_the_distance_from_the_bound(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[int, float] = {}

    def spied(task: LayerTask, deadline: Deadline) -> None:
        assert task.settings.options.routings == (policy,)
        given[task.layer] = deadline.seconds

    work = WorkFolder.opened(tmp_path, {}, False)
    survey = surveyed(alone(work), whole(corpus))
    policy = survey.policy
    monkeypatch.setattr("optimizer.planning.many_layers.plan_model.plan_layer", spied)
    plan = plan_model(alone(work), whole(corpus))
    assert {layer: part.provenance["method"] for layer, part in plan.layers.items()} == dict.fromkeys(range(3), "seed")
    paid = weights(survey, range(3))
    assert len(set(paid.values())) == 3
    assert list(given) == sorted(paid, key=lambda layer: -paid[layer])
    left = sum(paid.values())
    for layer, seconds in given.items():
        assert seconds == pytest.approx((TIME - WRITING_SECONDS) * paid[layer] / left, rel=1e-3)
        left -= paid[layer]


def test_no_layer_begins_when_time_is_up(corpus: Path) -> None:
    run = Run(Crew(1), Deadline(1.0, started=0.0), lambda stage, share: None)
    plan = plan_model(run, whole(corpus))
    assert {part.provenance["method"] for part in plan.layers.values()} == {"seed"}
    assert sorted(plan.layers) == [0, 1, 2]


def test_layers_may_differ_in_extra_replicas(corpus: Path) -> None:
    asked = whole(corpus, iterations=0)
    asked.extra_replicas.update({0: 0, 2: 3})
    plan = plan_model(alone(), asked)
    held = {layer: int((part.placement.slots >= 0).sum()) for layer, part in plan.layers.items()}
    assert (held[0], held[1]) == (8, 12)
    assert 8 <= held[2] <= 11  # three replicas may take longer than they save


def test_progress_tells_how_many_layers_are_done(corpus: Path) -> None:
    said: list[tuple[str, float]] = []
    plan_model(Run(Crew(1), Deadline(TIME), lambda stage, share: said.append((stage, share))), whole(corpus))
    assert [share for _, share in said] == pytest.approx([1 / 3, 2 / 3, 1] * 2)
    assert said[-1][0].startswith("3 of 3 layers")


def test_a_layer_is_what_it_is_alone(corpus: Path) -> None:
    """Whatever is planned beside it."""
    plan = plan_model(alone(), whole(corpus))
    own = plan_layer(whole(corpus, routings=(plan.policy,)).task(1), Deadline(TIME))
    assert own is not None
    assert (own.placement.slots == plan.layers[1].placement.slots).all()
    assert own.quality == plan.layers[1].quality


@pytest.mark.parametrize("routing", ["even-source", "optimal"])
def test_a_layer_that_is_ended_early_has_what_was_found(routing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = layer_task(routings=(routing,))
    finished = plan_layer(task, Deadline(TIME))
    search = Portfolio.search

    def interrupted(*arguments: Any) -> None:
        search(*arguments)
        arguments[2].cancel.ask()

    monkeypatch.setattr(Portfolio, "search", interrupted)
    stopped = plan_layer(task, Deadline(TIME))
    assert finished is not None
    assert stopped is not None
    assert (stopped.placement.slots == finished.placement.slots).all()
    assert stopped.quality == finished.quality


def test_a_layer_that_is_ended_before_anything_was_judged_has_no_result() -> None:
    deadline = Deadline(TIME)
    deadline.cancel.ask()
    assert plan_layer(layer_task(), deadline) is None


def test_a_run_whose_time_is_up_before_anything_is_complete_says_so() -> None:
    """Nobody pressed Ctrl-C: a user who reads only "Aborted!" does not know that more time would help."""
    run = Run(Crew(1), Deadline(7.0))
    with pytest.raises(OutOfTimeError, match="no layer was complete within 7 s; allow more time"):
        raise run.ended_with_nothing()
    run.cancel.ask()
    with pytest.raises(KeyboardInterrupt):
        raise run.ended_with_nothing()


def test_ctrl_c_during_the_survey_leaves_nothing(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = alone(WorkFolder.opened(tmp_path, {}, False))

    def pressed(task: LayerTask) -> dict[str, LayerPlan]:
        if task.layer == 1:
            run.cancel.ask()
        return survey_layer(task)

    monkeypatch.setattr("optimizer.planning.many_layers.survey.survey_layer", pressed)
    with pytest.raises(KeyboardInterrupt):
        plan_model(run, whole(corpus))
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", "settings.json"]
