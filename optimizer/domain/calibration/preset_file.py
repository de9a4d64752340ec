"""A hardware preset as the text of its TOML file."""

import json
from typing import Any

from optimizer.domain.presets.schema import HardwarePreset


def preset_text(preset: HardwarePreset) -> str:
    """The TOML file of a preset, which `load_hardware` reads back as the same; sections hold no tables."""
    parts = []
    for name, section in preset.model_dump(exclude_none=True).items():
        lines = [f"{key} = {_value(value)}" for key, value in section.items()]
        parts.append("\n".join([f"[{name}]", *lines]) + "\n")
    return "\n".join(parts)


def _value(value: Any) -> str:
    """A value as TOML: numbers, true and false are written as in JSON, and so are texts but for the delete sign."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
