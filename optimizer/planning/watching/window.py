"""The requests, or steps of counts, in memory to plan on: the most recent ones, and which of them nothing has been
chosen by."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.arrays import given_away
from optimizer.domain.model import Model
from optimizer.planning.watching.reading import Kind, Recent, RecentRequest, RecentStep
from optimizer.traces.batches import Sets
from optimizer.traces.composition import Composition
from optimizer.traces.formats.counts import Counts
from optimizer.traces.source import TEST, TraceSource
from optimizer.traces.trace import OUTPUT, PROMPT, RoutingTrace

MOST_REQUESTS = 1024
"""Requests in memory: 1,024 were enough for the trials of placements on 128 devices. Not tuned."""

MOST_BYTES = 500_000_000
"""Bytes of expert ids in memory, for models of which many layers are watched; small machines hold as much."""

LEAST_TEST = 16
"""Unseen requests that a decision is judged by, at least: fewer would be one user's traffic. Not tuned."""

LEAST_TEST_STEPS = 8
"""The same for steps of counts, each of which is of many requests; of fewer steps there is hardly an interval. Not
tuned."""

TEST_SHARE = 1 / 5
"""The share of the window that is judged by, where more than that is unseen; as `solve` has it."""

SELECTION_EVERY = 4
"""Every fourth request is of the selection set, and stays in it: so nothing is chosen by what it was planned on. With
the test set these are the shares 60, 20 and 20 per cent that `solve` has."""

OLDER = 3
"""How many times as many are planned on and chosen by, at least; then both sets have some."""

LEAST_OLDER = OLDER * LEAST_TEST
"""Requests to plan on and to choose by, at least."""

LEAST_BATCHES = 32
"""Test batches, at least: an interval by stretches of batches needs several stretches."""


@dataclass(frozen=True)
class RecentSource(TraceSource):
    """Batches of recent requests, in sets of which the newest is the one to judge by.

    split: the numbers of the requests of each set. tested: test batches that the newest requests fill once; more would
    show the same tokens again, and make intervals narrower than what is known.
    """

    split: tuple[Ints, Ints, Ints]
    tested: int

    def fingerprint(self, layer: int) -> str:
        """A digest that no other source has: only a watch splits requests in this way, so whoever judges its plan on
        the same requests must not take any of them for unseen."""
        return f"watched {super().fingerprint(layer)}"

    def sets(self, layer: int, counts: Sequence[int] | None = None) -> Sets:
        """As of `TraceSource`, with no more test batches than there are tokens for."""
        found = super().sets(layer, counts)
        return found._replace(test=found.test.part(0, max(LEAST_BATCHES, self.tested)))

    def _requests(self, turn: int) -> Ints:
        return self.split[turn] if turn <= TEST else super()._requests(turn)


@dataclass
class Window:
    """The most recent requests, or steps of counts, all of one kind, in the order in which they were counted. seen: the
    number up to which requests were known at the last decision; those from there on are unseen."""

    requests: deque[Recent] = field(default_factory=deque)
    seen: int = 0
    bytes: int = 0

    def add(self, request: Recent) -> None:
        """Add a request; the oldest ones leave where there are too many."""
        self.requests.append(request)
        self.bytes += request.nbytes
        while len(self.requests) > MOST_REQUESTS or (self.bytes > MOST_BYTES and len(self.requests) > 1):
            self.bytes -= self.requests.popleft().nbytes

    @property
    def kind(self) -> Kind | None:
        """What it holds, None where that is nothing."""
        return self.requests[0].kind if self.requests else None

    @property
    def unseen(self) -> int:
        """How many of the requests came since the last decision."""
        return sum(request.number >= self.seen for request in self.requests)

    @property
    def newest(self) -> int:
        """How many of the requests a decision would be judged by: unseen ones, 0 where there are too few of them or of
        older ones."""
        least = LEAST_TEST_STEPS if self.kind == "steps" else LEAST_TEST
        wanted = min(self.unseen, max(least, int(TEST_SHARE * len(self.requests))))
        enough = wanted >= least and len(self.requests) - wanted >= OLDER * least
        return wanted if enough else 0

    def decided(self) -> None:
        """From now on only requests that are added later are unseen."""
        if self.requests:
            self.seen = self.requests[-1].number + 1

    def source(self, place: int, layer: int, model: Model, composition: Composition, seed: int) -> RecentSource:
        """The batches of one layer, which is at this place on the layer axis of the requests."""
        requests = self._tokens()
        lengths = [len(request.experts) for request in requests]
        prompts = [request.prompt_tokens for request in requests]
        phase = [np.repeat([PROMPT, OUTPUT], [a, b - a]) for a, b in zip(prompts, lengths, strict=True)]
        experts = np.concatenate([request.experts[:, place : place + 1] for request in requests])
        source = f"the last {len(requests)} requests"
        trace = RoutingTrace(
            given_away(experts), (layer,), np.cumsum([0, *lengths]), np.concatenate(phase).astype(np.uint8), source
        )
        return RecentSource(model, composition, trace, seed, self._split(), self._batches(composition))

    def counts(self, layers: tuple[int, ...]) -> Counts:
        """The steps as counts of these layers, which are those of the steps."""
        load = np.array([each.counted for each in self.requests if isinstance(each, RecentStep)])
        return Counts(load, layers, None, None, (), f"the last {len(load)} steps")

    def _tokens(self) -> list[RecentRequest]:
        """The requests, of which there are some."""
        return [each for each in self.requests if isinstance(each, RecentRequest)]

    def _split(self) -> tuple[Ints, Ints, Ints]:
        """The places of train, selection and test requests in the window."""
        older = np.arange(len(self.requests) - self.newest)
        selection = np.array([self.requests[each].number % SELECTION_EVERY == 0 for each in older], dtype=bool)
        return older[~selection], older[selection], np.arange(len(older), len(self.requests))

    def _batches(self, composition: Composition) -> int:
        """How many batches the newest requests fill once."""
        newest = self._tokens()[len(self.requests) - self.newest :]
        return -(-sum(len(request.of_phase(composition.phase)) for request in newest) // composition.tokens)
