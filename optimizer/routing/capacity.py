"""A limit to how many pairs each replica takes, and what becomes of the pairs beyond it.

The capacity is applied to what a policy chose. In token order, each pair keeps the replica that the policy chose, until
that replica has taken its capacity. The pairs left over then look for room, again in token order:

1. at another replica of their expert, the nearest first;
2. else at a replica of the token's next expert, that is, the expert that the gate ranked next; then at one of the
   expert after that, and so on; an expert that the token uses already is passed over.

A pair that finds no room is dropped if that is allowed; otherwise its first replica serves it over capacity. Pairs of
shared experts have no next expert and are served over capacity. All this needs global counts at run time: how many
pairs each replica has taken so far.

The next expert is the recorded one (`Batches.candidates`) where traces have the gate's ranking. Otherwise it is an
estimate: the expert likeliest beside the token's other experts, by naive Bayes on how often pairs of experts were
chosen together on the train batches.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.arrays import given_away
from optimizer.domain.model import Model
from optimizer.routing.context import RoutingContext
from optimizer.statistics.coactivation import pair_counts
from optimizer.traces.batches import Batches

# Where gate weights are not recorded, the weight of the expert of rank r is taken as proportional to r^-0.7: this is
# within .009 of the mean weights of DeepSeek-V2-Lite's six ranks.
RANK_EXPONENT = 0.7
# Tokens added to the seen and to the expected number of meetings of two experts, so that experts that seldom meet do
# not get extreme ratios from a few tokens; a usual size for such a prior, not tuned.
PRIOR_TOKENS = 5.0


@dataclass(frozen=True, eq=False)
class Coactivation:
    """How often routed experts are chosen, and how much oftener together than by chance, as natural logarithms.

    log_share `[expert]`: of the share of tokens that choose an expert. log_lift `[expert, expert]`: of how many times
    more tokens choose both of two experts than if choices were independent.
    """

    log_share: Floats
    log_lift: Floats

    @classmethod
    def of(cls, batches: Batches, model: Model) -> "Coactivation":
        """Counted over all tokens of some batches; the shared experts are left out."""
        chosen, routed = batches.experts[..., : model.top_k], model.routed_experts
        tokens = chosen.shape[0] * chosen.shape[1]
        count = np.bincount(chosen.ravel(), minlength=routed)
        expected = np.outer(count, count) / tokens
        lift = (pair_counts(chosen, routed) + PRIOR_TOKENS) / (expected + PRIOR_TOKENS)
        return cls(np.log((count + 0.5) / tokens), np.log(lift))


class Rerouted(NamedTuple):
    """What became of the pairs of some batches when capacity was applied.

    chosen `[batch, token, k]`: the flat slot that serves each pair, -1 for a dropped pair. Numbers of pairs `[batch]`:
    moved went to another replica of their expert, rerouted to a replica of another expert, dropped went nowhere, and
    over were served over capacity. kept `[batch]`: the share of the routed experts' gate weight that was served by the
    experts that the tokens chose.
    """

    chosen: Ints
    moved: Ints
    rerouted: Ints
    dropped: Ints
    over: Ints
    kept: Floats


class _Room(NamedTuple):
    """Where replicas are, as in a `RoutingContext`, and how many pairs each slot has taken so far, `[slot]`."""

    start: Ints
    slot: Ints
    device_of: Ints
    taken: Ints
    capacity: int


def limit_replicas(
    chosen: Ints,
    batches: Batches,
    source: Ints,
    context: RoutingContext,
    model: Model,
    guess: Coactivation | None,
    drop: bool,
) -> Rerouted:
    """Apply `context.capacity` to chosen `[batch, token, k]`, the flat slots that a policy chose; -1 stays -1.

    source `[batch, token]` is where the tokens are. With `guess` the next experts are estimated from it; without it
    they are the batches' recorded candidates. `drop` lets pairs that find no room be dropped. Raises ValueError if
    there are neither candidates nor a guess.
    """
    if guess is None and batches.candidates is None:
        raise ValueError("no candidates are recorded and none can be estimated")
    candidates = batches.candidates
    if guess is not None or candidates is None:
        candidates = given_away(np.empty((batches.count, batches.tokens, 0), dtype=np.uint16))
    known = guess or Coactivation(np.empty(0), np.empty((0, 0)))
    taken = np.empty(len(context.device_of), dtype=np.int32)
    room = _Room(context.start, context.slot, context.device_of, taken, context.capacity)
    return Rerouted(
        *_limit(chosen, batches.experts, source, candidates, gate_weights(batches, model.top_k),
                (known.log_share, known.log_lift), room, context.distance, model.routed_experts, drop)
    )  # fmt: skip


def gate_weights(batches: Batches, top_k: int) -> Floats:
    """Gate weights of the routed experts, `[batch, token, top_k]` float64, which sum to 1 for each token.

    Where no weights are recorded, all tokens have the mean weights by rank of `RANK_EXPONENT`.
    """
    if batches.weights is None:
        by_rank = np.arange(1, top_k + 1) ** -RANK_EXPONENT
        return np.tile(by_rank / by_rank.sum(), (*batches.experts.shape[:2], 1))
    total = batches.weights.sum(axis=2, keepdims=True)
    return np.where(total > 0, batches.weights / np.maximum(total, 1e-12), 1 / top_k).astype(np.float64)


@kernel
def _limit(
    chosen: Ints,
    experts: Ints,
    source: Ints,
    candidates: Ints,
    weight: Floats,
    guess: tuple[Floats, Floats],
    room: _Room,
    distance: Ints,
    routed: int,
    drop: bool,
) -> tuple[Ints, Ints, Ints, Ints, Ints, Floats]:
    """The kernel of `limit_replicas`: the fields of `Rerouted`. The experts below `routed` have a next expert.

    distance `[source, device]` hops. guess: the arrays of `Coactivation`, empty ones if candidates `[batch, token, m]`
    are to be used.
    """
    batches, tokens, k = chosen.shape
    taken, capacity = room.taken, room.capacity
    served = chosen.copy()
    moved, rerouted = np.zeros(batches, dtype=np.int32), np.zeros(batches, dtype=np.int32)
    dropped, over = np.zeros(batches, dtype=np.int32), np.zeros(batches, dtype=np.int32)
    kept = np.empty(batches)
    queue = np.empty(tokens * k, dtype=np.int32)
    holder = np.full(routed, -1, dtype=np.int64)
    score = np.empty(len(guess[0]))
    for batch in range(batches):
        waiting, lost = 0, 0.0
        taken[:] = 0
        for token in range(tokens):  # first pass: pairs keep their replica while it has room
            for choice in range(k):
                place = chosen[batch, token, choice]
                if place < 0:
                    continue
                if taken[place] < capacity or experts[batch, token, choice] >= routed:
                    taken[place] += 1
                else:
                    queue[waiting] = token * k + choice
                    waiting += 1
        for turn in range(waiting):  # second pass: the pairs that found their replica full
            token, choice = queue[turn] // k, queue[turn] % k
            own, home = experts[batch, token, choice], distance[source[batch, token]]
            found = _nearest_with_room(own, room, home)
            if found >= 0:
                moved[batch] += 1
            else:
                stamp = np.int64(batch) * tokens + token
                if holder[own] != stamp:
                    for other in range(k):
                        if experts[batch, token, other] < routed:
                            holder[experts[batch, token, other]] = stamp
                ranked = candidates[batch, token]
                found = _next(own, experts[batch, token], ranked, guess, score, holder, stamp, room, home)
                if found >= 0:
                    rerouted[batch] += 1
                    lost += weight[batch, token, choice]
                elif drop:
                    dropped[batch] += 1
                    lost += weight[batch, token, choice]
                else:
                    over[batch] += 1
                    found = chosen[batch, token, choice]
            served[batch, token, choice] = found
            if found >= 0:
                taken[found] += 1
        kept[batch] = 1 - lost / tokens
    return served, moved, rerouted, dropped, over, kept


@kernel
def _nearest_with_room(expert: int, room: _Room, home: Ints) -> int:
    """The slot of the expert's nearest replica that has taken fewer than `capacity` pairs; -1 if there is none.

    home `[device]`: hops from the token to each device. Of equally near replicas the one of the lowest rank is taken.
    """
    best, nearest = -1, np.int32(1 << 30)
    for replica in range(room.start[expert], room.start[expert + 1]):
        place = room.slot[replica]
        if room.taken[place] < room.capacity and home[room.device_of[place]] < nearest:
            best, nearest = place, home[room.device_of[place]]
    return best


@kernel
def _next(
    own: int,
    experts: Ints,
    candidates: Ints,
    guess: tuple[Floats, Floats],
    score: Floats,
    holder: Ints,
    stamp: int,
    room: _Room,
    home: Ints,
) -> int:
    """The slot of a replica with room of the best ranked expert that the token does not use yet; -1 if there is none.

    own is the expert of the pair, experts `[k]` are those of its token, candidates `[m]` the recorded ranking of the
    token or empty. holder `[expert]` has the token's stamp for the experts that the token uses; the expert that is
    found is added. score `[expert]` is working memory.
    """
    for candidate in candidates:
        if holder[candidate] != stamp:
            found = _nearest_with_room(candidate, room, home)
            if found >= 0:
                holder[candidate] = stamp
                return found
    log_share, log_lift = guess  # from here on by the estimate: log likelihoods add up (naive Bayes)
    for expert in range(len(score)):
        score[expert] = -np.inf if holder[expert] == stamp else log_share[expert]
    for beside in experts:
        if beside != own and beside < len(score):
            for expert in range(len(score)):
                score[expert] += log_lift[beside, expert]
    for _ in range(len(score)):
        best = int(np.argmax(score))
        if score[best] == -np.inf:
            return -1
        found = _nearest_with_room(best, room, home)
        if found >= 0:
            holder[best] = stamp
            return found
        score[best] = -np.inf
    return -1
