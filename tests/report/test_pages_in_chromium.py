"""Pages in a real browser: no error, no network, slider and pointing work, figures are right, nothing overlaps."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import chromium, drawn, open_page
from experiment_row import ROW
from page_facts import LAYERS, MESH, MODEL, small_plan, small_request
from random_problems import cost, random_batches
from small_model import with_few_batches

from optimizer.domain.placement import Placement
from optimizer.experiments.compare_rivals import OURS, ComparedPlan, Comparison, PlannerResult
from optimizer.experiments.optimisation_steps.ladder import Rung
from optimizer.planning.convergence import Convergence
from optimizer.planning.options import silent
from optimizer.planning.plan_file import Plan
from optimizer.report.page.compare_page import compare_page
from optimizer.report.page.datasets import with_datasets
from optimizer.report.page.experiment_page import ladder_picture
from optimizer.report.page.facts import PlanFacts
from optimizer.report.page.gather import gather
from optimizer.report.page.matrix import matrix_picture
from optimizer.report.page.moves import moves_picture
from optimizer.report.page.parts import Section
from optimizer.report.page.plan_page import plan_page
from optimizer.report.page.skeleton import as_script
from optimizer.report.page.skeleton import page as page_of
from optimizer.report.page.sweep_page import sweep_page
from optimizer.routing.capacity import Coactivation
from optimizer.search.trail import Trail
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.report import SimulationReport
from optimizer.simulation.simulator import Simulation
from optimizer.traces.batches import Batches

pytestmark = pytest.mark.slow

WIDTHS = (1440, 800, 390)
ROUTINGS = ("even-source", "hint-device", "optimal")
POINTS = [
    {"budget": budget, "moves": moves, "gain": {"mean": gain, "low": gain - 0.02, "high": gain + 0.03}}
    for budget, moves, gain in ((0, 0, 0.0), (12, 12, 0.21), (24, 23, 0.3), (None, 61, 0.31))
]
MOVES = {"measure": "latency_us", "routing": "even-source", "curve": POINTS, "asked": POINTS[2]}
"""What `rebalance --json` prints of the gain against moves."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> PlanFacts:
    with pytest.MonkeyPatch.context() as patch:
        with_few_batches(patch)
        asked = small_request(tmp_path_factory.mktemp("facts"), searched_plan(), curves=True)
        found = with_datasets(gather(asked), asked, {"code": asked.named, "a chat": asked.named}, silent)
        return replace(found, moves=MOVES)


def searched_plan() -> Plan:
    """The small plan, which says how its searches converged, and that of the last layer it had none."""
    names = ("annealing for hint-device", "annealing for hint-device (2)", "descent for even routing")
    said = Convergence(
        tuple(Trail(name, [1, 4, 9 + place], [990.5, 951.25, 930.0], 31) for place, name in enumerate(ROUTINGS)),
        tuple(Trail(name, [0, 900, 40_000], [310.0, 290.0, 281.0 - place], 10**6) for place, name in enumerate(names)),
    )
    plan = small_plan()
    known = {layer: replace(plan.layers[layer], convergence=said) for layer in LAYERS[:2]}
    return replace(plan, layers=plan.layers | known)


