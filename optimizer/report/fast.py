"""The table of `solve --fast`, which plans layers on their expected load alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from optimizer.planning.plan_fast import FastLayer
from optimizer.report.tables import Part, make_table

SHOWN = 12
"""Up to this number of layers each has a row in the table, which then fits on a screen; of more layers the table shows
the mean and the worst only. Not tuned."""


def parts(rows: Sequence[FastLayer]) -> list[Part]:
    """One table of the layers' imbalance: a row for each layer where there are at most `SHOWN`, and for several layers
    the mean and the worst."""
    train, test = figures(rows)
    table = make_table("Imbalance of the expected load, even split", "layer", ["train requests", "test requests"])
    for place, row in enumerate(rows if len(rows) <= SHOWN else ()):
        table.add_row(str(row.layer), f"{train[place]:.4f}", f"{test[place]:.4f}")
    if len(rows) > 1:
        table.add_row(f"mean of {len(rows)}", f"{train.mean():.4f}", f"{test.mean():.4f}")
        table.add_row("worst", f"{train.max():.4f}", f"{test.max():.4f}")
    return [table]


def figures(rows: Sequence[FastLayer]) -> Any:
    """The imbalance of each layer on its train requests (row 0) and on its test requests (row 1), `[2, layer]`."""
    return np.array([[row.train_imbalance, row.test_imbalance] for row in rows]).T


def as_json(rows: Sequence[FastLayer]) -> dict[str, Any]:
    """The figures of all layers in their stable JSON form: imbalance on train and on test requests, and the seconds
    that planning the layer took."""
    return {
        "layers": {
            str(row.layer): {
                "train_imbalance": row.train_imbalance,
                "test_imbalance": row.test_imbalance,
                "seconds": row.seconds,
            }
            for row in rows
        }
    }
