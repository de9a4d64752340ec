"""Models and hardware by name: TOML files in which every section says where its figures come from."""

import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from optimizer.errors import InputError
from optimizer.model import Model


class Section(BaseModel):
    """Unknown keys are faults, so that a misspelt constant cannot be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelPreset(Section):
    """A model's dimensions; `layers` counts the dense ones too."""

    source: str = Field(min_length=1)
    layers: PositiveInt
    first_moe_layer: int = Field(ge=0)
    routed_experts: PositiveInt
    shared_experts: int = Field(ge=0)
    top_k: PositiveInt
    groups: PositiveInt = 1
    groups_per_token: PositiveInt = 1


class MeshSection(Section):
    """The mesh that this hardware has unless the user says otherwise."""

    source: str = Field(min_length=1)
    rows: PositiveInt
    cols: PositiveInt
    slots_per_device: PositiveInt


class TileCompute(Section):
    """The staircase: an active slot pays for its first tile of tokens and for each further one."""

    source: str = Field(min_length=1)
    kind: Literal["tiles"]
    tile_tokens: PositiveInt
    first_tile_us: PositiveFloat
    further_tile_us: PositiveFloat


class LinkDispatch(Section):
    """Base time plus the bytes over the busiest directed ring edge, one multicast per token and column."""

    source: str = Field(min_length=1)
    kind: Literal["link"]
    base_us: float = Field(ge=0)
    bytes_per_token: PositiveInt
    gigabytes_per_second: PositiveFloat


class LinkCombine(LinkDispatch):
    """The way back, unicast: one message per (token, device) or per (token, expert)."""

    message_per: Literal["device", "expert"]


class HardwarePreset(Section):
    """What a MoE layer costs on this hardware, in microseconds."""

    mesh: MeshSection
    compute: TileCompute
    dispatch: LinkDispatch
    combine: LinkCombine


Preset = TypeVar("Preset", bound=Section)


def names(kind: Literal["models", "hardware"]) -> list[str]:
    """The built-in presets of a kind, in alphabetical order."""
    folder = files(__name__) / kind
    return sorted(entry.name[: -len(".toml")] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _parse(text: str, origin: str, schema: type[Preset]) -> Preset:
    try:
        return schema.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{origin}: not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{origin}: {field}: {first['msg']} ({error.error_count()} fault(s) in all)") from None


def _built_in(kind: Literal["models", "hardware"], name: str) -> str:
    if name not in names(kind):
        option = {"models": "--model", "hardware": "--hardware"}[kind]
        raise InputError(f"{option} '{name}' is not known; there are {', '.join(names(kind))}")
    return (files(__name__) / kind / f"{name}.toml").read_text(encoding="utf-8")


@cache
def load_model(name: str) -> Model:
    """The built-in model of this name."""
    preset = _parse(_built_in("models", name), f"model preset {name}", ModelPreset)
    return Model(name=name, **preset.model_dump(exclude={"source"}))


@cache
def load_hardware(name: str) -> HardwarePreset:
    """The built-in hardware of this name, or the one in a TOML file of the user's (a name ending in .toml)."""
    if not name.endswith(".toml"):
        return _parse(_built_in("hardware", name), f"hardware preset {name}", HardwarePreset)
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--hardware {name}: cannot be read ({error}); give a preset's name or a TOML file") from None
    return _parse(text, name, HardwarePreset)
