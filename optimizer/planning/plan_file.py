"""The plan file: placements, policy, quality, bounds and provenance of several layers, as one JSON file."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optimizer.domain.hardware import Hardware
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.presets import load_hardware, load_model, names
from optimizer.errors import InputError
from optimizer.exchange.formats import FORMATS, PLAN, formats_of
from optimizer.files import write_whole
from optimizer.planning.convergence import Convergence, ConvergenceFile
from optimizer.routing.context import LearnedShares, Unit
from optimizer.routing.hints import HintSettings
from optimizer.routing.policies import FORMER_NAMES, POLICIES, check_policy
from optimizer.routing.tables import DispatchTable

Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]

FORMAT, VERSION = "moeplan/plan", 1


@dataclass(frozen=True)
class LayerPlan:
    """One layer: its placement, test figures, bounds, and what they were made from.

    learned: what train batches taught, for policies that need it; convergence: how its searches got better. Both are
    None in a plan that does not say.
    """

    placement: Placement
    quality: dict[str, Any] = field(default_factory=dict)
    bounds: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    learned: LearnedShares | None = None
    convergence: Convergence | None = None


@dataclass(frozen=True)
class Plan:
    """Placements by model layer id, and the routing policy that they were made for.

    unit: what the policy counts loads in, None for what the hardware's compute cost counts; capacity_factor: of each
    replica, beyond which pairs are rerouted, None for no limit. price_us: microseconds that the policy takes to decide,
    which all latencies of the plan contain; None for the price of the hardware. hints: how load hints are made, for a
    policy that chooses by them; None for the usual ones.
    """

    model: Model
    mesh: Mesh
    hardware: str
    policy: str
    layers: dict[int, LayerPlan]
    unit: Unit | None = None
    capacity_factor: float | None = None
    price_us: float | None = None
    hints: HintSettings | None = None

    @property
    def prices(self) -> dict[str, float]:
        """The prices of policies that differ from those of the hardware, in microseconds by policy, for a `Cost`."""
        return {} if self.price_us is None else {self.policy: self.price_us}

    @property
    def network(self) -> Network:
        """The links of the plan's mesh, as its hardware has them. Raises InputError where there is no such hardware."""
        return Network.of(self.mesh, load_hardware(self.hardware).network)

    def before(self, layer: int) -> tuple[Placement | None, ...]:
        """The placements of the model's layers before this one, by layer id, None for those that the plan lacks."""
        return tuple(self.layers[each].placement if each in self.layers else None for each in range(layer))

    @classmethod
    def of(
        cls, placement: Placement, layer: int, model: Model, hardware: Hardware, policy: str = "even-source"
    ) -> "Plan":
        """The plan of one layer with a placement of one's own.

        Raises InputError where the placement breaks a rule, such as an expert without a slot, and for an unknown
        policy.
        """
        check_policy(policy, "policy")
        plan = cls(model, hardware.mesh, hardware.cost.name, policy, {layer: LayerPlan(placement)})
        if faults := _violations(plan, placement):
            raise InputError("; ".join(faults), "placement")
        return plan


class _Part(BaseModel):
    """More keys may be added to a plan, so unknown ones are no fault."""

    model_config = ConfigDict(extra="ignore", strict=True)


class _Model(_Part):
    name: str
    routed_experts: int = Field(ge=1)
    shared_experts: int = Field(ge=0)
    top_k: int = Field(ge=1)
    layers: int | None = Field(default=None, ge=0)
    first_moe_layer: int | None = Field(default=None, ge=0)
    groups: int | None = Field(default=None, ge=1)
    groups_per_token: int | None = Field(default=None, ge=1)
    mtp_layers: int | None = Field(default=None, ge=0)
    dense_layers: list[int] | None = None
    hidden_size: int | None = Field(default=None, ge=0)
    expert_width: int | None = Field(default=None, ge=0)
    shared_beside: int | None = Field(default=None, ge=0)


class _Mesh(_Part):
    rows: int = Field(ge=1)
    cols: int = Field(ge=1)
    slots_per_device: int = Field(ge=1)


