"""The picture of what moves win: the gain of a rebalanced plan against the expert weights that devices load."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from optimizer.report.page.parts import ALL_LAYERS, Picture, View, rounded
from optimizer.report.page.theme import BEFORE_COLOUR, PLAN_COLOUR

GAINED = {"latency_us": "mean latency saved, %", "expected_imbalance": "peak of the expected load saved, %"}
"""What is gained, by what `measure` says."""


def moves_picture(figures: Mapping[str, Any]) -> Picture:
    """The gain against moves, with its 95 % interval, and the point that was asked for.

    figures: the JSON form of what was rebalanced, as `Rebalanced.as_json` gives it and `rebalance --json` prints it; of
    it `measure`, `routing`, `curve` and `asked` are read.
    """
    curve, asked, gained = figures["curve"], figures["asked"], GAINED[figures["measure"]]
    counted = figures["measure"] == "expected_imbalance"
    judged = "On recorded steps, not batches, under even split" if counted else f"On test batches, {figures['routing']}"
    return Picture(
        name="moves",
        title="Gain against moves",
        reads="A point for each budget, with the best placement that was found within it. Bars are 95 % intervals. A "
        f"move is an expert weight that a device loads. {judged}.",
        traces=[
            _trace("within a budget", BEFORE_COLOUR, "lines+markers"),
            _trace("as asked for", PLAN_COLOUR, "markers") | {"marker": {"size": 12, "symbol": "diamond"}},
        ],
        layout={
            "xaxis": {"title": {"text": "expert weights that devices load"}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": gained}},
        },
        views={ALL_LAYERS: View([_values(curve), _values([asked])], _says(gained, curve, asked))},
        height=400,
        wide=True,
    )


def _trace(name: str, colour: str, mode: str) -> dict[str, Any]:
    """A curve of plotly's without its values: its name, colour, error bars, and what is said where the mouse is."""
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "line": {"color": colour},
        "error_y": {"type": "data", "symmetric": False, "thickness": 1.5, "width": 4, "color": colour},
        "hovertemplate": "%{customdata}: %{x} moves save %{y:.2f} %<extra></extra>",
    }


def _values(points: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Where points lie, and how far their intervals reach."""
    gain, low, high = (100 * np.array([point["gain"][end] for point in points]) for end in ("mean", "low", "high"))
    above, below = rounded(np.maximum(high - gain, 0.0)), rounded(np.maximum(gain - low, 0.0))
    return {
        "x": [point["moves"] for point in points],
        "y": rounded(gain),
        "error_y": {"array": above, "arrayminus": below},
        "customdata": [_budget(point) for point in points],
    }


def _budget(point: Mapping[str, Any]) -> str:
    return "no limit" if point["budget"] is None else f"budget of {point['budget']}"


def _says(gained: str, curve: list[Mapping[str, Any]], asked: Mapping[str, Any]) -> str:
    """What the picture shows, in words for those who cannot see it: moves and gain of each budget."""
    points = "; ".join(
        f"{_budget(point)}, {point['moves']} moves, {100 * point['gain']['mean']:.2f}" for point in curve
    )
    return f"{gained}, by budget: {points}. Asked for: {_budget(asked)}."
