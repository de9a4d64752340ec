"""What was named where that is counts, or may be: opening them, and the model of whatever was named."""

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces.count_files import read_count_files
from optimizer.traces.formats.batch_file import read_batches
from optimizer.traces.formats.counts import Counts, CountsReading, step_counts
from optimizer.traces.formats.sniff import COUNTS_ONLY
from optimizer.traces.infer import ModelChoice, model_of_array, model_without_trace
from optimizer.traces.memory import BatchArray
from optimizer.traces.mending import Mender
from optimizer.traces.no_op import counted_requests, mended_counts
from optimizer.traces.source import TraceInput, TraceSource, model_of
from optimizer.traces.synthetic.generator import builtin_trace


def holds_counts(named: TraceInput) -> bool:
    """Whether what was named are counts, at least in part."""
    return isinstance(named.memory, Counts) or any(file.format in COUNTS_ONLY for file in named.files)


def open_counts(named: TraceInput, model: Model | ModelChoice) -> tuple[Counts, Model] | None:
    """Read the counts that were named, and their model; None where requests were named, or nothing.

    Several files of counts are of one run. Requests with no-op experts are counted, too. Raises InputError for counts
    beside requests, and where the top-k is known to nobody.
    """
    if isinstance(named.memory, Counts):
        return named.memory, _model_of_counts(named.memory, model)
    if holds_counts(named):
        known = model if isinstance(model, Model) else model.for_reading()
        reading = CountsReading(named.first_moe_layer, known, named.scale)
        counts = mended_counts(read_count_files(named.files, reading, named.strict), named.mending)
        return counts, _model_of_counts(counts, model)
    if named.mending.no_op_from is None or not named.traces:
        return None
    whole = model_of(named, model)
    mender = Mender(named.mending, whole, named.first_moe_layer)
    return counted_requests(named.files, mender, named.strict), whole


def _model_of_counts(counts: Counts, model: Model | ModelChoice) -> Model:
    """The model that counts are of. Raises InputError where the top-k is known to nobody."""
    if isinstance(model, Model):
        return model
    if model.name:
        return model_without_trace(model)
    top_k = model.top_k or counts.top_k
    if top_k is None:
        message = f"{counts.source}: does not say how many experts a token uses; give its top-k or its model"
        raise InputError(message, "top_k")
    return model.applied(Model("custom", counts.load.shape[2], 0, top_k))


def synthesised(counts: Counts, model: Model, layer: int, named: TraceInput, mesh: Mesh) -> TraceSource:
    """Generate requests whose experts are chosen as often as counts say. Raises InputError for an unknown layer."""
    load = step_counts(counts, layer).sum(axis=0)
    trace = builtin_trace(model, [layer], named.seed, load[None], named.extras)
    return TraceSource(model, named.composition(mesh), trace, named.seed)


def known_model(named: TraceInput, model: Model | ModelChoice) -> Model:
    """The model of whatever was named: requests, a batch file, counts, arrays, or nothing at all."""
    if isinstance(model, Model):
        return model
    if (counted := open_counts(named, model)) is not None:
        return counted[1]
    if named.batches is not None:
        experts = read_batches(named.batches).experts
    elif isinstance(named.memory, BatchArray):
        experts = named.memory.experts
    else:
        return model_of(named, model)
    return model_of_array(model, experts.shape[2], int(experts.max()))
