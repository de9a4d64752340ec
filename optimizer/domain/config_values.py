"""Numbers and lists in the settings of a model, which files by other people name and write in several ways."""

from collections.abc import Mapping, Sequence
from typing import Any

from optimizer.errors import InputError

MOST = 10**12
"""No setting of a model is so large, its parameters included: a larger number is damage."""

Settings = Mapping[str, Any]
"""The settings in a model's config.json, by their names."""


def number_of(settings: Settings, names: Sequence[str]) -> int | None:
    """The whole number, 0 or more, that stands under one of these names; None where none of them is there or all are
    null.

    A list of equal numbers, as some models have one for each layer, is that number. Raises InputError for anything
    else, and where two of the names are there and say different numbers.
    """
    found = {name: _whole(name, settings[name]) for name in names if settings.get(name) is not None}
    if len(set(found.values())) > 1:
        said = " and ".join(f"{name} is {value}" for name, value in found.items())
        raise InputError(f"{said}, which should be the same; remove the wrong ones")
    return next(iter(found.values()), None)


def _whole(name: str, value: Any) -> int:
    """A whole number of 0 or more, or the one of which a list has nothing but repetitions."""
    if isinstance(value, list) and value and all(each == value[0] for each in value):
        value = value[0]
    if isinstance(value, list):
        raise InputError(f"{name} is a list of several values, but one number for all layers is needed")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MOST:
        raise InputError(f"{name} is {_short(value)}, but a whole number between 0 and {MOST} is needed")
    return value


def list_of(settings: Settings, name: str, kind: type, what: str) -> list[Any] | None:
    """The list under this name, whose elements are of this kind (bool stands for no number); None where it is not there
    or null. what: the elements in words. Raises InputError for anything else."""
    value = settings.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(each, kind) and not isinstance(each, bool) for each in value):
        raise InputError(f"{name} is {_short(value)}, but a list of {what} is needed")
    return value


def _short(value: Any) -> str:
    """A value as it is written, cut where it is long."""
    said = repr(value) if not isinstance(value, int) or abs(value) < 1e30 else "a number of more than 30 digits"
    return said if len(said) <= 60 else f"{said[:57]}..."
