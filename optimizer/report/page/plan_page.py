"""The page of a plan: its sections in the order in which they are read."""

from optimizer.report.page.curves import curve_items
from optimizer.report.page.datasets import datasets_picture
from optimizer.report.page.experts import hot_picture, over_time_picture, together_picture
from optimizer.report.page.facts import PlanFacts
from optimizer.report.page.how_made import how_made
from optimizer.report.page.latency import distribution_picture, latency_table, stages_picture
from optimizer.report.page.layers import bounds_picture, bounds_table, layers_picture, layers_table
from optimizer.report.page.links import STAGES_OF_LINKS, critical_table, link_pictures
from optimizer.report.page.mesh_map import mesh_maps, metrics
from optimizer.report.page.moves import moves_picture
from optimizer.report.page.parts import ALL_LAYERS, Item, Section, TableOfText
from optimizer.report.page.search import search_items
from optimizer.report.page.skeleton import page
from optimizer.report.page.verdict import verdict


def plan_page(facts: PlanFacts) -> str:
    """The HTML text of the page."""
    model = facts.plan.model.name
    return page(f"moeplan: {model} on {facts.plan.mesh}", verdict(facts), sections(facts), list(facts.layers))


def sections(facts: PlanFacts) -> list[Section]:
    """All sections of the page."""
    found = [
        Section("mesh", "Mesh, before and after", mesh_maps(facts), metrics(facts.cost.unit)),
        Section("times", "Latency", [latency_table(facts), stages_picture(facts), distribution_picture(facts)]),
        Section("links", "Critical devices and links", [critical_table(facts), *link_pictures(facts)], STAGES_OF_LINKS),
        Section("experts", "Experts", [hot_picture(facts), together_picture(facts), over_time_picture(facts)]),
        Section("search", "Convergence of the search", search_items(facts)),
        Section("gaps", "Gap to bounds", _gaps(facts)),
    ]
    if facts.datasets:
        found.append(Section("robustness", "Robustness over data sets", [datasets_picture(facts)]))
    if curves := curve_items(facts):
        found.append(Section("curves", "Slots and capacity", curves))
    if facts.moves is not None:
        found.append(Section("moved", "Gain against moves", [moves_picture(facts.moves)]))
    if len(facts.layers) > 1:
        found.append(Section("layers", "All layers", [layers_picture(facts), layers_table(facts)]))
    traces = Section("traces", "What looks wrong in the traces", looks_wrong(facts))
    return [*found, traces, Section("how", "How it was made", [*how_made(facts), *left_out(facts)])]


def _gaps(facts: PlanFacts) -> list[Item]:
    """The bounds that the plan file holds."""
    if not all(facts.plan.layers[layer].bounds for layer in facts.layers):
        return ["The plan holds no bounds: `moeplan solve` states them, as long as it reroutes nothing."]
    return [bounds_picture(facts), bounds_table(facts)]


def looks_wrong(facts: PlanFacts) -> list[Item]:
    """What may have gone wrong when the traces were recorded, with what to do."""
    if facts.generated:
        return ["The built-in trace is generated, not recorded, so nothing was looked for."]
    if not facts.looks_wrong:
        return ["Nothing looks wrong in how these traces were recorded."]
    rows = [[each.seen, each.remedy] for each in facts.looks_wrong]
    return [TableOfText("wrong", "The worst first", ("seen", "what to do"), {ALL_LAYERS: rows}, prose=True)]


def left_out(facts: PlanFacts) -> list[Item]:
    """Sentences on what a page can show and this one does not, and why."""
    found = []
    if facts.moves is None:
        found.append("gain against moves, which `moeplan rebalance` finds, and `--moves` shows")
    if not facts.datasets:
        found.append("the matrix of data sets, for which TRACES are named as NAME=PATH")
    if len(facts.layers) == 1:
        found.append("all layers at a glance, as there is one")
    return [f"Left out: {'; '.join(found)}."] if found else []