@pytest.fixture(scope="module")
def page(facts: PlanFacts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(plan_page(facts), encoding="utf-8")
    return path


def choose_layer(browser: Any, place: int) -> None:
    """Move the slider, as a reader does."""
    browser.execute_script(
        "const slider = document.getElementById('layer'); slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input'));",
        place,
    )
    drawn(browser)


def cells(browser: Any, table: str) -> list[list[str]]:
    """The text of a table's cells."""
    script = "return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)].map(row => [...row.cells].map(cell => "
    found: list[list[str]] = browser.execute_script(f"{script}cell.textContent))", table)
    return found


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_has_no_errors_and_nothing_beyond_its_edges(browser: Any, page: Path, width: int, dark: bool) -> None:
    open_page(browser, page, width, dark)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert overlapping(browser) == []


def overlapping(browser: Any) -> list[str]:
    """Pairs of parts of the page that lie over one another: blocks of the page, and texts inside each picture."""
    found: list[str] = browser.execute_script(
        """
        const over = (one, other) => {
          const a = one.getBoundingClientRect(), b = other.getBoundingClientRect();
          return Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
              && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
        };
        const clashes = [];
        const compare = (parts) => parts.forEach((one, place) => parts.slice(place + 1).forEach((other) => {
          if (over(one, other)) clashes.push(`${one.textContent.slice(0, 40)} / ${other.textContent.slice(0, 40)}`);
        }));
        compare([...document.querySelectorAll("h1, h2, h3, p, .plot, figcaption, .scrolling, .metrics, .contents")]);
        for (const plot of document.querySelectorAll(".plot")) {
          const inside = plot.getBoundingClientRect();
          const texts = [...plot.querySelectorAll("text[class$='title'], .xtick text, .ytick text, .legend")]
            .filter((text) => text.getBoundingClientRect().width > 0);
          compare(texts);
          for (const text of texts) {
            const box = text.getBoundingClientRect();
            if (box.left < inside.left - 2 || box.right > inside.right + 2 || box.bottom > inside.bottom + 2)
              clashes.push(`${text.textContent.slice(0, 40)} is cut off`);
          }
        }
        return clashes;
        """
    )
    return found


def test_an_overlap_would_be_seen(browser: Any, page: Path) -> None:
    open_page(browser, page)
    browser.execute_script("document.querySelector('#stages').style.marginTop = '-60px'")
    assert overlapping(browser) != []


def test_the_slider_changes_pictures_and_tables_to_another_layer(browser: Any, page: Path, facts: PlanFacts) -> None:
    open_page(browser, page)
    for place, layer in enumerate(LAYERS):
        choose_layer(browser, place)
        assert browser.find_element("id", "layer-name").text == str(layer)
        found = facts.layers[layer]
        row = cells(browser, "latency")[1]
        latency = found.plan.report.summary()["latency_us"]
        assert isinstance(latency, dict)
        assert row[0] == found.plan.name
        assert row[1:5] == [f"{latency[name]:,.1f}" for name in ("mean", "p50", "p95", "p99")]
        shown = browser.execute_script("return document.querySelector('#mesh-plan .plot').data[0].z")
        drawn_load = np.array([[np.nan if value is None else value for value in line] for line in shown])
        assert np.nansum(drawn_load) == pytest.approx(found.plan.slot_load.sum(), rel=1e-3)
        assert f"Layer {layer}" in browser.find_element("css selector", "#mesh-plan .plot").get_attribute("aria-label")


def test_pointing_at_a_slot_tells_its_expert_and_replicas(browser: Any, page: Path, facts: PlanFacts) -> None:
    from selenium.webdriver import ActionChains

    open_page(browser, page)
    plot = browser.find_element("css selector", "#mesh-plan .plot")
    place = browser.execute_script(
        """
        const plot = arguments[0], layout = plot._fullLayout;
        plot.scrollIntoView({block: "center"});
        return [layout.xaxis.d2p(4) + layout._size.l - plot.clientWidth / 2,
                layout.yaxis.d2p(1) + layout._size.t - plot.clientHeight / 2];
        """,
        plot,
    )
    ActionChains(browser).move_to_element_with_offset(plot, *(round(each) for each in place)).perform()
    browser.execute_async_script("setTimeout(arguments[0], 400)")
    said = browser.execute_script("return document.querySelector('#mesh-plan .hoverlayer').textContent")
    slots = facts.first.plan.placement.slots
    expert = int(slots[3, 1])  # the cell in row 1 and column 4 of 3 x 2 devices with 3 slots in a line
    assert f"expert {expert} on device 3 (row 1, column 1)" in said
    others = [device for device in np.flatnonzero((slots == expert).any(axis=1)) if device != 3]
    assert (f"devices {', '.join(map(str, others))}" if others else "no further replica") in said
    assert f"{facts.first.plan.slot_load[3, 1]:.4g} pairs a batch" in said


def test_the_maps_show_what_the_reader_chooses(browser: Any, page: Path, facts: PlanFacts) -> None:
    open_page(browser, page)
    browser.execute_script("document.querySelector('.metrics input[value=share]').click()")
    drawn(browser)
    traces = browser.execute_script("return document.querySelector('#mesh-plan .plot').data.map(of => of.visible)")
    assert traces == [False, False, True]


def test_curves_pass_through_the_percentiles_of_the_table(browser: Any, page: Path, facts: PlanFacts) -> None:
    open_page(browser, page)
    curves = browser.execute_script(
        "return document.querySelector('#distribution .plot').data.map(of => [of.name, of.x[50], of.x[99]])"
    )
    rows = {row[0]: row for row in cells(browser, "latency")}
    assert {name for name, *_ in curves} == set(rows)
    for name, p50, p99 in curves:
        assert [f"{p50:,.1f}", f"{p99:,.1f}"] == [rows[name][2], rows[name][4]]


def test_curves_of_the_search_end_where_the_plan_says(browser: Any, page: Path, facts: PlanFacts) -> None:
    open_page(browser, page)
    shown = "return document.querySelector('#searches .plot').data.map(of => [of.name, of.x.at(-1), of.y.at(-1)])"
    said = facts.plan.layers[LAYERS[0]].convergence
    assert said is not None
    for trail, (name, moves, percent) in zip(said.searches, browser.execute_script(shown), strict=True):
        assert (name, moves) == (trail.name, trail.spent)
        assert percent == pytest.approx(100 * trail.best[-1] / trail.best[0], rel=1e-4)
    choose_layer(browser, len(LAYERS) - 1)
    assert [moves for _, moves, _ in browser.execute_script(shown)] == [None] * len(said.searches)


def test_a_print_has_few_pages_and_light_pictures_that_fit(browser: Any, facts: PlanFacts, tmp_path: Path) -> None:
    """As many layers as DeepSeek-V3 has, so that their table is long."""
    page = tmp_path / "many.html"
    plain = [replace(each, capacities=(), replicas=None) for each in facts.layers.values()]
    many = {layer: replace(plain[layer % 3], layer=layer) for layer in range(4, 61)} | {3: facts.first}
    parts = {layer: facts.plan.layers[layer % 3] for layer in many}
    page.write_text(plan_page(replace(facts, layers=many, plan=replace(facts.plan, layers=parts))), encoding="utf-8")
    open_page(browser, page, dark=True)
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True, "printBackground": True})
    content = base64.b64decode(printed["data"])
    assert 1 <= content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") <= 6


