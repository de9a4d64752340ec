"""YAML of mappings, lists and scalars, read without building anything that a file could make huge.

Only the event parser of PyYAML is used, which makes no objects and does not recurse: this module limits the nesting,
refuses merge keys and tags, which can hide an exponential number of entries, and refuses a key that is given twice,
which PyYAML's own loaders pass over. Aliases stay references to one object.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from optimizer.errors import InputError
from optimizer.exchange.reading import text_of

MOST_NESTED = 20  # a placement needs three levels, and the rest of a server's settings a few more
MOST_SCALARS = 300_000
"""Numbers and texts in one file: 5,000 slots in each of 60 layers. They take three seconds to parse."""

INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UnusableError(Exception):
    """Why a text cannot be used, as the end of a sentence."""


def yaml_of(path: Path) -> Any:
    """The value in a YAML file: dicts, lists, integers and, for all other scalars, text.

    Raises InputError, in one line that begins with the path, for what is no YAML, and for what is refused.
    """
    text = text_of(path)
    try:
        return _value(yaml.parse(text, Loader=LOADER))
    except _UnusableError as error:
        raise InputError(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark is not None else ""
        said = " ".join(str(getattr(error, "problem", error)).split())[:100]
        raise InputError(f"{path}: is not YAML{place} ({said})") from None


def _value(events: Iterator[Any]) -> Any:
    """The value of the first document. Containers that are open stand on a stack, each with the key that waits for its
    value."""
    root: list[Any] = []
    stack: list[tuple[Any, list[Any]]] = [(root, [])]
    anchors: dict[str, Any] = {}
    scalars = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise _UnusableError(f"refers to '{event.anchor[:40]}' before it is known")
            _add(*stack[-1], anchors[event.anchor])
        elif isinstance(event, yaml.ScalarEvent):
            scalars += 1
            if scalars > MOST_SCALARS:
                raise _UnusableError(f"holds more than {MOST_SCALARS} numbers and texts, which no placement needs")
            _add(*stack[-1], _named(event, _scalar(event), anchors))
        elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            made: Any = [] if isinstance(event, yaml.SequenceStartEvent) else {}
            if len(stack) > MOST_NESTED:
                raise _UnusableError(f"is nested deeper than {MOST_NESTED} levels")
            _add(*stack[-1], made)
            stack.append((_named(event, made, anchors), []))
        elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            stack.pop()
        elif isinstance(event, yaml.DocumentEndEvent):
            break
    return root[0] if root else None


def _add(container: Any, waiting: list[Any], value: Any) -> None:
    """Put a value into an open container; in a mapping it is a key first, and then the value of that key."""
    if isinstance(container, list):
        container.append(value)
    elif waiting:
        container[waiting.pop()] = value
    elif isinstance(value, list | dict):
        raise _UnusableError("has a list or a mapping as a key")
    elif value == "<<":
        raise _UnusableError("has a merge key (<<), which is not read; write the entries out")
    elif value in container:
        raise _UnusableError(f"has the key '{str(value)[:40]}' twice")
    else:
        waiting.append(value)


def _named(event: Any, value: Any, anchors: dict[str, Any]) -> Any:
    """The value, kept under its anchor if it has one."""
    if event.tag is not None and not event.tag.startswith("tag:yaml.org,2002:"):
        raise _UnusableError(f"has a tag '{event.tag[:40]}', which is not read")
    if event.anchor is not None:
        anchors[event.anchor] = value
    return value


def _scalar(event: Any) -> Any:
    plain = event.style in (None, "") and event.tag is None
    return int(event.value) if plain and INTEGER.fullmatch(event.value) else event.value
