"""A small plan of several layers with the facts that its page shows, for tests of pages."""

from pathlib import Path

import numpy as np
from random_problems import WORMHOLE, cost, random_placement, write_traces

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.report.page.facts import PlanFacts
from optimizer.report.page.gather import gather
from optimizer.report.page.request import PageRequest
from optimizer.traces.source import TraceInput

MODEL, MESH, LAYERS = Model("small", 8, 1, 2), Mesh(3, 2, 3), (0, 1, 2)
TOKENS, COUNT = 24, 40


def small_plan(policy: str = "hint-device") -> Plan:
    """Random placements of three layers."""
    rng = np.random.default_rng(3)
    parts = {layer: LayerPlan(random_placement(rng, MODEL.experts, MESH)) for layer in LAYERS}
    return Plan(MODEL, MESH, WORMHOLE, policy, parts)


def small_request(folder: Path, plan: Plan | None = None, **more: object) -> PageRequest:
    """What is asked of a page on small traces, which are written into the folder."""
    traces = write_traces(folder / "traces", np.random.default_rng(7))
    named = TraceInput(traces=[str(traces)], batch_tokens=TOKENS)
    asked = {"routings": ("even-source", "optimal"), "batch_count": COUNT} | more
    return PageRequest(plan or small_plan(), cost(), named, **asked)  # type: ignore[arg-type]


def small_facts(folder: Path, plan: Plan | None = None, **more: object) -> PlanFacts:
    """The facts of that page."""
    return gather(small_request(folder, plan, **more))
