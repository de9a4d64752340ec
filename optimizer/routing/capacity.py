"""A limit to what each replica takes, and what becomes of the pairs beyond it.

Pairs keep the replica that the policy chose, in token order, until it has taken its capacity. Those left over then look
for room, in token order too: at another replica of their expert, nearest first; else at a replica of the token's next
expert in rank order, of the next but one, and so on, never of one that the token has already. A pair that finds none is
dropped if that is allowed, and else served where it was, over capacity. Shared experts have no next expert: their pairs
are served over capacity. Needs global counts at run time.

The next expert is the recorded one (`candidate_experts`) or an estimate: the expert likeliest beside the token's other
experts, as co-activation tells (naive Bayes on pair counts).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.model import Model
from optimizer.routing.context import RoutingContext
from optimizer.statistics.coactivation import pair_counts
from optimizer.traces.batches import Batches

RANK_EXPONENT = 0.7  # mean gate weight by rank ~ rank^-0.7: within .009 of DeepSeek-V2-Lite's six recorded weights
PRIOR_TOKENS = 5.0  # added to seen and expected meetings of two experts, so that rare ones do not decide


@dataclass(frozen=True, eq=False)
class Coactivation:
    """log_share `[expert]` of the tokens that choose a routed expert; log_lift `[expert, expert]` of choosing both."""

    log_share: Floats
    log_lift: Floats

    @classmethod
    def of(cls, batches: Batches, model: Model) -> "Coactivation":
        """From the choices of these batches."""
        chosen, routed = batches.experts[..., : model.top_k], model.routed_experts
        tokens = chosen.shape[0] * chosen.shape[1]
        count = np.bincount(chosen.ravel(), minlength=routed)
        expected = np.outer(count, count) / tokens
        lift = (pair_counts(chosen, routed) + PRIOR_TOKENS) / (expected + PRIOR_TOKENS)
        return cls(np.log((count + 0.5) / tokens), np.log(lift))


class Rerouted(NamedTuple):
    """chosen `[batch, token, k]` flat slots, -1 for a dropped pair; per batch: moved, pairs that went to another
    replica of their expert; rerouted, to another expert; dropped; over, served over capacity; kept: share of the gate
    weight of routed experts that is served by the expert of the token's choice."""

    chosen: Ints
    moved: Ints
    rerouted: Ints
    dropped: Ints
    over: Ints
    kept: Floats


def limit(
    chosen: Ints,
    batches: Batches,
    source: Ints,
    context: RoutingContext,
    model: Model,
    guess: Coactivation | None,
    drop: bool,
) -> Rerouted:
    """Apply the capacity of a context to what a policy chose, `[batch, token, k]`; negative slots stay as they are.

    guess None: the batches' recorded candidates say which expert is next. Raises ValueError where there are none.
    """
    if guess is None and batches.candidates is None:
        raise ValueError("no candidates are recorded and none can be estimated")
    candidates = batches.candidates
    if guess is not None or candidates is None:
        candidates = np.empty((batches.count, batches.tokens, 0), dtype=np.uint16)
    known = guess or Coactivation(np.empty(0), np.empty((0, 0)))
    replicas = (context.start, context.slot, context.device_of, context.distance, context.capacity)
    return Rerouted(
        *_limit(chosen, batches.experts, source, candidates, gate_weights(batches, model.top_k),
                (known.log_share, known.log_lift), replicas, model.routed_experts, drop)
    )  # fmt: skip


def gate_weights(batches: Batches, top_k: int) -> Floats:
    """Gate weights of the routed experts, `[batch, token, top_k]`, of sum 1 for a token; by rank if not recorded."""
    if batches.weights is None:
        by_rank = np.arange(1, top_k + 1) ** -RANK_EXPONENT
        return np.broadcast_to(by_rank / by_rank.sum(), (*batches.experts.shape[:2], top_k))
    total = batches.weights.sum(axis=2, keepdims=True)
    return np.where(total > 0, batches.weights / np.maximum(total, 1e-12), 1 / top_k)


@kernel
def _limit(
    chosen: Ints,
    experts: Ints,
    source: Ints,
    candidates: Ints,
    weight: Floats,
    guess: tuple[Floats, Floats],
    replicas: tuple[Ints, Ints, Ints, Ints, int],
    routed: int,
    drop: bool,
) -> tuple[Ints, Ints, Ints, Ints, Ints, Floats]:
    batches, tokens, k = chosen.shape
    start, slot, device_of, distance, capacity = replicas
    served = chosen.copy()
    moved, rerouted = np.zeros(batches, dtype=np.int32), np.zeros(batches, dtype=np.int32)
    dropped, over = np.zeros(batches, dtype=np.int32), np.zeros(batches, dtype=np.int32)
    kept = np.empty(batches)
    taken = np.empty(len(device_of), dtype=np.int32)
    queue = np.empty(tokens * k, dtype=np.int32)
    holder = np.full(routed, -1, dtype=np.int64)
    score = np.empty(len(guess[0]))
    for batch in range(batches):
        waiting, lost = 0, 0.0
        taken[:] = 0
        for token in range(tokens):
            for choice in range(k):
                place = chosen[batch, token, choice]
                if place < 0:
                    continue
                if taken[place] < capacity or experts[batch, token, choice] >= routed:
                    taken[place] += 1
                else:
                    queue[waiting] = token * k + choice
                    waiting += 1
        for turn in range(waiting):
            token, choice = queue[turn] // k, queue[turn] % k
            own, home = experts[batch, token, choice], distance[source[batch, token]]
            found = _room(own, start, slot, device_of, home, taken, capacity)
            if found >= 0:
                moved[batch] += 1
            else:
                stamp = np.int64(batch) * tokens + token
                if holder[own] != stamp:
                    for other in range(k):
                        if experts[batch, token, other] < routed:
                            holder[experts[batch, token, other]] = stamp
                found = _next(
                    own, experts[batch, token], candidates[batch, token], guess, score, holder, stamp, start, slot,
                    device_of, home, taken, capacity,
                )  # fmt: skip
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
def _room(
    expert: int, start: Ints, slot: Ints, device_of: Ints, home: Ints, taken: Ints, capacity: int
) -> int:  # fmt: skip
    """The nearest replica of an expert that has room, the lowest rank on a tie; -1 for none. home `[device]` hops."""
    best, nearest = -1, np.int32(1 << 30)
    for replica in range(start[expert], start[expert + 1]):
        place = slot[replica]
        if taken[place] < capacity and home[device_of[place]] < nearest:
            best, nearest = place, home[device_of[place]]
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
    start: Ints,
    slot: Ints,
    device_of: Ints,
    home: Ints,
    taken: Ints,
    capacity: int,
) -> int:
    """A replica with room of the first expert in rank order that the token does not have yet; -1 for none.

    holder `[expert]` says with the token's stamp which experts it has; the one found is added.
    """
    for candidate in candidates:
        if holder[candidate] != stamp:
            found = _room(candidate, start, slot, device_of, home, taken, capacity)
            if found >= 0:
                holder[candidate] = stamp
                return found
    log_share, log_lift = guess
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
        found = _room(best, start, slot, device_of, home, taken, capacity)
        if found >= 0:
            holder[best] = stamp
            return found
        score[best] = -np.inf
    return -1
