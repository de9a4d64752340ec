"""The generator in plain vectorised numpy, with the same random numbers, for `speed.py` to compare speeds with."""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.model import Model
from optimizer.streams import Purpose, derived_seed, key_of_text
from optimizer.traces.synthetic import gate
from optimizer.traces.synthetic.generator import TRAFFIC_WEIGHT, Gates


def choices(gates: Gates, requests: int, length: int) -> Ints:
    """The same choices as `generate` makes, `[token, k]`, in vectorised numpy."""
    model, (normal, gumbel) = gates.model, gate.quantile_tables()
    stream = derived_seed(Purpose.REQUEST_ROUTING, gates.seed, key_of_text(""), bits=64)
    key = hashed(np.uint64(stream) ^ hashed(np.arange(requests, dtype=np.uint64)))
    topic = np.float32(TRAFFIC_WEIGHT) * normal[lanes(key, gate.REQUEST_RANK)]
    own = hashed(key ^ hashed(np.array([gates.layers[0]], dtype=np.uint64) + gate.STEP))
    drawn = gate.WALKS * gate.TOKEN_RANK
    bits = lanes(own, drawn + length * (model.routed_experts + drawn))
    steps = bits[:, drawn:].reshape(requests, length, -1)
    walk = np.empty((requests, length, gate.WALKS, gate.TOKEN_RANK), dtype=np.float32)
    starts, kept, fresh = (np.array(values)[:, None] for values in (gate.STARTS, gate.KEPT, gate.FRESH))
    walk[:, 0] = starts * normal[bits[:, :drawn]].reshape(requests, gate.WALKS, gate.TOKEN_RANK)
    for step in range(1, length):
        new = normal[steps[:, step - 1, model.routed_experts :]].reshape(requests, gate.WALKS, gate.TOKEN_RANK)
        walk[:, step] = kept * walk[:, step - 1] + fresh * new
    base = gates.bias[0] + topic @ gates.topics[0]
    score = base[:, None] + walk.sum(axis=2) @ gates.directions[0] + gumbel[steps[..., : model.routed_experts]]
    return best(score.reshape(-1, model.routed_experts), model)


def best(score: Floats, model: Model) -> Ints:
    """The top-k experts within the best groups, best first, `[token, k]`, by score `[token, expert]`."""
    grouped = score.reshape(len(score), model.groups, -1)
    strength = np.partition(grouped, -2, axis=2)[..., -2:].sum(axis=2)
    dropped = np.argpartition(strength, model.groups - model.groups_per_token, axis=1)
    dropped = dropped[:, : model.groups - model.groups_per_token]
    np.put_along_axis(grouped, dropped[..., None], -np.inf, axis=1)
    top = np.argpartition(score, -model.top_k, axis=1)[:, -model.top_k :]
    order = np.argsort(-np.take_along_axis(score, top, axis=1), axis=1)
    found: Ints = np.take_along_axis(top, order, axis=1)
    return found


def hashed(bits: Ints) -> Ints:
    """The mixing function of splitmix64."""
    bits = (bits ^ (bits >> gate.FIRST_SHIFT)) * gate.FIRST_FACTOR
    bits = (bits ^ (bits >> gate.SECOND_SHIFT)) * gate.SECOND_FACTOR
    mixed: Ints = bits ^ (bits >> gate.THIRD_SHIFT)
    return mixed


def lanes(state: Ints, count: int) -> Ints:
    """The first `count` 16-bit numbers of each stream, `[stream, count]`."""
    turns = np.arange(1, count // gate.LANES + 1, dtype=np.uint64)
    drawn: Ints = hashed(state[:, None] + turns * gate.STEP).astype("<u8").view("<u2")
    return drawn
