"""How a page and its plan were made: command, version, seed, data, and the constants of the hardware with sources."""

from typing import Any

from optimizer import __version__
from optimizer.domain.cost import Cost
from optimizer.domain.presets.schema import Sourced
from optimizer.report.page.facts import PlanFacts
from optimizer.report.page.parts import ALL_LAYERS, Item, TableOfText

SHOWN = ("moeplan", "method", "seed", "origin", "traces", "phase", "candidates", "train_batches", "selection_batches",
         "test_batches")  # fmt: skip
"""What of a layer's provenance a page shows, by the names that it has in the plan file."""


def how_made(facts: PlanFacts) -> list[Item]:
    """The tables and sentences of the last section of a page."""
    return [made_table(facts), constants_table(facts.cost)]


def made_table(facts: PlanFacts) -> TableOfText:
    """How the page and the plan were made, with the plan's own words for its layers."""
    plan = facts.plan
    model = f"{plan.model.name}: {plan.model.routed_experts} routed and {plan.model.shared_experts} shared experts"
    common = [
        ["command", facts.command or "from Python"],
        ["moeplan", __version__],
        ["model", f"{model}, top-{plan.model.top_k}"],
        ["mesh", str(plan.mesh)],
        ["hardware", plan.hardware],
        ["plan's routing", _routing(facts)],
        ["judged on", facts.batches],
        *(["note", note] for note in facts.notes),
    ]
    views = {}
    for layer in facts.layers:
        made = plan.layers[layer].provenance
        views[str(layer)] = [
            *common,
            *([f"plan's {name.replace('_', ' ')}", str(made[name])] for name in SHOWN if name in made),
        ]
    return TableOfText("made", "Command, traces and plan", ("", ""), views, prose=True)


def _routing(facts: PlanFacts) -> str:
    """The plan's policy and what it is told by."""
    plan = facts.plan
    said = [plan.policy]
    said += [] if plan.price_us is None else [f"price {plan.price_us:g} us"]
    said += [] if plan.unit is None else [f"counts {plan.unit}"]
    said += [] if plan.capacity_factor is None else [f"capacity factor {plan.capacity_factor:g}"]
    hints = plan.hints
    if hints is not None:
        said.append(f"hints: half-life {hints.half_life:g}, refresh {hints.refresh}, lag {hints.lag} batches")
    return ", ".join(said)


def constants_table(cost: Cost) -> TableOfText:
    """The constants from which times are made, each section with its source."""
    rows = [
        [name, _figures(section), section.source]
        for name, section in ((name, getattr(cost.preset, name)) for name in type(cost.preset).model_fields)
        if isinstance(section, Sourced) and name != "mesh"
    ]
    title = f"Constants of {cost.name}; times in us, bandwidths in GB/s"
    return TableOfText("constants", title, ("section", "constants", "source"), {ALL_LAYERS: rows}, prose=True)


def _figures(section: Sourced) -> str:
    """The constants of a section of a hardware preset."""
    values: dict[str, Any] = section.model_dump(exclude={"source", "kind"}, exclude_none=True)
    return ", ".join(f"{name} {_figure(value)}" for name, value in values.items())


def _figure(value: Any) -> str:
    """The text of a constant."""
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
