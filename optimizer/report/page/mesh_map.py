"""The mesh as a map of slots: what each carries before and after, and on pointing at one, which expert it holds."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.placement import EMPTY
from optimizer.report.page.facts import JudgedRun, LayerFacts, PlanFacts
from optimizer.report.page.parts import Picture, View, rounded
from optimizer.report.page.theme import OTHER_SEQUENTIAL, SEQUENTIAL
from optimizer.statistics.coactivation import lift

PARTNERS = 3
"""How many experts that are often chosen together with a slot's are named: as many as fit on a line."""

FEWEST_TOGETHER = 20
"""Tokens that must have chosen both of two experts before they count as partners, as the lift of rarer pairs is mostly
chance: its deviation is then about a fifth. Not tuned."""


def metrics(unit: str) -> dict[str, str]:
    """What the maps can show, by name; unit: what tiles are counted in."""
    return {
        "load": "load of the slot, token-expert pairs a batch",
        "tiles": f"{unit} of the slot in a batch",
        "share": "share of all latency in which the device computes as the slowest, %",
    }


def mesh_maps(facts: PlanFacts) -> list[Picture]:
    """The placement before and the plan, side by side and in the same colours."""
    return [_map(facts, "before", facts.before), _map(facts, "plan", "the plan")]


def _map(facts: PlanFacts, which: str, owner: str) -> Picture:
    """The map of one of the two placements; which: its name in `LayerFacts`."""
    words = metrics(facts.cost.unit)
    mesh = Mesh(facts.plan.mesh.rows, facts.plan.mesh.cols, getattr(facts.first, which).placement.slots.shape[1])
    lines = _between_devices(mesh)
    of_slot = np.arange(mesh.devices)[:, None].repeat(mesh.slots_per_device, axis=1)
    devices = cell_grid(of_slot, mesh).tolist()
    views = {str(layer): _view(each, which, mesh, facts) for layer, each in facts.layers.items()}
    return Picture(
        name=f"mesh-{which}",
        title=f"Mesh under {owner}",
        reads=f"Each cell is a slot, each block of {mesh.slots_per_device} cells a device. Means over {facts.batches}; "
        "both maps have the same colours, and empty slots have none. Point at a slot for its expert.",
        traces=[
            {
                "type": "heatmap",
                "meta": {"metric": metric} | ({"device": devices} if metric == "load" else {}),
                "hoverinfo": "text",
                "xgap": 1,
                "ygap": 1,
                "colorscale": OTHER_SEQUENTIAL if metric == "share" else SEQUENTIAL,
                "colorbar": {"title": {"text": unit, "side": "right"}, "thickness": 10},
            }
            for metric, unit in zip(words, ("pairs a batch", f"{facts.cost.unit} a batch", "% of latency"), strict=True)
        ],
        layout={
            "xaxis": _ticks(mesh.cols, across(mesh), "mesh column"),
            "yaxis": _ticks(mesh.rows, down(mesh), "mesh row") | {"autorange": "reversed"},
            "shapes": lines,
        },
        views=views,
        height=380,
    )


def _view(facts: LayerFacts, which: str, mesh: Mesh, whole: PlanFacts) -> View:
    """The map of one layer: values of all metrics, in colours that both placements share."""
    run: JudgedRun = getattr(facts, which)
    values, tops = _values(run), [_values(each) for each in (facts.before, facts.plan)]
    traces = [
        {"z": rounded_cells(cell_grid(values[name], mesh)), "zmin": 0,
         "zmax": float(f"{max(np.nanmax(each[name]) for each in tops):.4g}")}
        for name in values
    ]  # fmt: skip
    load = run.report.device_load.mean(axis=0)
    tiles = run.report.device_tiles.mean(axis=0)
    hottest = int(load.argmax())
    says = (
        f"Layer {facts.layer} under {run.name}: the device with the highest mean load, device {hottest}, has "
        f"{load[hottest]:.1f} pairs a batch where the mean is {load.mean():.1f}; the most {whole.cost.unit} on one "
        f"are {tiles.max():.2f} in the mean. Device {int(run.latency_share().argmax())} is oftenest waited for."
    )
    return View(traces, says, cells={**_cells(facts, run, mesh), "unit": whole.cost.unit})


