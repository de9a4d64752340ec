"""A corpus of requests, in whatever formats: finding the files, streaming the requests, keeping some layers."""

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.arrays import given_away
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces.formats.expert_maps import ForeignFileError
from optimizer.traces.formats.npz import read_request
from optimizer.traces.formats.request import BadRequestError, Request
from optimizer.traces.formats.servers import read_requests
from optimizer.traces.formats.sniff import Format, sniff
from optimizer.traces.kept import KeptLayers, joined, kept_layers
from optimizer.traces.mending import AS_RECORDED, Mender, Mending
from optimizer.traces.trace import OUTPUT, PROMPT, RoutingTrace

SUFFIXES = (".npz", ".npy", ".json", ".jsonl", ".pt")  # which files of a folder are looked into


@dataclass(frozen=True)
class TraceFile:
    """A file (for TensorRT-LLM a folder) and its format, which is None where it has none; `fault` then says why.

    foreign: whether it is known to hold something else than routing.
    """

    path: Path
    format: Format | None
    fault: str = ""
    foreign: bool = False


def told_apart(path: Path) -> TraceFile:
    """A file with the format that its content shows.

    A damaged .npz is taken for a request, as the reader of requests says best what is wrong with it. Raises InputError
    for a file that fits two formats.
    """
    try:
        return TraceFile(path, sniff(path))
    except InputError as fault:
        if path.suffix == ".npz" and not isinstance(fault, ForeignFileError):
            return TraceFile(path, Format.NPZ)
        if fault.field == "format":
            raise
        said = str(fault).removeprefix(f"{path}: ")
        return TraceFile(path, None, said, isinstance(fault, ForeignFileError))


def find_files(
    paths: Sequence[str], forced: Format | None = None, tell: Callable[[Path], TraceFile] = told_apart
) -> list[TraceFile]:
    """The trace files that files, folders (searched recursively) and globs name, each once, sorted by path.

    forced: their format, instead of what `tell` finds in each. Raises InputError for a path that names none, and for
    files none of which holds routing, such as expert maps.
    """
    found: set[Path] = set()
    for path in paths:
        matches = [Path(path)] if Path(path).exists() else [Path(name) for name in glob.glob(path, recursive=True)]
        if not matches:
            raise InputError(f"{path}: no such file or folder; give request .npz files, folders of them, or globs")
        files = [file for match in matches for file in _below(match)]
        if not files:
            raise InputError(f"{path}: holds no trace files ({', '.join(SUFFIXES)}); give a folder of request traces")
        found.update(files)
    told = [TraceFile(path, forced) if forced else tell(path) for path in sorted(found)]
    if all(file.foreign for file in told):
        raise InputError(f"{told[0].path}: {told[0].fault}", "traces")
    return told


class FileIndex:
    """The files that paths name, looked for once, each file's content looked into once, however often it is asked.

    What is derived from one `TraceInput` shares its index, as a corpus may have very many files.
    """

    def __init__(self) -> None:
        """Nothing is looked at until it is asked for."""
        self._told: dict[Path, TraceFile] = {}
        self._named: dict[tuple[tuple[str, ...], Format | None], list[TraceFile]] = {}

    def files(self, paths: Sequence[str], forced: Format | None) -> list[TraceFile]:
        """What `find_files` finds. Raises InputError for a path that names no file."""
        asked = tuple(paths), forced
        if asked not in self._named:
            self._named[asked] = find_files(paths, forced, self._tell)
        return self._named[asked]

    def _tell(self, path: Path) -> TraceFile:
        if path not in self._told:
            self._told[path] = told_apart(path)
        return self._told[path]


def _below(path: Path) -> list[Path]:
    """The path itself where it can be read as a whole, else every file below it that may hold traces."""
    if path.is_file() or (path / "meta_info.json").is_file():
        return [path]
    return [file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file()]


def stream(
    files: Sequence[TraceFile], model: Model | None, extras: bool = False
) -> Iterator[tuple[Path, Request | BadRequestError]]:
    """Yield every request of every file in order, unchecked, or the reason why it cannot be read.

    One request is in memory at a time. extras: gate weights and candidates are read too, where a file has them.
    """
    for file in files:
        if file.format is None:
            yield file.path, BadRequestError(file.fault)
        elif file.format is Format.NPZ:
            try:
                yield file.path, read_request(file.path, extras)
            except BadRequestError as fault:
                yield file.path, fault
        else:
            for request in read_requests(file.path, file.format, model, extras):
                yield file.path, request


