"""How often each expert is to be chosen, and the gate's biases that bring it about."""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.errors import InputError

SIGMA = 0.6  # fitted to real traces (DOMAIN section 4), as is what follows
BODY = -0.24  # median of the log-normal part's logarithm: 256 experts then have mean 1, the tail included
TAIL = {8: 3.25, 4: 4.1, 2: 4.9, 1: 5.6}  # order statistics of 256 experts, times the mean
TAIL_EXPERTS, TAIL_STARTS = 256, 32

MOST = 0.98  # the largest share of tokens that one expert is asked to serve: no bias makes all tokens choose one
SEARCH_ROUNDS, AVERAGE_ROUNDS = 4, 20  # the first come near, the others average; see `calibrate` for what is reached
SELECTIONS = 512  # how often a sample chooses each expert on average; a quarter of it while searching


def lognormal_shares(experts: int, rng: np.random.Generator) -> Floats:
    """Draw each expert's share of all selections, `[expert]`, sum 1: given shares are dealt to experts at random.

    The shares are log-normal quantiles of sigma .6 whose right tail passes through the largest, 2nd, 4th and 8th share
    measured for DeepSeek-V3's 256 experts (DOMAIN section 4); other numbers of experts take their quantiles from the
    same curve.
    """
    quantile = NormalDist().inv_cdf
    tail = [quantile(1 - (rank - 0.5) / TAIL_EXPERTS) for rank in (TAIL_STARTS, *TAIL)]
    height = [BODY + SIGMA * tail[0], *np.log(list(TAIL.values()))]
    at = np.array([quantile((rank + 0.5) / experts) for rank in range(experts)])
    share = np.exp(np.where(at < tail[0], BODY + SIGMA * at, np.interp(at, tail, height)))
    return rng.permutation(share / share.sum())


def shares_of_counts(counts: Ints, top_k: int, layer: int) -> Floats:
    """Turn recorded selections `[expert]` into shares of all selections, `[expert]`, sum 1.

    Raises InputError for counts that no top-k router can produce.
    """
    total, hottest = int(counts.sum()), int(counts.argmax())
    if total <= 0 or counts.min() < 0:
        raise InputError(
            f"counts of layer {layer}: they are all zero, or some are negative; count the selections again"
        )
    if counts[hottest] * top_k > total:
        raise InputError(
            f"counts of layer {layer}: expert {hottest} has {counts[hottest]} of {total} selections, more than one per "
            f"token of a top-{top_k} router; count them again, or give the top-k of the router that was counted",
            "top_k",
        )
    shares: Floats = counts / total
    return shares


def calibration_tokens(experts: int, top_k: int) -> int:
    """Estimate how many tokens `calibrate` observes."""
    return (SEARCH_ROUNDS // 4 + AVERAGE_ROUNDS) * _sample_tokens(experts, top_k)


def _sample_tokens(experts: int, top_k: int) -> int:
    """How many tokens a sample needs for `SELECTIONS` of each expert on average."""
    return experts * SELECTIONS // top_k


def calibrate(shares: Floats, top_k: int, observe: Callable[[Floats, int, int], Ints]) -> Floats:
    """Find biases `[expert]` under which a router chooses the experts with these shares.

    observe(bias, round, tokens) counts the selections `[expert]` of about that number of sampled tokens. A few steps on
    the log-odds of being chosen search roughly; then steps that shrink as 1 / n average over all later samples
    (stochastic approximation, Robbins and Monro 1951). With four small samples and twenty of 512 selections per expert,
    what the router does in the long run differs from the shares by a total variation of .0045 (.002-.005, measured for
    5 to 512 experts on 2 M further tokens, their sampling noise taken off).
    """
    wanted = _possible(shares * top_k)
    bias = _log_odds(wanted)
    tokens = _sample_tokens(len(shares), top_k)
    for turn in range(SEARCH_ROUNDS + AVERAGE_ROUNDS):
        searching = turn < SEARCH_ROUNDS
        counts = observe(bias, turn, tokens // 4 if searching else tokens)
        served = (counts + 0.5) * top_k / counts.sum()
        step = 1.0 if searching else 1 / (turn - SEARCH_ROUNDS + 1)
        bias = bias + step * (_log_odds(wanted) - _log_odds(served))
    return bias


def _possible(served: Floats) -> Floats:
    """Cut down experts that would serve more than MOST of the tokens; the rest is spread evenly over the others."""
    most = max(MOST, float(served.mean()) * 1.001)
    served = served.copy()
    while (over := served > most).any():
        served[~over & (served < most)] += (served[over] - most).sum() / (served < most).sum()
        served[over] = most
    return served


def _log_odds(served: Floats) -> Floats:
    """The logarithm of the odds of being chosen, for shares of the tokens that each expert serves."""
    share = np.clip(served, 1e-9, MOST)
    odds: Floats = np.log(share / (1 - share))
    return odds
