"""The page of a plan: its sections in the order in which they are read."""

from optimizer.report.page.facts import PlanFacts
from optimizer.report.page.how_made import how_made
from optimizer.report.page.latency import distribution_picture, latency_table, stages_picture
from optimizer.report.page.mesh_map import mesh_maps, metrics
from optimizer.report.page.parts import Section
from optimizer.report.page.skeleton import page
from optimizer.report.page.verdict import verdict


def plan_page(facts: PlanFacts) -> str:
    """The HTML text of the page."""
    model = facts.plan.model.name
    return page(f"moeplan: {model} on {facts.plan.mesh}", verdict(facts), sections(facts), list(facts.layers))


def sections(facts: PlanFacts) -> list[Section]:
    """All sections of the page."""
    return [
        Section("mesh", "Mesh, before and after", mesh_maps(facts), metrics(facts.cost.unit)),
        Section("times", "Latency", [latency_table(facts), stages_picture(facts), distribution_picture(facts)]),
        Section("how", "How it was made", how_made(facts)),
    ]
