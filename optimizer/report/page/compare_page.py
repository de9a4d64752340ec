"""The page of `compare`: our plan beside the plans of published planners."""

from collections.abc import Sequence

from optimizer.experiments.compare_rivals import OURS, Comparison, p99
from optimizer.report.compare import parts, routing, verdict
from optimizer.report.page.from_tables import items_of
from optimizer.report.page.parts import Section
from optimizer.report.page.planners import bars, batches_of, distribution, fastest
from optimizer.report.page.skeleton import page
from optimizer.report.page.words import apart, us


def compare_page(found: Comparison, notes: Sequence[str]) -> str:
    """A page with the verdict, latencies of all planners as bars and as a distribution, and the table of `compare`."""
    said = [verdict(found) if found.server.own_rule else best_of_each(found), f"On {batches_of(found)}."]
    return page(f"moeplan: planners on layer {found.layer}", said, compare_sections(found, notes))


def compare_sections(found: Comparison, notes: Sequence[str]) -> list[Section]:
    """The sections of the page."""
    pictures, said = [bars(found), distribution(found)], parts(found)
    below = said[1:] if found.server.own_rule else said  # the verdict stands at the top of the page
    return [
        Section("planners", "Latency of each planner", [*pictures, *items_of(below, "compared")]),
        Section("notes", "What to know of the traces", list(notes) or ["Nothing."]),
    ]


def best_of_each(found: Comparison) -> str:
    """How our p99 latency stands to EPLB's and to that of the best other planner, each under its best policy."""
    best = fastest(found)
    ours, eplb = best.pop(OURS), best["EPLB"]
    name, other = next(iter(best.items()))
    said = f"{apart(p99(ours.report), p99(eplb.report))} that of EPLB"
    if other is not eplb:
        said += f" and {apart(p99(ours.report), p99(other.report))} that of the best other planner ({name})"
    return (
        f"Our plan's p99 latency is {us(p99(ours.report))} us, {said}; each under the best of its policies, "
        f"ours under {routing(ours)}. Every latency holds the price of its routing."
    )
