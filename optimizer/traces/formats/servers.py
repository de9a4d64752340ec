"""Every format that says what each token chose, by its name; the native one has a reader of its own."""

from collections.abc import Iterator
from pathlib import Path

from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.exchange import omniinfer
from optimizer.traces.formats.expert_log import read_expert_log
from optimizer.traces.formats.expert_maps import foreign
from optimizer.traces.formats.recorder_tokens import read_recorded_tokens
from optimizer.traces.formats.request import BadRequestError, Request
from optimizer.traces.formats.responses import read_responses
from optimizer.traces.formats.routed_values import three_axes
from optimizer.traces.formats.routing_lines import read_routing_lines
from optimizer.traces.formats.sniff import Format
from optimizer.traces.formats.tensorrt_raw import read_raw_ids
from optimizer.traces.formats.untrusted import INTEGERS, UnusableError, array_from_npy


def read_requests(
    path: Path, kind: Format, model: Model | None, extras: bool = False
) -> Iterator[Request | BadRequestError]:
    """Read the requests of a file in its order; in place of one that cannot be used comes a BadRequestError.

    Only flat ids need the model, for its top-k. extras: gate weights are read too, where the format has them. Raises
    InputError for a file that cannot be opened, flat ids without a model, and formats that only count.
    """
    match kind:
        case Format.NPY:
            return _bare_array(path)
        case Format.VLLM | Format.SGLANG:
            return read_responses(path, model)
        case Format.ROUTING_JSONL:
            return read_routing_lines(path)
        case Format.EXPERT_LOG:
            return read_expert_log(path, extras)
        case Format.RECORDER_TOKENS:
            return read_recorded_tokens(path)
        case Format.TENSORRT_RAW:
            return read_raw_ids(path)
    raise InputError(f"{path}: format {kind} does not say what each token chose; name requests, not counts")


def _bare_array(path: Path) -> Iterator[Request | BadRequestError]:
    """Read vLLM's `routed_experts` from a `.npy` file; as it does not tell prompt and output apart, all is output."""
    try:
        with path.open("rb") as file:
            experts = three_axes(array_from_npy(file, path.stat().st_size, INTEGERS), "the array")
        if experts.shape[2] > 2 and int(experts.max()) == 1 and int(experts.min()) == 0:
            raise UnusableError(str(foreign([omniinfer.NAME])))
        yield Request(experts, 0)
    except UnusableError as error:
        yield BadRequestError(f"{'' if str(error).startswith('the array') else 'the array '}{error}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a file that you may read") from None
