"""The verdict in words, which a page begins with: is the plan faster, by how much, and is there room for more."""

import numpy as np

from optimizer.planning.bounds import LATENCY, TIME
from optimizer.report.page.facts import GREEDY, PlanFacts
from optimizer.report.page.words import apart, percent, us
from optimizer.report.verdict import CHANCE
from optimizer.statistics.paired import gain_of_summed_p99


def verdict(facts: PlanFacts) -> list[str]:
    """Sentences about the plan beside the placement before it, what routing costs, the bound, and strange traces."""
    return [_latency(facts), _price(facts), *_bound(facts), *_foreign(facts)]


def _latency(facts: PlanFacts) -> str:
    p99, old = facts.summed("plan", "p99"), facts.summed("before", "p99")
    mean, old_mean = facts.summed("plan", "mean"), facts.summed("before", "mean")
    run, before = facts.first.plan, facts.first.before
    policy, other = run.report.routing, before.report.routing
    routed = (
        f"Both are routed by {policy}" if policy == other else f"The plan is routed by {policy}, the other by {other}"
    )
    where = f"Layer {facts.first.layer}" if len(facts.layers) == 1 else f"{len(facts.layers)} layers together"
    return (
        f"{where}: the plan's p99 latency is {us(p99)} us, {apart(p99, old)} that of {_whose(facts)} ({us(old)} us)"
        f"{_chance(facts)}; "
        f"its mean is {us(mean)} us, {apart(mean, old_mean)} ({us(old_mean)} us). {routed}, on "
        f"{facts.batches}."
    )


def _chance(facts: PlanFacts) -> str:
    """Whether the difference in p99 may be chance, where both placements were judged on the same batches."""
    runs = [[each.before.report, each.plan.report] for each in facts.layers.values()]
    if len({report.batches for pair in runs for report in pair}) > 1:
        return ""
    before, after = ([report.latency_us for report in reports] for reports in zip(*runs, strict=True))
    return CHANCE if gain_of_summed_p99(before, after).may_be_chance else ""


def _whose(facts: PlanFacts) -> str:
    """The placement before, in words."""
    return "EPLB's scheme, greedy replication and packing" if facts.before == GREEDY else facts.before


def _price(facts: PlanFacts) -> str:
    run = facts.first.plan.report
    if run.price_us > 0:
        return f"Every batch waits {run.price_us:g} us until {run.routing} has chosen replicas, which all figures hold."
    return f"No batch waits for the choice of replicas: {run.routing} decides beside the step."


def _bound(facts: PlanFacts) -> list[str]:
    """How far the latency, or in plans of earlier versions the compute time, is above what no plan goes below, as the
    plan file says."""
    for unit, name in ((LATENCY, "mean latency"), (TIME, "compute time")):
        found = [facts.plan.layers[layer].bounds.get(unit, {}) for layer in facts.layers]
        above = [gap["gap_to_any_placement"] for gap in found if gap.get("gap_to_any_placement") is not None]
        if above:
            whose = "" if len(above) == 1 else " in the mean of the layers"
            return [f"Its {name} is {percent(float(np.mean(above)))}{whose} above a bound for any plan."]
    return ["The plan holds no bound on its latency."]


def _foreign(facts: PlanFacts) -> list[str]:
    """A warning where a plan was made from recorded traces, and is judged on generated ones because none were named."""
    origin = str(facts.plan.layers[facts.first.layer].provenance.get("origin", ""))
    if not facts.generated or origin.startswith("built-in"):
        return []
    return [
        "No traces were named: these figures are of the built-in generated trace, which the plan was not made from."
    ]
