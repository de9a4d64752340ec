"""SGLang's expert distribution recorder in its mode `per_token`: the physical ids that each token of a rank chose.

The file holds forward passes, and does not say which requests ran in them: see `read_recorded_tokens`.
"""

from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.errors import InputError
from optimizer.traces.formats.recorder_records import Recording
from optimizer.traces.formats.request import BadRequestError, Request
from optimizer.traces.formats.untrusted import INTEGERS, UnusableError, whole_number

IDS = "topk_ids_of_layer"
REMARK = (
    "SGLang's recorder does not say which requests its forward passes are of: each sequence of a prefill pass counts "
    "as a prompt, each decode pass as a request whose tokens follow each other"
)


class ForwardMode(IntEnum):
    """The numbers of SGLang's forward modes whose tokens are known to be of the prompt, of the output, or of either."""

    EXTEND = 1
    DECODE = 2
    MIXED = 3


def read_recorded_tokens(path: Path) -> Iterator[Request | BadRequestError]:
    """Read the forward passes of a rank's file, in the order of the file, as requests with logical ids.

    A prefill pass (forward mode EXTEND) has the prompts of `extend_seq_lens` tokens each, one after another: each
    becomes a request. A decode pass becomes one request of output tokens. In a mixed pass the sequences of one token
    are decoded, and become one request. Where the mode is not said all is output. -1 pads dense layers, columns
    beyond the top-k, and tokens, which then are not recorded. Physical ids are mapped by the file's last map, so
    that a recording during which experts were moved is partly wrong.
    """
    try:
        with Recording(path) as recording:
            slots = recording.physical_to_logical
            for number, record in enumerate(recording.records([IDS])):
                try:
                    yield from _requests(record, slots)
                except UnusableError as error:
                    yield BadRequestError(f"records[{number}]: {error}")
    except UnusableError as error:
        yield BadRequestError(str(error))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a file that you may read") from None


def _requests(record: dict[str, object], slots: Ints) -> Iterator[Request]:
    """The requests of a forward pass; none where it ran no token, as idle ranks do."""
    ids = record.get(IDS)
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in INTEGERS or ids.ndim != 3:
        raise UnusableError(f"{IDS} is not [layer, token, top_k] of integers")
    if not ids.shape[1]:
        return
    experts, layers = _logical(ids, slots)
    for of, prompt in _stretches(record, ids.shape[1]):
        part = experts[of]
        if len(part):
            yield Request(part, len(part) if prompt else 0, layers, remark=REMARK)


def _logical(ids: Ints, slots: Ints) -> tuple[Ints, tuple[int, ...]]:
    """The experts `[token, layer, k]` of physical ids `[layer, token, column]`, and which layers these are."""
    if len(ids) != len(slots):
        raise UnusableError(f"{IDS} has {len(ids)} layers, but the map of slots {len(slots)}")
    if ids.min() < -1 or ids.max() >= slots.shape[1]:
        raise UnusableError(f"{IDS} holds {ids.min()}..{ids.max()}, but there are slots 0..{slots.shape[1] - 1}")
    used = ids >= 0
    layers, columns = np.flatnonzero(used.any(axis=(1, 2))), np.flatnonzero(used.any(axis=(0, 1)))
    if not len(layers):
        raise UnusableError("no token is recorded: all ids are -1")
    chosen = ids[layers][:, :, columns]
    experts = np.where(chosen >= 0, slots[layers[:, None, None], chosen], -1).astype(np.int32)
    return experts.transpose(1, 0, 2), tuple(layers.tolist())


def _stretches(record: dict[str, object], tokens: int) -> list[tuple[Ints | slice, bool]]:
    """The tokens of each request of a pass, and whether they are of a prompt."""
    mode, lengths = record.get("forward_mode"), record.get("extend_seq_lens")
    if mode is None or mode == ForwardMode.DECODE:
        return [(slice(tokens), False)]
    if mode not in (ForwardMode.EXTEND, ForwardMode.MIXED):
        raise UnusableError(f"forward_mode is {str(mode)[:20]}, which is neither extend (1), decode (2) nor mixed (3)")
    if lengths is None and mode == ForwardMode.EXTEND:
        return [(slice(tokens), True)]
    if not isinstance(lengths, list) or not all(map(whole_number, lengths)) or sum(lengths) != tokens:
        raise UnusableError(f"extend_seq_lens does not add up to the {tokens} tokens of {IDS}")
    ends = np.cumsum(lengths)
    starts, size = ends - lengths, np.array(lengths)
    decoded = (size == 1) & (mode == ForwardMode.MIXED)
    prompts = [(slice(start, stop), True) for start, stop in zip(starts[~decoded], ends[~decoded], strict=True)]
    return [*prompts, (starts[decoded], False)]
