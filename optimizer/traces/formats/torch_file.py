"""Files of `torch.save`, read without torch: dicts, lists, numbers, texts and tensors, and nothing else.

Such a file is a zip archive of `data.pkl`, which describes the objects, and one member for the bytes of each tensor.
The description is interpreted by a table of the few instructions that plain objects need. None of them calls anything:
the two functions that a tensor names are recognised by name and never looked up.
"""

import math
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from optimizer.traces.formats.untrusted import LIMIT, MOST_AXES, Array, UnusableError

TYPES = {
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "<i1",
    "torch ByteStorage": "<u1",
    "torch BoolStorage": "?",
    "torch DoubleStorage": "<f8",
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
}
MAKES_TENSOR, MAKES_DICT = "torch._utils _rebuild_tensor_v2", "collections OrderedDict"
LONGEST = 1 << 26  # bytes of the description: two numbers a token of a long recording, each of five bytes at most
STRANGE = "holds other objects than plain tensors, which are never unpickled"


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """Where the values of a tensor are: the member of the archive, their type, and how they lie in it, in elements."""

    member: str
    dtype: str
    stored: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many values the tensor has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class _Name:
    """The name of a function or class, which is compared and never looked up."""

    name: str


class TorchFile:
    """An open torch file: `held` is what was saved, with a `StoredTensor` in place of each tensor.

    Raises UnusableError for a damaged file, for one that is compressed, and for one that holds foreign objects.
    """

    def __init__(self, path: Path) -> None:
        """Read the description alone. Raises UnusableError as the class says, OSError where the file cannot be read."""
        with path.open("rb"):  # a file that may not be read is another fault than a damaged one
            pass
        try:
            self._archive = zipfile.ZipFile(path)
        except Exception:  # zipfile raises a dozen kinds for a damaged directory
            raise UnusableError("is not a whole torch file") from None
        try:
            self._prefix = self._checked_members(path.stat().st_size)
            pickled = self._archive.read(f"{self._prefix}/data.pkl")
            self.held, tensors = interpreted(pickled)
            if sum(tensor.elements * np.dtype(tensor.dtype).itemsize for tensor in tensors) > path.stat().st_size:
                raise UnusableError("has tensors that repeat their memory, and are larger than the file")
        except UnusableError:
            self._archive.close()
            raise
        except Exception:  # zipfile raises a dozen kinds for a damaged member
            self._archive.close()
            raise UnusableError("is not a whole torch file") from None

    def __enter__(self) -> "TorchFile":
        """Use the open file as a context."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the file."""
        self._archive.close()

    def array(self, tensor: StoredTensor) -> Array:
        """Read the values of one tensor. Raises UnusableError where its bytes are damaged or not there."""
        if not tensor.elements:
            return np.empty(tensor.shape, tensor.dtype)
        try:
            content = self._archive.read(f"{self._prefix}/data/{tensor.member}")
        except Exception:  # zipfile raises a dozen kinds for a damaged member
            raise UnusableError(f"has no whole bytes of tensor {tensor.member[:20]}") from None
        itemsize = np.dtype(tensor.dtype).itemsize
        values = np.frombuffer(content, tensor.dtype) if len(content) == tensor.stored * itemsize else np.empty(0)
        reach = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True)) + 1
        if reach > len(values):
            raise UnusableError(f"has tensor {tensor.member[:20]} of shape {tensor.shape}, which its bytes do not hold")
        steps = tuple(stride * values.itemsize for stride in tensor.strides)
        view = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, steps, writeable=False)
        return np.ascontiguousarray(view)

    def _checked_members(self, size: int) -> str:
        """The folder that all members are in. Raises UnusableError for members whose declared sizes cannot be true."""
        members = self._archive.infolist()
        described = [info for info in members if info.filename.endswith("/data.pkl")]
        if len(described) != 1:
            raise UnusableError("is not a whole torch file")
        prefix = described[0].filename.removesuffix("/data.pkl")
        if not all(map(stored_whole, members)) or sum(info.file_size for info in members) > size:
            raise UnusableError("is compressed, or declares more bytes than it has")
        if described[0].file_size > LONGEST or any(info.file_size > LIMIT for info in members):
            raise UnusableError(f"describes its objects in more than {LONGEST} bytes, or has a tensor of over {LIMIT}")
        order = f"{prefix}/byteorder"
        if order in self._archive.namelist() and self._archive.read(order) != b"little":
            raise UnusableError("is of a machine with another byte order; save it on a usual one")
        return prefix


