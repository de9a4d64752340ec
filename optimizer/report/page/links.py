"""What decides a batch's latency: the slowest devices, their experts and the busiest links, and what links carry."""

from typing import Any

import numpy as np

from optimizer.domain.network import Network
from optimizer.report.page.facts import JudgedRun, LayerFacts, PlanFacts
from optimizer.report.page.mesh_map import rounded_cells
from optimizer.report.page.parts import Picture, TableOfText, View
from optimizer.report.page.theme import SEQUENTIAL
from optimizer.report.page.words import percent

STAGES_OF_LINKS = {
    "dispatch": "messages of dispatch on the link, a batch",
    "combine": "messages of combine on the link, a batch",
}
"""What the pictures of links can show, by the names that `SimulationReport.links` has."""

WORDS = {
    "device": "slowest device",
    "expert": "costliest expert on it",
    "dispatch_link": "busiest link of dispatch",
    "combine_link": "busiest link of combine",
}
"""What a table calls that which is critical, by the names of `SimulationReport.often`."""


def critical_table(facts: PlanFacts) -> TableOfText:
    """What decided the latency of most batches, with its share of batches, for the placement before and the plan."""
    return TableOfText(
        name="critical",
        title=f"What batches wait for oftenest, with the share of batches; {facts.batches}",
        columns=("placement, routing", "what", "oftenest", "second", "third"),
        views={
            str(layer): [row for run in (each.before, each.plan) for row in _critical(run)]
            for layer, each in facts.layers.items()
        },
        prose=True,
    )


def _critical(run: JudgedRun) -> list[list[str]]:
    """The rows of one run."""
    rows = []
    for kind, entries in run.report.often().items():
        said = [f"{entry.get('name', entry['id'])}: {percent(entry['share'])}" for entry in entries]
        rows.append([run.name, WORDS[kind], *said, *[""] * (3 - len(said))])
    return rows


def link_pictures(facts: PlanFacts) -> list[Picture]:
    """What each link carries under the placement before and under the plan."""
    return [_links(facts, "before", facts.before), _links(facts, "plan", "the plan")]


def _links(facts: PlanFacts, which: str, owner: str) -> Picture:
    """The links under one of the two placements; which: its name in `LayerFacts`."""
    network: Network = getattr(facts.first, which).report.network
    rows, places = link_rows(network)
    names = [["" if link < 0 else network.link_name(link) for link in row] for row in places.tolist()]
    along = "place on the ring" if network.links == "rings" else "device"
    return Picture(
        name=f"links-{which}",
        title=f"Link loads under {owner}, messages a batch",
        reads=f"Each row is {'a ring in one direction' if network.links == 'rings' else 'a kind of port'}. The busiest "
        f"link decides how long dispatch and combine take. Means over {facts.batches}.",
        traces=[
            {
                "type": "heatmap",
                "meta": {"metric": stage},
                "text": names,
                "y": rows,
                "hovertemplate": f"%{{text}}: %{{z}} messages of {stage} a batch<extra></extra>",
                "colorscale": SEQUENTIAL,
                "colorbar": {"title": {"text": "messages a batch", "side": "right"}, "thickness": 10},
            }
            for stage in STAGES_OF_LINKS
        ],
        layout={
            "xaxis": {"title": {"text": along}, "showgrid": False, "zeroline": False},
            "yaxis": {"autorange": "reversed", "showgrid": False, "zeroline": False, "type": "category"},
        },
        views={str(layer): _view(each, which, places) for layer, each in facts.layers.items()},
        height=360,
    )


def link_rows(network: Network) -> tuple[list[str], np.ndarray[Any, np.dtype[Any]]]:
    """The rows in which links are shown: their names, and the links of each, `[row, place]`, -1 where a row is shorter
    than others."""
    mesh = network.mesh
    if network.links != "rings":
        kinds = ["out", "in"] if len(network.remote) == 2 * mesh.devices else ["out", "in", "out, far", "in, far"]
        return kinds, np.arange(len(network.remote)).reshape(len(kinds), mesh.devices)
    names = [f"column {col} {way}" for col in range(mesh.cols) for way in ("up", "down")]
    wide, more = (max(mesh.rows, mesh.cols), 2 * mesh.rows) if network.across else (mesh.rows, 0)
    places = np.full((len(names) + more, wide), -1)
    places[: len(names), : mesh.rows] = np.arange(network.column_edges).reshape(len(names), mesh.rows)
    if network.across:
        rows = np.arange(network.column_edges, len(network.remote)).reshape(-1, mesh.cols)
        places[len(names) :, : mesh.cols] = rows
        names += [f"row {row} {way}" for row in range(mesh.rows) for way in ("up", "down")]
    return names, places


def _view(facts: LayerFacts, which: str, places: np.ndarray[Any, np.dtype[Any]]) -> View:
    """One layer, in colours that both placements share."""
    carried = {name: getattr(facts, name).report.links() for name in ("before", "plan")}
    traces = []
    for stage in STAGES_OF_LINKS:
        load = np.array(carried[which][stage])
        top = max(max(each[stage], default=0.0) for each in carried.values())
        traces.append({"z": rounded_cells(np.where(places < 0, np.nan, load[places])), "zmin": 0, "zmax": top})
    run: JudgedRun = getattr(facts, which)
    out = np.array(carried[which]["dispatch"])
    busiest = run.report.network.link_name(int(out.argmax()))
    says = (
        f"Layer {facts.layer} under {run.name}: the busiest link of dispatch, {busiest}, carries {out.max():.1f} "
        f"messages a batch where the mean link carries {out.mean():.1f}."
    )
    return View(traces, says)
