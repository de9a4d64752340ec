"""The device mesh. Each row serves users of its own (data parallelism); the devices of a column form a ring."""

import re
from dataclasses import dataclass

from optimizer.errors import InputError


@dataclass(frozen=True)
class Mesh:
    """`rows x cols` devices with room for `slots_per_device` experts each; device = row * cols + col.

    Raises InputError where any of the three is below 1.
    """

    rows: int
    cols: int
    slots_per_device: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise InputError(f"mesh {self.rows}x{self.cols} has no devices; both numbers must be at least 1", "mesh")
        if self.slots_per_device < 1:
            raise InputError(
                f"{self.slots_per_device} slots per device are too few; at least 1 is needed", "slots_per_device"
            )

    @classmethod
    def parse(cls, text: str, slots_per_device: int) -> "Mesh":
        """The mesh that `ROWSxCOLS` names. Raises InputError for any other text, and for a mesh without devices."""
        match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text.strip())
        if not match:
            raise InputError(f"'{text}' is not a mesh; write it as ROWSxCOLS, for example 16x8", "mesh")
        return cls(int(match[1]), int(match[2]), slots_per_device)

    def __str__(self) -> str:
        """Rows, columns and slots in words."""
        return f"{self.rows}x{self.cols} devices of {self.slots_per_device} slots"

    @property
    def devices(self) -> int:
        """Number of devices of the mesh, which is rows times columns."""
        return self.rows * self.cols

    @property
    def slots(self) -> int:
        """Number of slots in the whole mesh."""
        return self.devices * self.slots_per_device

    def hops(self, row_a: int, row_b: int) -> int:
        """How many hops two rows are apart on the ring of a column; the same in every column."""
        distance = abs(row_a - row_b)
        return min(distance, self.rows - distance)
