"""The command `presets`, which lists models, hardware, servers and deployments."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from optimizer.commands.declare import Argument, command
from optimizer.commands.options import JsonOptions
from optimizer.commands.output import show, show_json


@dataclass(frozen=True)
class PresetKinds:
    """The argument that names what is listed."""

    SECTION: ClassVar[str] = "What to list"
    kinds: Annotated[
        tuple[Literal["models", "hardware", "servers", "deployments"], ...],
        Argument("[models|hardware|servers|deployments]...", many=True),
    ] = ()


@command(example="moeplan presets deployments")
def presets(what: PresetKinds, figures: JsonOptions) -> None:
    """List what there is by name, with figures and their sources: models, hardware, servers, deployments.

    A model may also be the path of its Hugging Face config.json, and hardware that of a TOML file like a preset's, all
    keys of which `--json` shows.
    """
    from optimizer.report.presets import KINDS, as_json, parts

    kinds = tuple(dict.fromkeys(what.kinds)) or KINDS
    if figures.as_json:
        show_json(as_json(kinds))
        return
    show(parts(kinds))
