"""The API of the project: what programs import, how quickly, and that it works on arrays in memory and on files."""

import doctest
import os
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from random_problems import request_experts, write_request

import optimizer
from optimizer import (
    SERVERS,
    Cancel,
    Conditions,
    Constraints,
    Hardware,
    InputError,
    Mesh,
    Model,
    ModelRun,
    MoveLimits,
    Placement,
    Plan,
    SolveOptions,
    advise,
    bound,
    compare,
    open_traces,
    plan_expected,
    plan_layer,
    plan_model,
    read_plan,
    simulate,
    watch,
    write_plan,
)
from optimizer.planning.plan_layer import LayerSolution
from optimizer.traces.formats.counts import Counts

pytestmark = pytest.mark.usefixtures("few_batches")

ROOT = Path(__file__).resolve().parents[2]
MODEL = Model("eight", 8, 0, 2)
MACHINE = Hardware.of(mesh=Mesh(2, 2, 3))
QUICK = SolveOptions(time_limit=30, iterations=500, routings=("even-source",))


@pytest.fixture
def requests(rng: np.random.Generator) -> list[np.ndarray]:
    """Twelve requests, each `[token, layer, top_k]` with 20 tokens, three layers and two of eight experts."""
    return [request_experts(rng, 20, 3, 8, 2) for _ in range(12)]


def test_every_name_of_the_face_is_there_and_has_a_docstring() -> None:
    for name in optimizer.__all__:
        value = getattr(optimizer, name)
        assert name == "__version__" or value.__doc__, name
    assert set(optimizer.__all__) <= set(dir(optimizer))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = optimizer.nothing


