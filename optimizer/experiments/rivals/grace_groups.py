"""The groups of GRACE+: experts that tokens choose together on one device (`grace_plus_expert_placement.py` and
`docs/moe-routing-communication-optimization-summary.md` of spacecat2002/sglang-sc-eplb).

From its documents: experts are grouped by spectral clustering of how often tokens choose two of them together; groups
go to devices by assignment, so that tokens are sent to few devices that are not their own; then pairs of experts change
places where this sends fewer tokens, counted exactly: the distinct experts of a token are a hyperedge, and it is sent
once to each device that has some of them. Two rounds of exchanges look at the 8 most promising partners of each expert,
on 20,000 tokens, and no device may come above twice the mean load, unless one is above that already.

Filled in: all groups are of equal size, by an assignment in each step of the clustering. Its centres begin as far apart
as they can. A token's own devices are those that no hop takes it to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from formulations.kit.arrays import Bools, Floats, Ints
from optimizer.domain.problem import Problem
from optimizer.experiments.rivals.one_each import OneEach, same_shared
from optimizer.statistics.coactivation import pair_counts
from optimizer.traces.batches import Batches

TOKENS, ROUNDS, PARTNERS, HEAVIEST = 20_000, 2, 8, 2.0
"""Tokens to count, rounds of exchanges, partners of an expert, and the largest load over the mean: those of GRACE+."""
CLUSTERING_STEPS = 20  # of the clustering, which mostly ends sooner; not tuned


@dataclass(frozen=True, eq=False)
class Bundles:
    """Some tokens: the places of their experts `[token, k]`, -1 for experts that are not to be placed, and whether a
    device is not a token's own, `[token, device]`."""

    places: Ints
    away: Bools

    @classmethod
    def of(cls, problem: Problem, train: Batches) -> "Bundles":
        """Tokens that are evenly drawn from all."""
        network, chosen = problem.network, train.experts.reshape(-1, train.experts.shape[2])
        some = np.linspace(0, len(chosen) - 1, min(TOKENS, len(chosen))).astype(np.int64)
        place = np.where(problem.spread, -1, np.cumsum(~problem.spread) - 1)
        return cls(place[chosen[some]], network.distance[train.source_on(network).ravel()[some]] > 0)

    def met(self, device_of: Ints) -> Ints:
        """How many experts of a token a device has, `[token, device]`; device_of `[expert to place]`."""
        count = np.zeros(self.away.shape, dtype=np.int16)
        token, k = np.nonzero(self.places >= 0)
        np.add.at(count, (token, device_of[self.places[token, k]]), 1)
        return count

    def sent(self, device_of: Ints) -> int:
        """How many times tokens are sent to devices that are not their own."""
        return int(((self.met(device_of) > 0) & self.away).sum())


def grouped(problem: Problem, train: Batches) -> Ints:
    """The device of each expert `[expert to place]`."""
    task, bundles = OneEach.of(problem), Bundles.of(problem, train)
    together = pair_counts(train.experts, problem.model.experts)[np.ix_(task.experts, task.experts)]
    device_of = aligned(bundles, spectral_groups(together, task.most), same_shared(problem))
    return exchanged(bundles, device_of, task)


def spectral_groups(together: Ints, sizes: Ints) -> Ints:
    """The group of each expert `[expert]`, of these sizes `[group]` at most; together `[expert, expert]`, symmetric."""
    scale = 1 / np.sqrt(np.maximum(together.sum(axis=1), 1))
    _, vectors = np.linalg.eigh(scale[:, None] * together * scale)
    spots = vectors[:, -len(sizes) :]
    spots = spots / np.maximum(np.linalg.norm(spots, axis=1, keepdims=True), 1e-12)
    centres, group = _far_apart(spots, len(sizes)), np.full(len(spots), -1)
    for _ in range(CLUSTERING_STEPS):
        before, far = group, ((spots[:, None] - centres) ** 2).sum(axis=2)
        _, taken = linear_sum_assignment(np.repeat(far, sizes, axis=1))
        group = np.repeat(np.arange(len(sizes)), sizes)[taken]
        if (group == before).all():
            break
        for number in np.unique(group):
            centres[number] = spots[group == number].mean(axis=0)
    return group


def _far_apart(spots: Floats, number: int) -> Floats:
    """Some of the spots `[expert, axis]`, each as far as can be from those before, again and again if need be."""
    chosen = [0]
    near = ((spots - spots[0]) ** 2).sum(axis=1)
    while len(chosen) < number:
        chosen.append(int(near.argmax()))
        near = np.minimum(near, ((spots - spots[chosen[-1]]) ** 2).sum(axis=1))
    return spots[chosen].copy()


def aligned(bundles: Bundles, group: Ints, allowed: Bools) -> Ints:
    """The device of each expert where each group goes to a device of its own, so that the fewest tokens are sent.

    group `[expert to place]`; allowed `[group, device]`.
    """
    visits = (bundles.met(group) > 0).astype(np.float64).T @ bundles.away
    _, device = linear_sum_assignment(np.where(allowed, visits, np.inf))
    found: Ints = device[group]
    return found


def exchanged(bundles: Bundles, device_of: Ints, task: OneEach) -> Ints:
    """The devices after exchanges of two experts each, every one of which sends fewer tokens."""
    found = device_of.copy()
    tokens = [np.flatnonzero((bundles.places == place).any(axis=1)) for place in range(len(found))]
    for _ in range(ROUNDS):
        start = found.copy()
        _exchange_round(bundles, found, task, tokens)
        if (found == start).all():
            break
    return found


def _exchange_round(bundles: Bundles, device_of: Ints, task: OneEach, tokens: Sequence[Ints]) -> None:
    """Let each expert, the heaviest first, change places with its partners in place where this sends fewer tokens."""
    met, load = bundles.met(device_of), task.device_load(device_of)
    limit, partners = max(int(HEAVIEST * load.mean()), int(load.max())), _partners(bundles, device_of, met, tokens)
    for expert in np.argsort(-task.load, kind="stable"):
        for other in partners[expert]:
            one, two, more = device_of[expert], device_of[other], task.load[other] - task.load[expert]
            if one == two or max(load[one] + more, load[two] - more) > limit:
                continue
            changed = np.setxor1d(tokens[expert], tokens[other])
            passed = np.where(np.isin(changed, tokens[expert]), 1, -1).astype(met.dtype)
            before, away = met[changed][:, [one, two]], bundles.away[changed][:, [one, two]]
            after = before + passed[:, None] * np.array([-1, 1], dtype=met.dtype)
            if ((after > 0) & away).sum() < ((before > 0) & away).sum():
                met[np.ix_(changed, [one, two])] = after
                device_of[[expert, other]] = device_of[[other, expert]]
                load[[one, two]] += [more, -more]


def _partners(bundles: Bundles, device_of: Ints, met: Ints, tokens: Sequence[Ints]) -> Ints:
    """The experts with which an exchange seems to send the fewest tokens, `[expert, partner]`, the best first.

    What tokens that chose both change is left out here.
    """
    here = device_of[:, None] == np.arange(bundles.away.shape[1])
    alone = np.array([((met[of] == 1) & bundles.away[of]).sum(axis=0) for of in tokens])[here]
    new = np.array([((met[of] == 0) & bundles.away[of]).sum(axis=0) for of in tokens])
    change = new[:, device_of] - alone[:, None]
    change = (change + change.T).astype(np.float64)
    change[device_of[:, None] == device_of] = np.inf
    return np.argsort(change, axis=1, kind="stable")[:, :PARTNERS]
