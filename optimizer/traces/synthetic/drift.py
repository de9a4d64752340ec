"""Traffic that changes over the day: topics that wander from the first request of a data set to its last.

The topics of a data set's requests scatter around a mean, and that mean walks at random from request to request, so
that neighbours are alike and the ends of the day are not. How far it walks is fitted, layer by layer, to the change of
loads that was asked for: the total variation between the experts' shares in the first and in the last tenth of the
requests. A request's shift of scores is added to the biases of its gates; nothing else of the generator changes.
"""

from dataclasses import dataclass, replace

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.errors import InputError
from optimizer.streams import Purpose, derived_seed, key_of_text, random_stream
from optimizer.traces.synthetic.gate import REQUEST_RANK
from optimizer.traces.synthetic.generator import SAMPLED_TOKENS, Gates, routed, topics_of

MOST = 0.6
"""The largest total variation that can be asked for: most layers of 32 experts or more reach it, few of 8 do."""

ENDS = 10  # the first and the last of so many parts of the requests are compared
START = 14.0  # how far apart topics are for each unit of total variation: two data sets are .9 * 4 * 2**.5 = 5.1 apart,
# and their shares .35; where the search for the distance begins
ROUNDS = 6  # of the search, after which its samples differ by what was asked for, within .0001 for 32 and 64 experts
MOST_LACKING = 0.01  # of the total variation that was asked for; where more is lacking, topics cannot bring it about
SAMPLES = 2048  # requests of a sample, of `SAMPLED_TOKENS` tokens each; the same ones at both ends, so that they differ
# by drift alone; a compromise with time, not tuned


def check_rate(rate: float) -> None:
    """Raise InputError for a drift that cannot be generated."""
    if not 0 <= rate <= MOST:
        said = f"a drift of {rate} is asked for; it is a total variation from 0 (no drift) to {MOST}"
        raise InputError(said, field="drift")


@dataclass(frozen=True, eq=False)
class DriftingGates:
    """The gates of a data set whose traffic drifts.

    walk `[request, REQUEST_RANK]`: where the topics' mean is, for a distance of 1 between the ends; distance `[layer]`:
    how far apart they are in each layer.
    """

    gates: Gates
    walk: Floats
    distance: Floats

    @classmethod
    def of(cls, gates: Gates, dataset: str, requests: int, rate: float) -> "DriftingGates":
        """The gates of a data set with so many requests, whose first and last tenth are to differ by `rate` in total
        variation; 0 for no drift. Raises InputError as `check_rate` does, and where a layer's loads cannot drift so
        far."""
        check_rate(rate)
        walk = random_walk(gates.seed, dataset, requests)
        still = rate == 0 or requests == 1
        layers = range(len(gates.layers))
        distance = [0.0 if still else _distance(_single(gates, at), dataset, walk, rate) for at in layers]
        return cls(gates, walk, np.array(distance))

    def at(self, request: int) -> Gates:
        """The gates of a request, by its number."""
        if not self.distance.any():
            return self.gates
        moved = np.einsum("r,lre->le", self.walk[request], self.gates.topics)
        bias = self.gates.bias + self.distance[:, None] * moved
        return replace(self.gates, bias=bias.astype(np.float32))


def random_walk(seed: int, dataset: str, requests: int) -> Floats:
    """A random walk over a data set's requests, `[request, REQUEST_RANK]`.

    Its mean is 0, so that the experts' shares over the whole day stay near those of a day without drift, and its mean
    over the last tenth of requests is at a distance of 1 from that over the first.
    """
    steps = random_stream(Purpose.TRAFFIC_DRIFT, seed, key_of_text(dataset)).standard_normal((requests, REQUEST_RANK))
    walk: Floats = np.cumsum(steps, axis=0)
    walk -= walk.mean(axis=0)
    first, last = _ends(walk)
    return walk / max(float(np.linalg.norm(last - first)), np.finfo(np.float64).tiny)


def _ends(walk: Floats) -> tuple[Floats, Floats]:
    """The mean of a walk over the first and over the last tenth of the requests, at least one, `[REQUEST_RANK]`."""
    size = max(1, len(walk) // ENDS)
    return walk[:size].mean(axis=0), walk[-size:].mean(axis=0)


def _single(gates: Gates, place: int) -> Gates:
    """The gates of one layer, by its place."""
    only = slice(place, place + 1)
    return Gates(
        gates.model, gates.layers[only], gates.seed, gates.bias[only], gates.topics[only], gates.directions[only]
    )


def _distance(gates: Gates, dataset: str, walk: Floats, rate: float) -> float:
    """How far apart the ends of the walk must be in a single layer for a total variation of `rate` between them.

    Total variation grows with the distance, ever more slowly, so multiplying by what is lacking leads to it from below.
    Raises InputError where loads of the layer cannot drift so far.
    """
    distance = START * rate
    for _ in range(ROUNDS):
        distance *= rate / _apart(gates, dataset, walk, distance)
    reached = _apart(gates, dataset, walk, distance)
    if rate - reached > MOST_LACKING:
        said = f"layer {gates.layers[0]}: loads cannot drift by {rate}, as the gate's biases keep experts popular"
        raise InputError(f"{said}; ask for less, such as {0.9 * reached:.2f}", field="drift")
    return distance


def _apart(gates: Gates, dataset: str, walk: Floats, distance: float) -> float:
    """The total variation between samples at the ends of a walk that are so far apart, in a single layer."""
    first, last = (_shares(gates, dataset, distance * end) for end in _ends(walk))
    return float(np.abs(last - first).sum() / 2)


def _shares(gates: Gates, dataset: str, shift: Floats) -> Floats:
    """The share of each expert, `[expert]`, in a sample of requests whose topics are shifted, in a single layer."""
    key = derived_seed(Purpose.TRAFFIC_DRIFT, gates.seed, key_of_text(dataset), bits=64)
    bias = (gates.bias + shift @ gates.topics).astype(np.float32)
    lengths: Ints = np.full(SAMPLES, SAMPLED_TOKENS)
    found, _ = routed(
        replace(gates, bias=bias),
        key,
        topics_of(gates.seed, dataset),
        np.arange(SAMPLES),
        lengths,
        gates.model.top_k,
        weighted=False,
    )
    counts = np.bincount(found.ravel(), minlength=gates.model.routed_experts)
    shares: Floats = counts / counts.sum()
    return shares
