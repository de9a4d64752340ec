"""Replica counts for devices of two slots, where the counts alone decide how low the peak expected load can be.

With given counts the best placement pairs the heaviest replica with the lightest, the second heaviest with the second
lightest, and so on (`folded_peak`; an empty slot is a replica of no load). What is left is to choose counts. A peak L
is within reach of some counts if for every threshold a above L / 2 there are no fewer replicas of at most L - a than of
at least a, as each of these needs one of those beside it. That is an integer program with a binary variable for each
expert and count. Its relaxation is tight: with 256 experts on 144 devices greedy counts that exchanged replicas are
proven optimal, or .1 to .3 % above the bound, in three cases; HiGHS found none better there.

Prices of thresholds are a certificate, which `proves` checks without a solver. Let a replica be worth the prices of
the thresholds up to L less its load, less the prices of the thresholds up to its load. Whatever two replicas of no more
than L in all share a device, they are worth no less than nothing. So if all slots together are worth less than nothing
for the best counts of every expert by itself, no placement reaches L. Good prices are the duals of the relaxation, to
which counts are added as they are needed, as columns are in `device_columns`.

That the two replicas of a device must be of different experts is left out, which only takes placements away; `paired`
exchanges partners where it matters.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, hstack

from formulations.expected_load.replication import ReplicaBudget, counts_for_loads
from formulations.kit.arrays import Floats, Ints
from formulations.kit.clock import Clock
from formulations.kit.outcome import PROVEN, Outcome, SolveStatus

SLOTS = 2  # of a device, for which all this holds
CLOSE = PROVEN / 2  # relative: how far below a known peak is tried, so that an optimal one is proven at once
ROUNDING = 1e-9  # relative: loads per replica are floats, and a pair that is too heavy by this much counts as allowed
FIRST = 3  # further replicas of each expert that the relaxation begins with; more are added where they are worth it
TRIALS = 24  # peaks that are tried, enough to halve a gap as large as the peak until it is closed


@dataclass(frozen=True, eq=False)
class PairInstance:
    """load `[expert]` expected pairs (whole numbers, any scale); devices of two slots; budget: how many replicas there
    may be, of each expert and in all, where fewer than all are allowed, too."""

    load: Ints
    devices: int
    budget: ReplicaBudget

    @property
    def slots(self) -> int:
        """Number of slots, of which some may stay empty."""
        return SLOTS * self.devices


@dataclass(frozen=True, eq=False)
class Prices:
    """A certificate that no placement reaches a peak: threshold `[number]` loads above half the peak, ascending; price
    `[number]` of each; replica: the price of a replica. All prices are at least 0."""

    threshold: Floats
    price: Floats
    replica: float


@dataclass(frozen=True, eq=False)
class _Columns:
    """Counts that experts may have: expert and count `[column]`, and the load of one replica then."""

    expert: Ints
    count: Ints
    weight: Floats


def least_paired_peak(instance: PairInstance, clock: Clock) -> Outcome[Ints]:
    """The counts `[expert]` of least folded peak that are found, and a bound that holds for every placement; both in
    load units.

    Greedy counts exchange replicas until no exchange lowers the peak. Then the peak below which prices refute all
    others is bisected, from just below the one that is known. Where prices refute none, the counts of the relaxation
    are rounded, and exchange replicas too if they are better. The clock alone ends it early.
    """
    best = counts_for_loads(instance.load, instance.budget).value
    if best is None:
        return Outcome(None, None, np.inf, SolveStatus.INFEASIBLE, clock.elapsed())
    best = _exchanged(instance, best, clock)
    peak = folded_peak(instance, best)
    low = float(instance.load.sum()) / instance.devices
    high, tried = float(peak), float(peak) * (1 - CLOSE)
    for _ in range(TRIALS):
        if low >= high * (1 - PROVEN) or clock.over():
            break
        refuted, counts = _attempt(instance, tried)
        if counts is not None and folded_peak(instance, counts) < peak:
            best = _exchanged(instance, counts, clock)
            peak = folded_peak(instance, best)
        low, high = (tried, high) if refuted else (low, min(tried, float(peak)))
        tried = (low + high) / 2
    bound = min(low, float(peak))
    status = SolveStatus.OPTIMAL if float(peak) - bound <= PROVEN * float(peak) else SolveStatus.FEASIBLE
    return Outcome(best, float(peak), bound, status, clock.elapsed())


def folded_peak(instance: PairInstance, counts: Ints) -> Fraction:
    """The largest sum where the heaviest replica is beside the lightest, and so on, as an exact fraction; counts
    `[expert]`. No placement with these counts has a lower peak, whichever experts may be beside one another."""
    replicas = _by_load(instance, counts)
    share = [Fraction(0) if e < 0 else Fraction(int(instance.load[e]), int(counts[e])) for e in replicas.tolist()]
    return max(share[place] + share[-1 - place] for place in range(instance.devices))


def paired(instance: PairInstance, counts: Ints) -> Ints | None:
    """A placement `[device, slot]` int32, -1 = empty, of folded peak; counts `[expert]`.

    A device whose two replicas are of one expert exchanges one of them with another device, if that leaves the peak as
    it is. None where no exchange does.
    """
    replicas = _by_load(instance, counts)
    slots = np.stack([replicas[: instance.devices], replicas[::-1][: instance.devices]], axis=1)
    load, peak = _share(instance, counts), float(folded_peak(instance, counts)) * (1 + ROUNDING)
    for device in np.flatnonzero((slots[:, 0] == slots[:, 1]) & (slots[:, 0] >= 0)):
        own = slots[device, 1]
        kept, given = load[own] + load[slots[:, 0]], load[own] + load[slots[:, 1]]
        fits = (kept <= peak) & (given <= peak) & (slots != own).all(axis=1)
        if not fits.any():
            return None
        other = int(np.flatnonzero(fits)[0])
        slots[device, 1], slots[other, 1] = slots[other, 1], own
    return slots.astype(np.int32)


def proves(instance: PairInstance, peak: float, prices: Prices) -> bool:
    """Whether these prices show that no placement has a peak of this or less. Raises ValueError for a negative price.

    All counts of all experts are looked at, so that nothing depends on how the prices were found.
    """
    if (prices.price < 0).any() or prices.replica < 0:
        raise ValueError("a price is negative")
    worth, _ = _worth(instance, peak, prices)
    empty = instance.slots * float(prices.price.sum()) + instance.budget.slots * prices.replica
    return bool(worth.max(axis=1).sum() + empty < -ROUNDING * max(empty, 1.0))


def _exchanged(instance: PairInstance, counts: Ints, clock: Clock) -> Ints:
    """Counts `[expert]` in which no expert can take a replica of another, or an empty slot, for a lower folded peak."""
    peak = np.inf
    while not clock.over():
        owner = _by_load(instance, counts)
        load = _share(instance, counts)[owner]
        peak = min(peak, float((load + load[::-1]).max()))
        givers = np.append(np.flatnonzero(counts > instance.budget.least), -1)
        found = [_best_taker(instance, counts, owner, int(giver)) for giver in givers]
        best = min(range(len(found)), key=lambda place: found[place][0])
        if found[best][0] >= peak * (1 - ROUNDING):
            break
        counts = counts.copy()
        counts[found[best][1]] += 1
        if givers[best] >= 0:
            counts[givers[best]] -= 1
    return counts


def _best_taker(instance: PairInstance, counts: Ints, owner: Ints, giver: int) -> tuple[float, int]:
    """The folded peak, and the expert, if the best expert takes a replica of the giver; -1 gives an empty slot.

    owner `[slot]`: the expert of every slot, as `_by_load` gives it.
    """
    experts = np.arange(len(counts))
    given = np.flatnonzero(owner == giver)
    if len(given) == 0 or (giver < 0 and counts.sum() >= instance.budget.slots):
        return np.inf, -1
    load = _share(instance, counts)[owner]
    load[given] = 0.0 if giver < 0 else instance.load[giver] / (counts[giver] - 1)
    taken = instance.load / (counts + 1)
    trial = np.where(owner == experts[:, None], taken[:, None], load)
    trial[:, given[-1]] = taken
    trial.sort(axis=1)
    peaks = (trial + trial[:, ::-1]).max(axis=1)
    peaks[(experts == giver) | (counts >= instance.budget.most)] = np.inf
    return float(peaks.min()), int(peaks.argmin())


def _by_load(instance: PairInstance, counts: Ints) -> Ints:
    """The expert of every slot `[slot]`, -1 for an empty one, the heaviest replica first."""
    replicas = np.repeat(np.arange(len(counts)), counts)
    order = np.argsort(-_share(instance, counts)[replicas], kind="stable")
    return np.append(replicas[order], np.full(instance.slots - len(replicas), -1))


def _share(instance: PairInstance, counts: Ints) -> Floats:
    """The load of one replica of each expert, and of an empty slot at the end, `[expert + 1]`."""
    return np.append(instance.load / counts, 0.0)


def _worth(instance: PairInstance, peak: float, prices: Prices) -> tuple[Floats, Ints]:
    """What experts are worth beyond as many empty slots, `[expert, count]`, less the price of their replicas; -inf
    where a count is not allowed or leaves a replica above the peak. And the counts, `[count]`."""
    budget, near = instance.budget, peak * ROUNDING
    spare = budget.slots - int(budget.least.sum())
    count = np.arange(1, int(min(budget.most.max(), budget.least.max() + spare)) + 1)
    weight = instance.load[:, None] / count
    total = np.append(0.0, np.cumsum(prices.price))
    lighter = total[np.searchsorted(prices.threshold, peak - weight + near, side="right")]
    heavier = total[np.searchsorted(prices.threshold, weight - near, side="right")]
    worth = count * (lighter - heavier - total[-1] - prices.replica)
    allowed = (count >= budget.least[:, None]) & (count <= budget.most[:, None]) & (weight <= peak + near)
    return np.where(allowed, worth, -np.inf), count


def _attempt(instance: PairInstance, peak: float) -> tuple[bool, Ints | None]:
    """Whether prices refute a peak, and else counts `[expert]` that the relaxation is rounded to, if it has any."""
    taken = _first(instance, peak)
    if taken is None:
        return True, None
    while True:
        columns = _Columns(taken[:, 0], taken[:, 1], instance.load[taken[:, 0]] / taken[:, 1])
        missing, share, prices = _relaxed(instance, peak, columns)
        if missing <= ROUNDING * instance.slots:
            return False, _rounded(instance, columns, share)
        if proves(instance, peak, prices):
            return True, None
        worth, counts = _worth(instance, peak, prices)
        more = np.stack([np.arange(len(worth)), counts[worth.argmax(axis=1)]], axis=1)
        grown = np.unique(np.concatenate([taken, more]), axis=0)
        if len(grown) == len(taken):  # rounding keeps the prices from being a proof
            return False, None
        taken = grown


def _first(instance: PairInstance, peak: float) -> Ints | None:
    """The counts `[column, (expert, count)]` that the relaxation begins with: of each expert the fewest that leave no
    replica above the peak, and some more. None where an expert cannot have as many."""
    budget = instance.budget
    fewest = np.maximum(budget.least, np.ceil(instance.load / (peak * (1 + ROUNDING))).astype(np.int64))
    if (fewest > budget.most).any() or fewest.sum() > budget.slots:
        return None
    count = np.minimum(fewest[:, None] + np.arange(FIRST + 1), budget.most[:, None])
    expert = np.repeat(np.arange(len(count)), FIRST + 1)
    found: Ints = np.unique(np.stack([expert, count.ravel()], axis=1), axis=0)
    return found


def _family(instance: PairInstance, peak: float, columns: _Columns) -> tuple[Floats, Floats]:
    """The thresholds `[number]`, which are all loads above half the peak, and for each by how many a count has more
    replicas that are light enough than ones that are heavy, less empty slots, `[number, column]`."""
    near = peak * ROUNDING
    threshold = np.unique(columns.weight[columns.weight > peak / 2]) - 2 * near
    light = columns.weight <= peak - threshold[:, None] + near
    heavy = columns.weight - near >= threshold[:, None]
    return threshold, columns.count * (light.astype(np.float64) - heavy - 1)


def _relaxed(instance: PairInstance, peak: float, columns: _Columns) -> tuple[float, Floats, Prices]:
    """How many slots are missing for shares of counts `[column]` that reach the peak, these shares, and the prices.

    Variables: the share of each count, and what is missing. Constraints: for each threshold there are light replicas or
    empty slots for the heavy ones; replicas are no more than there may be; the shares of an expert sum up to one.
    """
    threshold, more = _family(instance, peak, columns)
    number = len(columns.expert)
    rows = np.concatenate([-more, columns.count[None].astype(np.float64)])
    room = np.append(np.full(len(threshold), float(instance.slots)), float(instance.budget.slots))
    once = csr_array((np.ones(number), (columns.expert, np.arange(number))), shape=(len(instance.load), number + 1))
    found = linprog(
        np.append(np.zeros(number), 1.0),
        A_ub=hstack([csr_array(rows), csr_array(-np.ones((len(rows), 1)))]),
        b_ub=room,
        A_eq=once,
        b_eq=np.ones(len(instance.load)),
        method="highs",
    )
    duals = np.maximum(-found.ineqlin.marginals, 0.0)
    return float(found.fun), found.x[:number], Prices(threshold, duals[:-1], float(duals[-1]))


def _rounded(instance: PairInstance, columns: _Columns, share: Floats) -> Ints:
    """Whole counts `[expert]` near the shares of counts `[column]`: each expert's mean count rounded down, and one
    replica more for those that are farthest above that, as long as there may be more and their means ask for it."""
    mean = np.bincount(columns.expert, share * columns.count, len(instance.load)) + ROUNDING
    counts: Ints = np.maximum(np.floor(mean).astype(np.int64), instance.budget.least)
    above = mean - counts
    for expert in np.argsort(-above, kind="stable")[: max(0, instance.budget.slots - int(counts.sum()))]:
        counts[expert] += above[expert] > CLOSE and counts[expert] < instance.budget.most[expert]
    return counts
