"""What there is by name: models, hardware, servers and deployments, with their figures and where these come from."""

from collections.abc import Callable, Sequence
from typing import Any

from optimizer.domain.deployment import ExpertRanks, with_shared_beside
from optimizer.domain.model import in_stretches
from optimizer.domain.presets import load_deployment, load_hardware, load_model, model_preset, names
from optimizer.domain.presets.schema import RooflineCompute
from optimizer.report.tables import Part, make_table
from optimizer.routing.servers.abilities import SERVERS

Sources = dict[str, str]
"""Where figures come from, by the name of a preset or of one of its sections."""


def as_json(kinds: Sequence[str]) -> dict[str, Any]:
    """All figures of these kinds of presets with their sources, by kind and name."""
    return {kind: _FIGURES[kind]() for kind in kinds}


def parts(kinds: Sequence[str]) -> list[Part]:
    """A table of each of these kinds of presets, and below it the sources of its figures."""
    return [part for kind in kinds for part in _PARTS[kind]()]


def _models() -> list[Part]:
    """The models, with the numbers that decide on their placement."""
    columns = ("experts", "shared", "top-k", "MoE layers", "of MTP", "hidden size", "expert width")
    table, sources = make_table("Models (--model)", "name", columns), Sources()
    for name in names("models"):
        model = load_model(name)
        numbers = model.routed_experts, model.shared_experts, model.top_k
        layers = f"{model.moe_layers}: {in_stretches(model.moe_layer_ids)}"
        sizes = model.mtp_layers, model.hidden_size, model.expert_width
        table.add_row(name, *map(str, (*numbers, layers, *sizes)))
        sources[name] = model_preset(name).source
    return [table, *_sentences(sources)]


def _hardware() -> list[Part]:
    """The hardware, with how computing and sending are timed."""
    columns = ("devices", "slots", "links", "a slot takes, us", "dispatch, combine from, us",
               "price of routing by batch, us")  # fmt: skip
    table, sources = make_table("Hardware (--hardware)", "name", columns), Sources()
    for name in names("hardware"):
        preset = load_hardware(name)
        mesh, compute = preset.mesh, preset.compute
        if isinstance(compute, RooflineCompute):
            slot = f"{compute.weight_bytes / compute.memory_gigabytes_per_second / 1e3:.1f} or by tokens"
        else:
            slot = f"{compute.first_tile_us:g} + {compute.further_tile_us:g} a tile"
        bases = f"{preset.dispatch.base_us:g}, {preset.combine.base_us:g}"
        links, price = preset.network.links, f"{preset.routing.batch_us:g}"
        table.add_row(name, f"{mesh.rows}x{mesh.cols}", str(mesh.slots_per_device), links, slot, bases, price)
        sections = {section: getattr(preset, section) for section in type(preset).model_fields}
        sources |= {f"{name}, {section}": of.source for section, of in sections.items() if of is not None}
    return [table, *_sentences(sources)]


def _servers() -> list[Part]:
    """The servers, with what they run as released."""
    table = make_table("Servers (--server)", "name", ("title", "shared experts", "policies"))
    for server in SERVERS.values():
        where = "on every device, outside the slots" if server.shared_beside else "in slots"
        policies = ", ".join(server.policies) if server.own_rule else "all"
        table.add_row(server.name, server.title, where, policies)
    return [table, "Sources: the servers' code as of autumn 2026, see docs/servers.md."]


def _deployments() -> list[Part]:
    """The deployments, with the mesh and slots that follow from their ranks."""
    columns = ("hardware", "server", "phase", "mesh", "slots of a rank", "its tokens")
    table, sources = make_table("Deployments (--deployment)", "name", columns), Sources()
    for name, of in _deployment_figures().items():
        experts = of["slots"] * of["ep_size"] - of["redundant_experts"]
        slots = f"({experts} + {of['redundant_experts']}) / {of['ep_size']} = {of['slots']}"
        tokens = "" if of["tokens_per_rank"] is None else str(of["tokens_per_rank"])
        table.add_row(name, of["hardware"], of["server"], of["phase"], f"{of['rows']}x{of['cols']}", slots, tokens)
        sources[name] = of["source"]
    return [table, *_sentences(sources)]


def _deployment_figures() -> dict[str, dict[str, Any]]:
    """The figures of every deployment with the mesh and slots per rank that follow from them."""
    found = {}
    for name in names("deployments"):
        preset = load_deployment(name)
        model = load_model(preset.model)
        held = with_shared_beside(model) if SERVERS[preset.server].shared_beside else model
        mesh = ExpertRanks(preset.ep_size, preset.redundant_experts, preset.gpus_per_node).mesh(held)
        found[name] = preset.model_dump() | {"rows": mesh.rows, "cols": mesh.cols, "slots": mesh.slots_per_device}
    return found


def _server_figures() -> dict[str, dict[str, Any]]:
    """What each server runs as released, and what it would need for more."""
    return {
        server.name: {
            "title": server.title,
            "policies": list(server.policies),
            "policies_otherwise": list(server.otherwise),
            "shared_experts": "beside" if server.shared_beside else "slots",
            "needs": server.needs,
        }
        for server in SERVERS.values()
    }


def _sentences(sources: Sources) -> list[str]:
    """The sources, a line for each."""
    return [f"{name}: {source}" for name, source in sources.items()]


_PARTS: dict[str, Callable[[], list[Part]]] = {
    "models": _models,
    "hardware": _hardware,
    "servers": _servers,
    "deployments": _deployments,
}
_FIGURES: dict[str, Callable[[], dict[str, Any]]] = {
    "models": lambda: {name: model_preset(name).model_dump() for name in names("models")},
    "hardware": lambda: {name: load_hardware(name).model_dump() for name in names("hardware")},
    "servers": _server_figures,
    "deployments": _deployment_figures,
}
KINDS = tuple(_PARTS)
"""The kinds of presets, in the order in which they are shown."""
