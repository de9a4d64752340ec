"""Results in a notebook: tables as HTML, pictures as plotly's figures, shown as IPython asks for them."""

import sys
from html.parser import HTMLParser
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from plotly.graph_objects import Figure
from random_problems import request_experts
from small_model import with_few_batches

from optimizer import (
    Conditions,
    Hardware,
    Mesh,
    Model,
    ModelRun,
    SolveOptions,
    bound,
    compare,
    explain,
    open_traces,
    plan_layer,
    plan_model,
    rebalance,
    simulate,
)
from optimizer.api.results import PlannedLayer
from optimizer.report.printable import Printable
from optimizer.report.rendering import WIDTH

MODEL, MACHINE = Model("small", 8, 0, 2), Hardware.of(mesh=Mesh(2, 2, 3))
QUICK = SolveOptions(time_limit=30, iterations=200, routings=("even-source", "optimal"), jobs=1)

pytestmark = pytest.mark.usefixtures("few_batches")


class Checked(HTMLParser):
    """Reads HTML whose elements must all be closed in their order, and keeps the text and the elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], text

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def requests() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [request_experts(rng, 30, 3, 8, 2) for _ in range(12)]


@pytest.fixture(scope="module")
def planned(requests: list[np.ndarray]) -> PlannedLayer:
    with pytest.MonkeyPatch.context() as patch:
        with_few_batches(patch)
        return plan_layer(open_traces(requests, batch_tokens=24), 1, MODEL, MACHINE, QUICK)


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What IPython is told to display, where it is not installed."""
    shown: list[dict[str, Any]] = []
    ipython, module = ModuleType("IPython"), ModuleType("IPython.display")
    module.display = lambda bundle, raw: shown.append(bundle) if raw else None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return shown


def check(found: Printable, pictures: int, *words: str) -> None:
    """A result has valid HTML with its words, lines that fit, and this number of pictures with names on their axes."""
    text = found._repr_html_()
    html = Checked(text)
    assert all(any(word in data for data in html.words) for word in words), text
    assert max(map(len, str(found).splitlines())) <= WIDTH
    figures = found.figures()
    assert len(figures) == pictures
    for figure in figures:
        assert isinstance(figure, Figure)
        assert figure.layout.title.text
        assert figure.layout.xaxis.title.text
        assert all(len(trace.x) == len(trace.y) > 0 for trace in figure.data)


def test_a_planned_layer(planned: PlannedLayer) -> None:
    check(planned, 1, "method", "greedy", "latency p50, us")
    (figure,) = planned.figures()
    assert [trace.name for trace in figure.data] == ["greedy, even-source", *(f"search, {name}" for name in
                                                     planned.solution.searched)]  # type: ignore[union-attr]  # fmt: skip
    assert "<b>search</b>" in planned._repr_html_(), "the row of the plan is bold, as in print"


def test_what_the_simulator_says(planned: PlannedLayer, requests: list[np.ndarray]) -> None:
    traces = open_traces(requests, batch_tokens=24)
    check(simulate(planned.plan, traces), 1, "latency, us", "95 % of p99")
    several = simulate(planned.plan, traces, [Conditions("even-source"), Conditions("hash")])
    check(several, 1, "routing", "hash")
    assert [trace.name for trace in several.figures()[0].data] == ["even-source", "hash"]
    check(bound(traces, 1, MODEL, MACHINE), 0, "any_placement")
    check(explain(planned.plan, traces), 0, "peak / mean load")


def test_planners_side_by_side_and_moves(planned: PlannedLayer, requests: list[np.ndarray]) -> None:
    traces = open_traces(requests, batch_tokens=24)
    check(compare(traces, 1, MODEL, MACHINE, QUICK), 2, "planner", "EPLB")
    one = SolveOptions(time_limit=30, iterations=200, routings=(planned.plan.policy,))
    found = rebalance(planned.plan, traces, options=one)
    check(found, int(len(found.found.curve) > 1), "budget")


def test_several_layers(requests: list[np.ndarray]) -> None:
    options = SolveOptions(time_limit=30, iterations=100, routings=("even-source",), jobs=1)
    traces = open_traces(requests, batch_tokens=24)
    found = plan_model(traces, [0, 2], MODEL, MACHINE, options)
    check(found, 1, "layer", "mean above bound")
    assert list(found.figures()[0].data[0].x) == ["0", "2"]
    check(simulate(found.plan, traces), 1)
    check(plan_model(traces, [0, 2], MODEL, MACHINE, options, ModelRun(fast=True)), 1, "train requests")


def test_ipython_shows_tables_and_then_pictures(planned: PlannedLayer, display: list[dict[str, Any]]) -> None:
    planned._ipython_display_()
    tables, picture = display
    assert tables["text/html"] == planned._repr_html_()
    assert tables["text/plain"] == str(planned)
    drawn = picture["application/vnd.plotly.v1+json"]
    assert len(drawn["data"]) == len(planned.figures()[0].data)
    assert isinstance(drawn["data"][0]["y"], list | dict)
    assert "plotly" in picture["text/html"]
    assert picture["text/plain"].startswith("Share of batches")


def test_words_of_html_are_escaped() -> None:
    class Odd(Printable):
        def parts(self) -> list[str]:
            return ["a < b & <script>"]

    assert Checked(Odd()._repr_html_()).tags == ["p"]
