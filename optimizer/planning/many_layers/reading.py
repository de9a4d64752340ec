"""The batches of many layers, read from traces a few layers at a time, so that memory does not grow with the corpus."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.statistics.checked import with_warnings
from optimizer.statistics.summarise import layers_of_files
from optimizer.traces.infer import ModelChoice
from optimizer.traces.memory import BatchArray
from optimizer.traces.source import TraceInput, TraceSource, model_of, open_traces
from optimizer.traces.trace import RoutingTrace

MOST_BYTES = 500_000_000
"""Bytes of the layers that are open: while they are read they are there twice, which small machines still hold."""

SMALL_FILES = 50_000_000  # bytes on disk that fit in memory even if they are compressed


@dataclass
class LayerReader:
    """Opens the layers of what was named, as many at once as memory may hold; the last ones stay open."""

    named: TraceInput
    model: Model
    mesh: Mesh
    layers: tuple[int, ...]
    progress: Callable[[float], None]
    readers: int = 1
    coming: tuple[int, ...] = ()  # layers in the order in which they will be asked for, where that is known
    at_once: int = 0
    source: TraceSource | None = None
    notes: dict[str, None] = field(default_factory=dict)  # sentences that the user should read, each once

    @classmethod
    def of(
        cls,
        named: TraceInput,
        choice: Model | ModelChoice,
        mesh: Mesh,
        layers: Sequence[int] | None,
        progress: Callable[[float], None],
        readers: int = 1,
    ) -> "LayerReader":
        """A reader of these layers, None for all that have experts; readers: how many share the memory. Raises
        InputError for a batch file, which holds one layer, and as `source.open_source` does."""
        if named.batches is not None or isinstance(named.memory, BatchArray):
            raise InputError("a batch file holds one layer; name that layer, or give traces instead", field="batches")
        model = model_of(named, choice)
        return cls(named, model, mesh, tuple(layers or _all_layers(named, model)), progress, readers)

    def source_of(self, layer: int) -> TraceSource:
        """The source that holds a layer, opened together with those that come after it."""
        if self.source is None or layer not in self.source.trace.layers:
            self.source = None  # before the next is read
            order = self.coming if layer in self.coming else self.layers
            start = order.index(layer)
            self.at_once = self.at_once or self._fitting()
            self.source = self._open(order[start : start + self.at_once])
        return self.source

    def sources(self) -> Iterator[tuple[TraceSource, tuple[int, ...]]]:
        """Every source in turn, with its layers; one at a time is open."""
        left = self.layers
        while left:
            source = self.source_of(left[0])
            yield source, source.trace.layers
            left = tuple(layer for layer in left if layer not in source.trace.layers)

    def _fitting(self) -> int:
        """How many layers fit in memory. How many tokens there are only reading tells: so one layer is read first."""
        files = sum(file.path.stat().st_size for file in self.named.files if file.path.is_file())
        if files <= SMALL_FILES // self.readers:
            return len(self.layers)
        return max(1, MOST_BYTES // self.readers // self._open(self.layers[:1]).trace.experts.nbytes)

    def _open(self, layers: Sequence[int]) -> TraceSource:
        source = open_traces(self.named, layers, self.model, self.mesh, self.progress)
        if not self.notes:  # the first layers tell what may have gone wrong, once
            source = with_warnings(source, self.named)
        self.notes |= dict.fromkeys((source.origin, *source.notes))
        return source


def _all_layers(named: TraceInput, model: Model) -> tuple[int, ...]:
    if isinstance(named.memory, RoutingTrace):
        return named.memory.layers
    if named.traces:
        return layers_of_files(named.files, model, named.first_moe_layer, named.mending)
    if not model.moe_layers:
        told = f"how many layers {model.name} has is not known"
        raise InputError(f"{told}; name the layers, or give traces", field="layers")
    return model.moe_layer_ids