class _Hints(_Part):
    half_life: float = Field(gt=0, allow_inf_nan=False)
    refresh: int = Field(ge=1)
    lag: int = Field(ge=1)


class _Routing(_Part):
    policy: str
    unit: Unit | None = None
    capacity_factor: float | None = Field(default=None, gt=0, le=1e6, allow_inf_nan=False)
    price_us: Finite | None = None
    parameters: _Hints | None = None


class _Layer(_Part):
    slots: list[list[int]]
    load: list[Finite] | None = None
    share: list[list[Finite]] | None = None
    table: list[list[int]] | None = None
    quality: dict[str, Any] = Field(default_factory=dict)
    bounds: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)
    convergence: ConvergenceFile | None = None


class _File(_Part):
    format: Literal["moeplan/plan"]
    version: Literal[1]
    model: _Model
    mesh: _Mesh
    hardware: str
    routing: _Routing
    layers: dict[str, _Layer] = Field(min_length=1)


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan, whole or not at all. Raises ValueError, and writes nothing, if a placement is invalid."""
    for layer, part in plan.layers.items():
        if faults := _violations(plan, part.placement):
            raise ValueError(f"layer {layer}: {'; '.join(faults)}")
    write_whole(path, json.dumps(_as_json(plan), indent=1) + "\n")


def _violations(plan: Plan, placement: Placement) -> list[str]:
    return placement.violations(plan.model.experts, plan.mesh.devices, plan.mesh.slots_per_device)


def _as_json(plan: Plan) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": asdict(plan.model),
        "mesh": asdict(plan.mesh),
        "hardware": plan.hardware,
        "routing": _routing_as_json(plan),
        "layers": {str(layer): _layer_as_json(part) for layer, part in sorted(plan.layers.items())},
    }


def _routing_as_json(plan: Plan) -> dict[str, Any]:
    said = {
        "policy": plan.policy,
        "unit": plan.unit,
        "capacity_factor": plan.capacity_factor,
        "price_us": plan.price_us,
        "parameters": None if plan.hints is None else asdict(plan.hints),
    }
    return {key: value for key, value in said.items() if value is not None}


def _layer_as_json(part: LayerPlan) -> dict[str, Any]:
    found: dict[str, Any] = {"slots": part.placement.slots.tolist()}
    if part.learned is not None:
        found |= {"load": part.learned.load.round(6).tolist(), "share": part.learned.share.round(6).tolist()}
        if part.learned.table is not None:
            found["table"] = part.learned.table.rank.tolist()
    found |= {"quality": part.quality, "bounds": part.bounds, "provenance": part.provenance}
    return found if part.convergence is None else found | {"convergence": part.convergence.as_json()}


def read_plan(path: Path) -> Plan:
    """Read and check a plan. Raises InputError with one sentence for the first fault found."""
    try:
        plan = _checked(_File.model_validate(json.loads(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give a plan that `moeplan solve` wrote") from None
    except (ValueError, OSError, RecursionError, InputError) as error:
        raise InputError(f"{path}: {_foreign(path) or _reason(error)}") from None
    return plan


def _reason(error: Exception) -> str:
    """Why a file is no plan that can be used."""
    if isinstance(error, ValidationError):
        return _first_fault(error)
    if isinstance(error, json.JSONDecodeError | RecursionError):
        return f"not JSON ({error}); give a plan that `moeplan solve` wrote"
    return str(error) if isinstance(error, InputError) else f"cannot be read as a plan ({error})"


def _foreign(path: Path) -> str | None:
    """What a file is that holds a placement in a server's format; None for any other."""
    try:
        found = formats_of(path)
    except InputError:
        return None
    if not found or found == [PLAN]:
        return None
    said = " or ".join(FORMATS[name].file for name in found)
    return f"is {said}, not a plan; `moeplan import` makes a plan of it"


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"]) or "the file"
    if where in ("format", "version") and fault["type"] == "missing":
        return f"is no plan, as it has no key {where}; give one that `moeplan solve` wrote"
    if where in ("format", "version"):
        wanted = FORMAT if where == "format" else VERSION
        return f"{where} is {fault['input']!r}, but this moeplan reads {wanted!r}"
    return f"{where}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _checked(parsed: _File) -> Plan:
    if parsed.hardware not in names("hardware") and not parsed.hardware.endswith(".toml"):
        load_hardware(parsed.hardware)  # says which there are
    routing = parsed.routing
    policy = FORMER_NAMES.get(routing.policy, routing.policy)
    if policy not in POLICIES:
        raise InputError(f"routing.policy is '{policy}', not one of {', '.join(POLICIES)}")
    mesh = Mesh(parsed.mesh.rows, parsed.mesh.cols, parsed.mesh.slots_per_device)
    hints = None if routing.parameters is None else HintSettings(**routing.parameters.model_dump())
    known = routing.unit, routing.capacity_factor, routing.price_us, hints
    plan = Plan(_model(parsed.model), mesh, parsed.hardware, policy, {}, *known)
    for key, layer in parsed.layers.items():
        if not key.isdecimal():
            raise InputError(f"layers: '{key}' is not a layer id")
        plan.layers[int(key)] = _layer(plan, key, layer)
    return plan


