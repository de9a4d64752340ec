"""Models and hardware by name: TOML files in which every section says where its figures come from."""

import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from optimizer.domain.model import Model
from optimizer.domain.model_config import CONFIG, is_config, model_of_config
from optimizer.domain.presets.schema import DeploymentPreset, HardwarePreset, ModelPreset, Section
from optimizer.errors import InputError

Preset = TypeVar("Preset", bound=Section)


Kind = Literal["models", "hardware", "deployments"]
FIELDS: dict[Kind, str] = {"models": "model", "hardware": "hardware", "deployments": "deployment"}
"""The parameter by which a preset of each kind is chosen."""


def names(kind: Kind) -> list[str]:
    """The built-in presets of a kind, in alphabetical order."""
    folder = files(__name__) / kind
    return sorted(entry.name[: -len(".toml")] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _parse(text: str, origin: str, schema: type[Preset]) -> Preset:
    """The preset in a TOML text. Raises InputError, which begins with the text's origin and names the first fault."""
    try:
        given = tomllib.loads(text)
        return schema.model_validate(given)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{origin}: not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        said = ": ".join([*_field(first["loc"], given), first["msg"].removeprefix("Value error, ")])
        raise InputError(f"{origin}: {said} ({error.error_count()} fault(s) in all)") from None


def _field(place: tuple[int | str, ...], given: dict[str, Any]) -> list[str]:
    """The faulty field's name in a list, or an empty list where pydantic's message names the field itself.

    Pydantic puts the kind of a section (`tiles`, `link` ...) into the name; it is left out, as no file has such a key.
    """
    section = given.get(str(place[0])) if place else None
    if len(place) > 1 and isinstance(section, dict) and section.get("kind") == place[1]:
        place = (place[0], *place[2:])
    return [".".join(map(str, place))] if place else []


def _built_in(kind: Kind, name: str) -> str:
    """The text of a built-in preset. Raises InputError for a name that there is not."""
    if name not in names(kind):
        more = f", or give the path of its {CONFIG}" if kind == "models" else ""
        raise InputError(
            f"{FIELDS[kind]} '{name}' is not known; there are {', '.join(names(kind))}{more}", FIELDS[kind]
        )
    return (files(__name__) / kind / f"{name}.toml").read_text(encoding="utf-8")


def load_model(name: str) -> Model:
    """The model of a built-in preset, or of the `config.json` that a path names, or that is in a folder.

    Presets go before folders of the same name. Raises InputError for another name, and for a file that cannot be read
    or describes no model with experts.

    Examples
    --------
    >>> load_model("deepseek-v3").routed_experts
    256
    """
    return model_of_config(name) if name not in names("models") and is_config(name) else _model(name)


@cache
def _model(name: str) -> Model:
    """The built-in model of this name."""
    preset = model_preset(name)
    return Model(name=name, **preset.model_dump(exclude={"source"}))


def model_preset(name: str) -> ModelPreset:
    """The figures of the built-in model of this name with their source. Raises InputError for another name."""
    return _parse(_built_in("models", name), f"model preset {name}", ModelPreset)


@cache
def load_deployment(name: str) -> DeploymentPreset:
    """The built-in deployment of this name. Raises InputError for another name."""
    return _parse(_built_in("deployments", name), f"deployment preset {name}", DeploymentPreset)


@cache
def load_hardware(name: str) -> HardwarePreset:
    """The built-in hardware of this name, or that of a user's TOML file where the name ends in .toml.

    Raises InputError for an unknown name, and for a file that cannot be read or has a fault.
    """
    if not name.endswith(".toml"):
        return _parse(_built_in("hardware", name), f"hardware preset {name}", HardwarePreset)
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = f"{name}: cannot be read ({error}); give a preset's name or a TOML file"
        raise InputError(said, "hardware") from None
    return _parse(text, name, HardwarePreset)
