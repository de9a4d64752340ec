"""The files that SGLang's expert distribution recorder writes in its modes `per_pass` and `per_token`, one a rank.

Such a file is `torch.save` of `{"records": [{"forward_pass_id", "rank", ...}], "last_physical_to_logical_map"}`: the
records say physical ids, that is, slots, which the map `[layer, slot]` turns into experts.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from formulations.kit.arrays import Ints
from optimizer.traces.formats.torch_file import StoredTensor, TorchFile
from optimizer.traces.formats.untrusted import INTEGERS, LARGEST_ID, Array, UnusableError

MAP = "last_physical_to_logical_map"


class Recording:
    """An open file of records; physical_to_logical `[layer, slot]` int64 is the expert that each slot holds.

    Raises UnusableError for a file that is damaged, or has no records or no such map of ids from 0 to 65535.
    """

    def __init__(self, path: Path) -> None:
        """Read the description of all records, and the map; the arrays of records are read one record at a time."""
        self._file = TorchFile(path)
        try:
            held = self._file.held
            records = held.get("records") if isinstance(held, dict) else None
            if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
                raise UnusableError("has no records as SGLang's recorder writes them per pass or per token")
            self._records: list[dict[object, object]] = records
            self.physical_to_logical: Ints = self._map(held.get(MAP) if isinstance(held, dict) else None)
        except UnusableError:
            self._file.__exit__(None, None, None)
            raise

    def __enter__(self) -> "Recording":
        """Use the open file as a context."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the file."""
        self._file.__exit__(kind, error, at)

    def records(self, wanted: Sequence[str]) -> Iterator[dict[str, object]]:
        """Yield the records in the order of the file, each a dict of its plain values and of the wanted arrays.

        A tensor whose name is not wanted is left out and not read, so that one record at a time takes memory. Raises
        UnusableError for a damaged array, and for one that two records share.
        """
        seen: set[int] = set()
        for record in self._records:
            found: dict[str, object] = {}
            for name, value in record.items():
                if not isinstance(value, StoredTensor):
                    found[str(name)] = value
                elif name in wanted:
                    if id(value) in seen:
                        raise UnusableError(f"has two records with one and the same {name}")
                    seen.add(id(value))
                    found[str(name)] = self._file.array(value)
            yield found

    def _map(self, tensor: object) -> Ints:
        slots: Array | None = self._file.array(tensor) if isinstance(tensor, StoredTensor) else None
        if slots is None or slots.ndim != 2 or not slots.size or slots.dtype.kind not in INTEGERS:
            raise UnusableError(f"has no {MAP} [layer, slot] of integers")
        if slots.min() < 0 or slots.max() > LARGEST_ID:
            raise UnusableError(f"{MAP} names experts {slots.min()}..{slots.max()}, not within 0..{LARGEST_ID}")
        return slots.astype("<i8")
