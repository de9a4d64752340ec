"""Requests of models some of whose experts do nothing: only counts of the others can be planned on.

A token that chose such an expert sends fewer pairs than top-k, and batches hold equally many pairs for each token:
every policy, search and bound reads them so. Expected loads need no tokens, so these requests are counted instead.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.errors import InputError
from optimizer.traces.corpus import Faults, TraceFile, stream
from optimizer.traces.formats.counts import Counts
from optimizer.traces.formats.npz import layer_ids
from optimizer.traces.formats.request import BadRequestError, Request
from optimizer.traces.mending import Mender, Mending
from optimizer.traces.physical import logical_counts

STEPS = 20
"""Steps to which requests are dealt in turn: every fifth step is held out for judging, so four are; a compromise, as
each step shall hold many requests."""


def counted_requests(files: Sequence[TraceFile], mender: Mender, strict: bool) -> Counts:
    """The pairs of experts below `no_op_from`, `[step, layer, expert]`, with the requests dealt to steps in turn.

    Raises InputError for a bad request if `strict`, and where no request is good.
    """
    routed = mender.mending.no_op_from
    assert routed is not None
    faults, model = Faults(strict), mender.model
    layers: tuple[int, ...] = ()
    load, tokens = np.zeros((STEPS, 0, routed), dtype=np.int64), np.zeros(STEPS, dtype=np.int64)
    good = pairs = left_out = 0
    for path, request in stream(files, model):
        try:
            if isinstance(request, BadRequestError):
                raise request
            request = mender.mend(request)
            held = request.layers or tuple(layer_ids(request.experts, model, mender.first_moe_layer))
            if layers and held != layers:
                raise BadRequestError(f"holds layers {held[0]}..{held[-1]}, not {layers[0]}..{layers[-1]} like others")
            layers = held
            counts = _counted(request, routed)
        except BadRequestError as fault:
            faults.add(path, fault)
            continue
        load = load if load.shape[1] else np.zeros((STEPS, len(layers), routed), dtype=np.int64)
        load[good % STEPS] += counts
        tokens[good % STEPS] += len(request.experts)
        pairs, left_out = pairs + request.experts.size, left_out + request.experts.size - int(counts.sum())
        good += 1
    said = (*faults.warnings(good), *mender.notes())
    source = f"{good} requests, counted without the {left_out / pairs:.0%} of their pairs that no-op experts have"
    used = tokens > 0
    return Counts(load[used], layers, tokens[used], model.top_k, (), source, tuple(said))


def mended_counts(counts: Counts, mending: Mending) -> Counts:
    """Counts by logical expert where they are by physical id, and without the columns of no-op experts.

    Raises InputError where the placement does not fit the counts, and where nothing is left of them.
    """
    if mending.placement is not None:
        counts = logical_counts(counts, mending.placement)
    routed, experts = mending.no_op_from, counts.load.shape[2]
    if routed is None:
        return counts
    if not counts.load[..., :routed].any():
        raise InputError(f"{counts.source}: nothing was counted of experts below {routed}", "no_op_experts")
    share = counts.load[..., routed:].sum() / counts.load.sum()
    source = f"{counts.source}, without the {share:.0%} of their pairs that no-op experts have"
    return replace(counts, load=counts.load[..., :routed], source=source) if experts > routed else counts


def _counted(request: Request, routed: int) -> Ints:
    """Pairs of each expert below `routed`, `[layer, expert]`; dense layers, which are all zero, have none."""
    _check(request)
    experts = request.experts.astype(np.int64)
    counts = np.zeros((experts.shape[1], routed), dtype=np.int64)
    for place in range(experts.shape[1]):
        chosen = experts[:, place]
        if chosen.any():
            counts[place] = np.bincount(chosen[chosen < routed], minlength=routed)
    return counts


def _check(request: Request) -> None:
    if request.experts.size == 0 or int(request.experts.min()) < 0:
        raise BadRequestError("routed_experts holds no tokens, or negative ids")
