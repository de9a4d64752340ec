"""Files of timings: rows of the sheet, timed by the cost model that plans are judged by."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from optimizer.domain.calibration.measurements import KINDS, NUMBERS, Measurement
from optimizer.domain.cost import Cost, Information


def cost_us(cost: Cost, row: Measurement) -> float:
    """How long the cost model says that a measurement takes."""
    numbers = row.numbers
    if row.stage == "compute":
        return float(cost.compute_us(np.array([[row.tokens]]))[0])
    if row.stage == "functional":
        return _functional_us(cost, int(numbers["slots"]), int(numbers["blocks"]))
    if row.stage == "routing":
        kinds: dict[str, Information] = {"none": "none", "own": "own", "hint": "hint", "batch": "batch"}
        return cost.routing_us("any policy", kinds[row.information])
    if "hops" in numbers:
        return float(cost.table_us(np.array([numbers["experts"]]), np.array([numbers["hops"]]))[0])
    sent = cost.dispatch_us if row.stage == "dispatch" else cost.combine_us
    if "messages" in numbers:
        return float(sent(np.array([[round(2 * numbers["messages"])]]))[0])
    ports = [round(2 * numbers.get(name, 0)) for name in ("local", "remote")]
    return float(sent(np.array([ports]), np.array([False, True]))[0])


def _functional_us(cost: Cost, slots: int, blocks: int) -> float:
    of_slots = np.zeros((1, 1, slots), dtype=np.int64)
    of_slots[0, 0, 0] = blocks
    functional = replace(cost, moe_op="functional")
    return float(functional.compute_us(of_slots, of_slots, np.ones((1, slots), dtype=np.bool_))[0])


def write_rows(path: Path, rows: Sequence[tuple[Measurement, float]]) -> Path:
    """A file with these measurements and their times."""
    lines = [",".join(["stage", "tokens", *NUMBERS, "information", "us"])]
    for row, us in rows:
        numbers = [repr(row.numbers[name]) if name in row.numbers else "" for name in NUMBERS]
        lines.append(",".join([row.stage, ";".join(map(str, row.tokens)), *numbers, row.information, repr(float(us))]))
    path.write_text("\n".join(lines) + "\n")
    return path


def row(stage: str, tokens: Sequence[int] = (), information: str = "", **numbers: float) -> Measurement:
    """A measurement without a time."""
    assert information in ("", *KINDS)
    return Measurement(0, stage, 0.0, tuple(tokens), numbers, information)
