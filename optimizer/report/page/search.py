"""How planning converged: whether it was still getting better when its time ended."""

from collections.abc import Callable, Sequence
from typing import Any

from optimizer.planning.convergence import Convergence
from optimizer.report.page.facts import PlanFacts
from optimizer.report.page.parts import Item, Picture, View
from optimizer.report.page.theme import COLOURS
from optimizer.report.page.words import us
from optimizer.search.trail import Trail

MOST_CURVES = 12
"""Curves in a picture: a legend of more hides it. The policies and searches that come first are shown."""


def search_items(facts: PlanFacts) -> list[Item]:
    """The pictures of how candidates and searches got better, or a sentence on why there are none."""
    found = {layer: facts.plan.layers[layer].convergence for layer in facts.layers}
    known = {layer: each for layer, each in found.items() if each is not None}
    if not any(each.candidates for each in known.values()):
        return ["The plan does not say how its search converged: it was made by an earlier version, or without one."]
    items: list[Item] = [_candidates(facts, known)]
    return [*items, _searches(facts, known)] if any(each.searches for each in known.values()) else items


def _candidates(facts: PlanFacts, known: dict[int, Convergence]) -> Picture:
    """The latency of what would be chosen of the candidates so far."""
    return _picture(
        "candidates",
        "The best candidate so far, mean latency, us",
        "Of the candidates judged so far, the one that would be chosen for each policy; means over the plan's "
        "selection batches. A curve that has long been level would gain little by more time.",
        ("candidates judged for the policy", "latency of the layer, us"),
        "%{x} candidates: %{y:,.1f} us",
        {layer: _of(facts, layer, known, lambda each: each.candidates, _as_is) for layer in facts.layers},
    )


def _searches(facts: PlanFacts, known: dict[int, Convergence]) -> Picture:
    """The objective of each search against the moves that it evaluated."""
    return _picture(
        "searches",
        "Objective of each search, % of where it began",
        "The least objective that a search, or one of its chains, has passed. Each has its own: mostly peak loads of "
        "train batches, of which it can lower only what is above even loads.",
        ("moves evaluated", "% of the first objective"),
        "%{x:,} moves: %{y:.2f} %",
        {layer: _of(facts, layer, known, lambda each: each.searches, _relative) for layer in facts.layers},
    )


def _as_is(value: float, first: float) -> float:
    return value


def _relative(value: float, first: float) -> float:
    return float(f"{100 * value / first:.5g}") if first > 0 else 100.0


def _of(
    facts: PlanFacts,
    layer: int,
    known: dict[int, Convergence],
    which: Callable[[Convergence], Sequence[Trail]],
    scaled: Callable[[float, float], float],
) -> list[Trail]:
    """The trails of a layer that are shown, the plan's policy first, with their values scaled."""
    found = which(known[layer]) if layer in known else ()
    ordered = sorted(found, key=lambda trail: facts.plan.policy not in trail.name)[:MOST_CURVES]
    return [
        Trail(trail.name, trail.after, [scaled(value, trail.best[0]) for value in trail.best], trail.spent)
        for trail in ordered
        if trail.best
    ]


def _picture(
    name: str, title: str, reads: str, axes: tuple[str, str], hover: str, trails: dict[int, list[Trail]]
) -> Picture:
    """A picture of trails by layer, which has as many traces as the layer with the most of them."""
    most = max(map(len, trails.values()))
    return Picture(
        name=name,
        title=title,
        reads=reads,
        traces=[_trace(place, hover) for place in range(most)],
        layout={
            "xaxis": {"title": {"text": axes[0]}, "type": "log" if name == "searches" else "linear"},
            "yaxis": {"title": {"text": axes[1]}},
        },
        views={str(layer): _view(layer, of, most, title) for layer, of in trails.items()},
    )


def _trace(place: int, hover: str) -> dict[str, Any]:
    """A curve of steps; from the eighth on colours come again, dashed."""
    return {
        "type": "scatter",
        "mode": "lines",
        "line": {
            "shape": "hv",
            "width": 2,
            "color": COLOURS[place % len(COLOURS)],
            "dash": "solid" if place < len(COLOURS) else "dash",
        },
        "hovertemplate": hover,
    }


def _view(layer: int, trails: list[Trail], most: int, title: str) -> View:
    """The trails of one layer; each ends where its search did. A log axis has no 0, so that curves begin at 1."""
    traces: list[dict[str, Any]] = [
        {
            "name": trail.name,
            "x": [max(1, after) for after in (*trail.after, trail.spent)],
            "y": [*trail.best, trail.best[-1]],
        }
        for trail in trails
    ]
    traces += [{"x": [], "y": [], "showlegend": False}] * (most - len(traces))
    said = "; ".join(f"{trail.name} from {us(trail.best[0])} to {us(trail.best[-1])}" for trail in trails)
    return View(traces, f"Layer {layer}. {title}, from the first to the last value: {said or 'nothing'}.")
