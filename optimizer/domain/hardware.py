"""The devices that are planned for: a mesh, and what work and messages cost on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.presets import load_hardware

DEFAULT_HARDWARE = "tt-wormhole-quad-galaxy"
"""The home case: 16 x 8 Tenstorrent Wormhole devices with 3 expert slots each."""


@dataclass(frozen=True)
class Hardware:
    """A mesh with its cost model, made by `Hardware.of` from a preset."""

    mesh: Mesh
    cost: Cost

    @classmethod
    def of(
        cls,
        name: str = DEFAULT_HARDWARE,
        mesh: Mesh | str | None = None,
        slots_per_device: int | None = None,
        moe_op: Literal["optimized", "functional"] = "optimized",
        dispatch_model: Literal["link", "table", "node"] | None = None,
        prices: Mapping[str, float] | None = None,
    ) -> "Hardware":
        """The hardware of a preset, with a mesh of another size where one is given.

        Parameters
        ----------
        name
            A built-in preset, or the path of a TOML file like one.
        mesh
            A mesh, or its rows and columns as in `"16x8"`; None for the preset's.
        slots_per_device
            Expert slots of each device; None for the preset's. Not to be given beside a `Mesh`, which has its own.
        moe_op
            Whether the MoE op packs tokens per expert (optimized) or leaves them in their places (functional).
        dispatch_model
            By which model dispatch is timed; None for the preset's own.
        prices
            What routing policies take to decide, in microseconds by name, where that is not the preset's price.

        Raises
        ------
        InputError
            For an unknown preset, a mesh that is none, and models that the preset has no figures for.

        Examples
        --------
        >>> Hardware.of(mesh="4x8").mesh.devices
        32
        """
        preset = load_hardware(name)
        if not isinstance(mesh, Mesh):
            own = preset.mesh
            slots = own.slots_per_device if slots_per_device is None else slots_per_device
            mesh = Mesh.parse(mesh or f"{own.rows}x{own.cols}", slots)
        return cls(mesh, Cost(name, preset, moe_op, dispatch_model, dict(prices or {})))