def stored_whole(info: zipfile.ZipInfo) -> bool:
    """Whether a member is stored as it is. zipfile asks for as many bytes at once as the compressed size says, and gets
    memory for them before it finds that the file ends earlier; so that size is not to be larger than the other."""
    return info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size


def interpreted(pickled: bytes) -> tuple[object, list[StoredTensor]]:
    """What a description describes, and all of its tensors. Raises UnusableError for an instruction of any other kind.

    The instructions are listed by the standard library, which runs none of them.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            do = INSTRUCTIONS.get(opcode.name)
            if do is None:
                raise UnusableError(STRANGE)
            do(machine, argument)
        (held,) = machine.stack
    except UnusableError:
        raise
    except Exception:  # what is popped from a damaged description can be anything
        raise UnusableError("is damaged, or holds other objects than plain tensors") from None
    return held, machine.tensors


class _Machine:
    """The state of the interpreter: a stack, the stacks that marks have put aside, and remembered objects."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.tensors: list[StoredTensor] = []

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self, _: object) -> None:
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        found, self.stack = self.stack, self.below.pop()
        return found

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def get(self, place: int) -> None:
        self.stack.append(self.memo[place])

    def append(self, _: object) -> None:
        value = self.stack.pop()
        list.append(self.stack[-1], value)

    def appends(self, _: object) -> None:
        values = self.marked()
        list.extend(self.stack[-1], values)

    def set_item(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        dict.__setitem__(self.stack[-1], key, value)

    def set_items(self, _: object) -> None:
        values = self.marked()
        dict.update(self.stack[-1], zip(values[::2], values[1::2], strict=True))

    def gather(self, count: int) -> None:
        """Put the uppermost objects into a tuple."""
        taken = tuple(self.stack[len(self.stack) - count :])
        if len(taken) != count:
            raise UnusableError(STRANGE)
        del self.stack[len(self.stack) - count :]
        self.push(taken)

    def storage(self, _: object) -> None:
        """Name the bytes of a tensor: ("storage", type, member, device, how many)."""
        word, kind, member, _device, count = self.stack.pop()
        if word != "storage" or not isinstance(kind, _Name) or kind.name not in TYPES or not isinstance(member, str):
            raise UnusableError(STRANGE)
        self.push((member, TYPES[kind.name], _size(count)))

    def build(self, _: object) -> None:
        """Make a tensor (storage, offset, shape, strides, ...), or the empty dict that each tensor comes with."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if function == _Name(MAKES_DICT) and arguments == ():
            self.push({})
            return
        if function != _Name(MAKES_TENSOR):
            raise UnusableError(STRANGE)
        (member, dtype, count), offset, shape, strides = arguments[:4]
        if len(shape) > MOST_AXES or len(strides) != len(shape):
            raise UnusableError("holds a tensor of an impossible shape")
        sizes = tuple(map(_size, shape))
        tensor = StoredTensor(member, dtype, count, _size(offset), sizes, tuple(map(_size, strides)))
        self.tensors.append(tensor)
        self.push(tensor)


def _size(value: object) -> int:
    """The value, if it is a whole number that can count elements."""
    if type(value) is not int or not 0 <= value <= LIMIT:
        raise UnusableError("holds a tensor of an impossible shape")
    return value


def _nothing(_: _Machine, __: object) -> None:
    """Instructions that say where the description begins and ends."""


def _literal(value: object) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(value)


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.gather(count)


INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "STOP"), _nothing),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"), _Machine.push),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    "NONE": _literal(None),
    "NEWTRUE": _literal(True),
    "NEWFALSE": _literal(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": _literal(()),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.marked())),
    "MARK": _Machine.mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": lambda machine, name: machine.push(_Name(name)),
    "BINPERSID": _Machine.storage,
    "REDUCE": _Machine.build,
}
"""What each instruction does. BINPUT and the like remember an object, SETITEMS fills a dict, REDUCE makes a tensor."""
