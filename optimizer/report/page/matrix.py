"""Plans on data sets as a matrix of colours and numbers."""

from collections.abc import Sequence
from typing import Any

from formulations.kit.arrays import Floats
from optimizer.report.page.parts import ALL_LAYERS, Picture, View, rounded
from optimizer.report.page.theme import DIVERGING


def matrix_picture(
    title: str,
    reads: str,
    says: str,
    rows: Sequence[str],
    columns: Sequence[str],
    percent: Floats,
    texts: Sequence[Sequence[str]],
    hover: Any,
    labels: tuple[str, str],
) -> Picture:
    """A picture of a value for every row and column.

    percent `[row, column]` decides the colours, 0 being their middle. texts: what stands in the cells, by row; hover:
    what pointing at one tells. labels: the titles of the rows and of the columns.
    """
    trace = {
        "type": "heatmap",
        "texttemplate": "%{text}<br>%{z:+.1f} %",
        "hovertemplate": "%{hovertext}<extra></extra>",
        "colorscale": DIVERGING,
        "zmid": 0,
        "xgap": 2,
        "ygap": 2,
        "colorbar": {"title": {"text": "%", "side": "top"}, "thickness": 10},
    }
    values = {"x": list(columns), "y": list(rows), "z": rounded(percent), "text": texts, "hovertext": hover}
    return Picture(
        name="matrix",
        title=title,
        reads=reads,
        traces=[trace],
        layout={
            "xaxis": {"title": {"text": labels[1]}, "type": "category"},
            "yaxis": {"title": {"text": labels[0]}, "type": "category", "autorange": "reversed"},
        },
        views={ALL_LAYERS: View([values], says)},
        height=180 + 56 * len(rows),
        wide=True,
    )