def test_every_picture_has_a_text_instead(browser: Any, page: Path) -> None:
    open_page(browser, page)
    says = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map(plot => [plot.getAttribute('role'), "
        "plot.getAttribute('aria-label'), plot.parentElement.querySelector('figcaption').textContent])"
    )
    assert all(role == "img" and len(label) > 40 and "batches" in caption for role, label, caption in says)


@pytest.mark.parametrize("width", [1440, 390])
def test_pages_of_other_commands_have_no_errors_and_nothing_overlaps(
    browser: Any, facts: PlanFacts, tmp_path: Path, width: int
) -> None:
    for name, text in other_pages(facts).items():
        path = tmp_path / f"{name}.html"
        path.write_text(text, encoding="utf-8")
        open_page(browser, path, width)
        assert browser.get_log("browser") == [], name
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, name
        assert overlapping(browser) == [], name


def limited(placement: Placement, batches: Batches, factor: float) -> SimulationReport:
    """A placement on these batches under a capacity."""
    guess = Coactivation.of(batches, MODEL)
    simulation = Simulation(placement, MODEL, MESH, cost(), Conditions(capacity_factor=factor), guess=guess)
    simulation.feed(batches)
    return simulation.report()


def other_pages(facts: PlanFacts) -> dict[str, str]:
    """Pages of `compare` and `sweep`, and one of the pictures of `experiment`, of several data sets and of moves."""
    runs = dict(zip(("EPLB", "FlashLB", OURS), facts.first.runs, strict=False))
    rows = [
        ComparedPlan(PlannerResult(name, run.placement, 0.5, (run.report.routing,)), run.report, 0.1, 0.2)
        for name, run in runs.items()
    ]
    plan, batches = facts.first.plan, random_batches(np.random.default_rng(1), 20, 24, MODEL, MESH.rows)
    sweep = [limited(plan.placement, batches, factor) for factor in (0.8, 1.0, 1.5)]
    rungs = [Rung(f"step {number} of a ladder", 500 - number, 600 - number, {"greedy": 1}, -0.1) for number in range(6)]
    percent = np.array([[0.0, 12.5], [-3.0, 40.0]])
    matrix = matrix_picture("Plans", "How.", "In words.", ["code", "robust (worst)"], ["code", "chat"], percent,
                            [["1", "2"], ["3", "4"]], [["a", "b"], ["c", "d"]], ("made on", "judged on"))  # fmt: skip
    shown = [ladder_picture("steps-0", "code", [ROW], rungs), matrix, moves_picture(MOVES)]
    pictures = Section("pictures", "Pictures", shown)
    return {
        "compare": compare_page(Comparison(0, rows, "tiles", 1.0, 2.0), ["a note"]),
        "sweep": sweep_page({0: sweep}),
        "pictures": page_of("Pictures", ["A verdict."], [pictures]),
    }


def test_data_cannot_end_the_script_that_holds_it(facts: PlanFacts) -> None:
    said = "</script><script>alert(1)</script>"
    assert "</" not in as_script({"note": said})
    assert json.loads(as_script({"note": said})) == {"note": said}