@dataclass
class Faults:
    """The bad requests seen so far: how many, and what is wrong with the first. With `strict` none is let by.

    Of good requests it is kept how many tokens of theirs were left out, and what their readers had to assume.
    """

    strict: bool
    seen: int = 0
    first: str = ""
    skipped: int = 0
    remarks: dict[str, None] = field(default_factory=dict)

    def add(self, path: Path, fault: BadRequestError) -> None:
        """Count a bad request. Raises InputError with `strict`."""
        if self.strict:
            raise InputError(f"{path}: {fault}; mend it, or do not read strictly, which skips it", "strict")
        self.seen += 1
        self.first = self.first or f"{path}: {fault}"

    def accept(self, request: Request) -> None:
        """Keep what there is to say of a good request."""
        self.skipped += request.skipped
        if request.remark:
            self.remarks[request.remark] = None

    def warnings(self, good: int) -> tuple[str, ...]:
        """Say how many requests and tokens were left out, if any, and what was assumed, a sentence each.

        Raises InputError where no request is good.
        """
        if not good:
            others = f" ({self.seen} requests, none usable)" if self.seen > 1 else ""
            raise InputError(f"{self.first or 'no requests'}{others}; record it again, or name other requests")
        skipped = f"{self.seen} of {good + self.seen} requests skipped; the first: {self.first}"
        cached = (
            f"{self.skipped:,} prompt tokens come before the first recorded ones of their requests and are not used"
        )
        return ((skipped,) if self.seen else ()) + ((cached,) if self.skipped else ()) + tuple(self.remarks)


def usable(
    files: Sequence[TraceFile],
    mender: Mender,
    layers: Sequence[int],
    faults: Faults,
    progress: Callable[[float], None] = lambda share: None,
    extras: bool = False,
) -> Iterator[tuple[Path, Request, KeptLayers]]:
    """Yield each good request, mended, with its file and the layers that were asked for; bad ones go to `faults`.

    `progress` receives the share of files that have been read.
    """
    place = {file.path: number for number, file in enumerate(files)}
    model, first = mender.model, mender.first_moe_layer
    for path, request in stream(files, model, extras):
        try:
            if isinstance(request, BadRequestError):
                raise request
            mended = mender.mend(request)
            kept = kept_layers(mended, model, layers, first)
            faults.accept(mended)
            yield path, mended, kept
        except BadRequestError as fault:
            faults.add(path, fault)
        progress((place[path] + 1) / len(files))


def read_traces(
    files: Sequence[TraceFile],
    model: Model,
    layers: Sequence[int],
    first_moe_layer: int | None = None,
    strict: bool = False,
    progress: Callable[[float], None] = lambda share: None,
    extras: bool = False,
    mending: Mending = AS_RECORDED,
) -> RoutingTrace:
    """Read these layers of all requests; nothing of any other layer is kept.

    extras: gate weights and candidates are read too, where all good requests have them. mending: what is left out of
    requests or translated, of which the `warnings` tell as well. A bad request is skipped, and
    the trace's `warnings` say so. Raises InputError, which names the file and the fault, for a bad request if `strict`,
    and where no request is good.
    """
    faults, mender = Faults(strict), Mender(mending, model, first_moe_layer)
    if mending.placement is not None:
        for layer in layers:
            mending.placement.of(layer)  # raises for a layer that the placement lacks
    parts: list[KeptLayers] = []
    phases: list[Ints] = []
    for _, _, part in usable(files, mender, layers, faults, progress, extras):
        parts.append(part)
        phases.append(np.where(np.arange(len(part.experts)) < part.prompt_tokens, PROMPT, OUTPUT).astype(np.uint8))
    warnings = faults.warnings(len(parts))
    whole, lacking = joined(parts)
    return RoutingTrace(
        experts=given_away(whole.experts),
        layers=tuple(layers),
        offsets=np.cumsum([0, *(len(part.experts) for part in parts)]),
        phase=np.concatenate(phases),
        source=f"{len(parts)} requests",
        warnings=(*warnings, *mender.notes(), *lacking),
        weights=None if whole.weights is None else given_away(whole.weights),
        candidates=None if whole.candidates is None else given_away(whole.candidates),
        recorded=whole.recorded,
    )