def _values(run: JudgedRun) -> dict[str, Floats]:
    """What the map shows of each slot, `[device, slot]`, by metric; nan for empty slots."""
    empty = run.placement.slots == EMPTY
    share = np.broadcast_to(100 * run.latency_share()[:, None], empty.shape)
    values = {"load": run.slot_load, "tiles": run.slot_tiles, "share": share}
    return {name: np.where(empty, np.nan, of) for name, of in values.items()}


def _cells(facts: LayerFacts, run: JudgedRun, mesh: Mesh) -> Mapping[str, Any]:
    """What a reader is told of a slot: its expert, its device, and what is often chosen together with the expert."""
    return {
        "expert": cell_grid(run.placement.slots, mesh).tolist(),
        "cols": mesh.cols,
        "partners": partners(facts.pairs, facts.load, facts.tokens),
    }


def partners(pairs: Ints, load: Ints, tokens: int) -> list[list[list[float]]]:
    """For each routed expert those that are chosen together with it most above chance, each with its lift.

    pairs `[expert, expert]`, load `[batch, expert]` of `tokens` tokens.
    """
    above = lift(pairs, load.sum(axis=0)[: len(pairs)], tokens)
    above = np.where(pairs >= FEWEST_TOGETHER, above, -np.inf)
    np.fill_diagonal(above, -np.inf)
    found = []
    for row in above:
        best = np.argsort(-row, kind="stable")[:PARTNERS]
        found.append([[int(other), float(f"{row[other]:.3g}")] for other in best if row[other] > 1])
    return found


def down(mesh: Mesh) -> int:
    """In how many rows of cells the slots of a device lie: the largest divisor of their number up to its root, so that
    a device is about square."""
    slots = mesh.slots_per_device
    return max(number for number in range(1, int(slots**0.5) + 1) if slots % number == 0)


def across(mesh: Mesh) -> int:
    """In how many columns of cells the slots of a device lie."""
    return mesh.slots_per_device // down(mesh)


def cell_grid(values: Any, mesh: Mesh) -> Any:
    """Values `[device, slot]` as they lie in the map, `[row of cells, column of cells]`."""
    high, wide = down(mesh), across(mesh)
    grid = values.reshape(mesh.rows, mesh.cols, high, wide).transpose(0, 2, 1, 3)
    return grid.reshape(mesh.rows * high, mesh.cols * wide)


def rounded_cells(values: Floats) -> list[list[float | None]]:
    """A map's values with four significant digits, None for nan, which JSON does not have."""
    return [[None if value != value else value for value in row] for row in rounded(values)]


def _ticks(devices: int, cells: int, title: str) -> dict[str, Any]:
    """An axis with a number at the middle of each device, or of up to eight of them: paper has no more room."""
    step = -(-devices // 8)
    shown = range(0, devices, step)
    return {
        "title": {"text": title},
        "tickvals": [cells * device + (cells - 1) / 2 for device in shown],
        "ticktext": [str(device) for device in shown],
        "showgrid": False,
        "zeroline": False,
    }


def _between_devices(mesh: Mesh) -> list[dict[str, Any]]:
    """Lines between devices; their colour is the page's background."""
    wide, high = across(mesh), down(mesh)
    right, low = mesh.cols * wide - 0.5, mesh.rows * high - 0.5
    lines = [{"x0": col * wide - 0.5, "x1": col * wide - 0.5, "y0": -0.5, "y1": low} for col in range(1, mesh.cols)]
    lines += [{"x0": -0.5, "x1": right, "y0": row * high - 0.5, "y1": row * high - 0.5} for row in range(1, mesh.rows)]
    return [{"type": "line", "line": {"width": 3}, **line} for line in lines]
