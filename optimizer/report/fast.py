"""What `solve` prints of layers planned on expected load alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from optimizer.planning.plan_fast import FastLayer
from optimizer.report.tables import Part, make_table

SHOWN = 12  # layers that have a row of their own; of more there are the mean and the worst


def parts(rows: Sequence[FastLayer]) -> list[Part]:
    """One table: each layer where they are few, and the mean and the worst of several."""
    train, test = figures(rows)
    table = make_table("Imbalance of the expected load, even split", "layer", ["train requests", "test requests"])
    for place, row in enumerate(rows if len(rows) <= SHOWN else ()):
        table.add_row(str(row.layer), f"{train[place]:.4f}", f"{test[place]:.4f}")
    if len(rows) > 1:
        table.add_row(f"mean of {len(rows)}", f"{train.mean():.4f}", f"{test.mean():.4f}")
        table.add_row("worst", f"{train.max():.4f}", f"{test.max():.4f}")
    return [table]


def figures(rows: Sequence[FastLayer]) -> Any:
    """Imbalance on train and on test requests, `[2, layer]`."""
    return np.array([[row.train_imbalance, row.test_imbalance] for row in rows]).T


def as_json(rows: Sequence[FastLayer]) -> dict[str, Any]:
    """All layers."""
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