def test_importing_the_package_imports_none_of_its_rooms() -> None:
    code = (
        "import sys, optimizer; print(sorted(m for m in sys.modules if m.startswith(('optimizer.', 'numpy', 'numba'))))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(optimizer.__file__).parent / "py.typed").exists()


def test_the_package_has_a_version_in_a_checkout_that_is_not_installed() -> None:
    code = (
        "import sys; sys.path[:] = [path for path in sys.path if 'site-packages' not in path]\n"
        "import optimizer; print(optimizer.__version__)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == optimizer.__version__


@pytest.mark.parametrize(
    "module",
    [
        "domain.hardware",
        "domain.presets",
        "domain.deployment",
        "api.planning",
        "api.models",
        "api.judging",
        "api.rebalancing",
        "api.advising",
        "api.graphs",
        "api.watching",
        "api.traces",
        "api.serving",
        "runtime.router",
    ],
)
def test_the_examples_in_docstrings_give_what_they_say(module: str) -> None:
    found = doctest.testmod(import_module(f"optimizer.{module}"))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.slow
def test_the_documents_example_runs_and_is_short() -> None:
    file = ROOT / "docs" / "example.py"
    assert len(file.read_text().splitlines()) <= 40
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, env=environment, check=False)
    assert found.returncode == 0, found.stderr
    for word in ("p99 latency under", "EPLB, even-source routing", "moeplan"):
        assert word in found.stdout


def test_arrays_in_memory_and_the_same_requests_in_files_give_the_same_plan(
    requests: list[np.ndarray], tmp_path: Path
) -> None:
    for number, experts in enumerate(requests):
        write_request(tmp_path / f"r{number:02}.npz", experts, prompt=0)
    in_files, in_memory = (
        plan_layer(open_traces(given, batch_tokens=24), 1, MODEL, MACHINE, QUICK) for given in (str(tmp_path), requests)
    )
    assert in_files.placement.slots.tolist() == in_memory.placement.slots.tolist()


def test_a_plan_is_written_read_simulated_and_printed(requests: list[np.ndarray], tmp_path: Path) -> None:
    stages: list[str] = []
    found = plan_layer(
        open_traces(requests, batch_tokens=24),
        1,
        MODEL,
        MACHINE,
        QUICK,
        progress=lambda stage, share: stages.append(stage),
    )
    write_plan(tmp_path / "plan.json", found.plan)
    again = read_plan(tmp_path / "plan.json")
    judged = simulate(again, open_traces(requests, batch_tokens=24), [Conditions("even-source"), Conditions("hash")])
    assert [report.routing for report in judged.reports[1]] == ["even-source", "hash"]
    assert isinstance(found.solution, LayerSolution)
    assert judged.report.latency_us.tolist() == found.solution.chosen.report.latency_us.tolist()
    assert "greedy" in str(found)
    assert "<table" in found._repr_html_()
    assert found.as_json()["layer"] == 1
    assert "judging" in stages


def test_several_layers_are_planned_on_arrays(requests: list[np.ndarray]) -> None:
    options = SolveOptions(time_limit=30, iterations=200, routings=("even-source",), jobs=1)
    found = plan_model(open_traces(requests, batch_tokens=24), [0, 2], MODEL, MACHINE, options)
    assert sorted(found.plan.layers) == [0, 2]
    assert "all" in str(found)


def test_several_data_sets_are_planned_on_arrays(rng: np.random.Generator) -> None:
    sets = {name: open_traces([request_experts(rng, 30, 1, 8, 2) for _ in range(12)], batch_tokens=24) for name in "ab"}
    options = SolveOptions(time_limit=30, iterations=100, routings=("even-source",), jobs=1)
    found = plan_model(sets, [0], MODEL, MACHINE, options, ModelRun(weights={"a": 3.0, "b": 1.0}))
    assert found.datasets is not None
    assert set(found.datasets.own) == {"a", "b"}


def test_counts_are_planned_by_their_expected_load() -> None:
    counted = Counts(np.arange(1, 9)[None, None] * 10, (4,), None, 2, (), "by hand")
    found = plan_expected(counted, 4, MODEL, MACHINE, QUICK)
    assert found.placement.counts(8)[7] > 1
    assert plan_layer(counted, 4, MODEL, MACHINE, QUICK).placement.slots.tolist() == found.placement.slots.tolist()


def test_bounds_lie_below_what_a_plan_reaches(requests: list[np.ndarray]) -> None:
    traces = open_traces(requests, batch_tokens=24)
    found, bounds = plan_layer(traces, 1, MODEL, MACHINE, QUICK), bound(traces, 1, MODEL, MACHINE)
    least = max(each.mean for each in bounds.bounds.bounds if each.unit == "imbalance")
    assert isinstance(found.solution, LayerSolution)
    assert least <= found.solution.chosen.report.imbalance.mean()
    assert "no placement" in str(bounds)


def test_our_plan_stands_beside_those_of_published_planners(requests: list[np.ndarray]) -> None:
    found = compare(open_traces(requests, batch_tokens=24), 1, MODEL, MACHINE, QUICK)
    assert {"EPLB", "moeplan"} <= {row.planned.name for row in found.comparison.rows}
    assert "EPLB" in str(found)


def test_a_placement_of_ones_own_is_simulated(requests: list[np.ndarray]) -> None:
    own = Placement(np.array([[0, 1, 2], [3, 4, 5], [6, 7, 0], [1, 2, 3]]))
    judged = simulate(Plan.of(own, 1, MODEL, MACHINE, "hash"), open_traces(requests, batch_tokens=24))
    assert judged.report.routing == "hash"


def test_a_cancelled_search_ends_with_a_plan(requests: list[np.ndarray]) -> None:
    cancel = Cancel()

    def ask(stage: str, share: float) -> None:
        """Cancel the search at the first stage that comes after the seeds."""
        if stage not in ("reading traces", "seeds"):
            cancel.ask()

    options = SolveOptions(time_limit=600, routings=("even-source", "optimal"))
    found = plan_layer(open_traces(requests, batch_tokens=24), 1, MODEL, MACHINE, options, progress=ask, cancel=cancel)
    assert found.placement.violations(8, 4, 3) == []


def test_a_watch_yields_its_looks_until_it_is_cancelled(tmp_path: Path) -> None:
    own, cancel, found = Placement(np.array([[0, 1, 2], [3, 4, 5], [6, 7, 0], [1, 2, 3]])), Cancel(), []
    model = Model("eight", 8, 0, 2, layers=3, first_moe_layer=0)
    write_plan(tmp_path / "plan.json", Plan.of(own, 1, model, MACHINE))
    (tmp_path / "traces").mkdir()
    for look in watch(tmp_path / "traces", tmp_path / "plan.json", MoveLimits(2), every=0.01, cancel=cancel):
        found.append(look)
        assert (look.decision, look.as_json()["decision"]) == ("idle", "idle")
        assert "moeplan_watch_requests_total 0" in look.metrics()
        if len(found) == 3:
            cancel.ask()
    assert len(found) == 3
    assert '"decision": "idle"' in str(found[0])
    with pytest.raises(InputError, match="a watch needs a budget"):
        next(watch(tmp_path / "traces", tmp_path / "plan.json", MoveLimits()))


def test_advice_names_what_runs_now_and_needs_tokens(requests: list[np.ndarray]) -> None:
    options = SolveOptions(time_limit=100_000, iterations=100, jobs=1)
    found = advise(open_traces(requests, batch_tokens=24), 1, MODEL, MACHINE, options, server=SERVERS["vllm"])
    assert found.as_json()["steps"][0]["step"] == "placement"
    assert "vLLM's own order of experts" in str(found)
    counted = Counts(np.arange(1, 9)[None, None] * 10, (4,), None, 2, (), "by hand")
    with pytest.raises(InputError, match="advice needs token traces"):
        advise(counted, 4, MODEL, MACHINE, options)


def test_a_token_is_a_fresh_one_in_another_process() -> None:
    cancel = Cancel()
    cancel.ask()
    assert cancel.asked
    assert not pickle.loads(pickle.dumps(cancel)).asked


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: open_traces(np.zeros((3, 4), dtype=int)), "traces"),
        (lambda: open_traces(np.full((1, 2, 1), -1)), "traces"),
        (lambda: open_traces(np.full((1, 2, 1), 70_000)), "traces"),
        (lambda: open_traces([np.zeros((2, 1, 1), dtype=int), np.zeros((2, 2, 1), dtype=int)]), "traces"),
        (lambda: SolveOptions(time_limit=0), "time_limit"),
        (lambda: SolveOptions(routings=("nothing",)), "routings"),
        (lambda: Hardware.of(mesh="16"), "mesh"),
        (
            lambda: plan_layer(
                np.zeros((9, 8, 1), dtype=int), 0, Model("m", 4, 0, 1), Hardware.of(mesh="2x2"),
                SolveOptions(constraints=Constraints(shared=2)),
            ),
            "shared_replicas",
        ),
    ],
)  # fmt: skip
def test_an_error_names_the_field_at_fault_and_no_option(call: object, field: str) -> None:
    assert callable(call)
    with pytest.raises(InputError) as error:
        call()
    assert error.value.field == field
    assert "--" not in str(error.value)