def _layer(plan: Plan, key: str, layer: _Layer) -> LayerPlan:
    mesh = plan.mesh
    if len(layer.slots) != mesh.devices:
        raise InputError(f"layers.{key}.slots: {len(layer.slots)} devices instead of {mesh.devices}, one list each")
    for device, slots in enumerate(layer.slots):
        if len(slots) != mesh.slots_per_device:
            raise InputError(f"layers.{key}.slots: device {device} has {len(slots)} slots, not {mesh.slots_per_device}")
    if min(map(min, layer.slots)) < EMPTY:
        raise InputError(f"layers.{key}.slots: id out of range: {min(map(min, layer.slots))}; -1 is an empty slot")
    placement = Placement(np.clip(np.array(layer.slots, dtype=object), EMPTY, 2**31 - 1).astype(np.int32))
    if faults := _violations(plan, placement):
        more = f"; and {len(faults) - 3} more faults" if len(faults) > 3 else ""
        raise InputError(f"layers.{key}.slots: {'; '.join(faults[:3])}{more}")
    learned = _learned(f"layers.{key}", layer, placement, plan.model.experts)
    convergence = None if layer.convergence is None else layer.convergence.parsed()
    return LayerPlan(placement, layer.quality, layer.bounds, layer.provenance, learned, convergence)


def _learned(where: str, layer: _Layer, placement: Placement, experts: int) -> LearnedShares | None:
    """Loads per expert, shares per slot and the dispatch table, where the first two are given."""
    if layer.load is None or layer.share is None:
        return None
    if len(layer.load) != experts:
        raise InputError(f"{where}.load: {len(layer.load)} numbers instead of {experts}, one per expert")
    if [len(row) for row in layer.share] != [placement.slots.shape[1]] * len(placement.slots):
        raise InputError(f"{where}.share: not one number per slot, as slots has them")
    return LearnedShares(np.array(layer.load), np.array(layer.share), _table(where, layer.table, placement, experts))


def _table(where: str, rank: list[list[int]] | None, placement: Placement, experts: int) -> DispatchTable | None:
    """The dispatch table, given by the ranks of replicas."""
    if rank is None:
        return None
    if not rank or any(len(row) != experts for row in rank):
        raise InputError(f"{where}.table: not one list per source with one number for each of {experts} experts")
    try:
        return DispatchTable.of_ranks(placement, np.clip(np.array(rank, dtype=object), -1, 2**31 - 1).astype(np.int64))
    except ValueError as error:
        raise InputError(f"{where}.table: {error}") from None


def _model(parsed: _Model) -> Model:
    """What a plan does not say of its model (layer numbering, groups, sizes), the preset of that name does."""
    known = asdict(load_model(parsed.name)) if parsed.name in names("models") else {}
    said = parsed.model_dump(exclude_none=True)
    dense = {"dense_layers": tuple(said["dense_layers"])} if "dense_layers" in said else {}
    return Model(**(known | said | dense))
