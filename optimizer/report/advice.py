"""The page of `advise`: a verdict, what the present placement costs and why, and a table of steps."""

from typing import Any

import numpy as np
from rich.table import Table

from optimizer.experiments.advice.levers import NEAR, WORTH, Lever, at_a_price, beyond
from optimizer.experiments.advice.study import Advice, Judged
from optimizer.report.tables import Part, make_table
from optimizer.statistics.loads import RESAMPLES, STRETCH, five_figures
from optimizer.statistics.paired import Gain

COLUMNS = ("slots", "routing", "latency mean, us", "gain, 95 %", "p99, us", "gain", "asks for")


def parts(found: Advice) -> list[Part]:
    """The page in the order in which it is read."""
    page: list[Part] = [verdict(found), present(found), where_it_goes(found), table(found)]
    page += [size(judged) for judged in found.sizes]
    page.append(method(found))
    return page


def verdict(found: Advice) -> str:
    """Whether anything is worth it, and which step comes first."""
    said = ""
    step, other, limit = found.recommended, beyond(found.levers), at_a_price(found.levers)
    if step is not None:
        said += f"Worth it: {name(step)} lowers the mean latency of layer {found.layer} by {per_cent(step.mean)}, "
        said += f"its p99 by {per_cent(step.p99)}."
        worse = [str(each.tokens) for each in found.sizes if each.gains is not None and each.gains[0].high < 0]
        said += f" But not with {' or '.join(worse)} tokens in a batch, where it costs time." if worse else ""
    elif other is None and found.left_out:
        said += f"Nothing is known to be worth it yet for layer {found.layer}."
    elif other is None and limit is not None:
        said += f"Nothing that leaves the model's outputs as they are is worth it for layer {found.layer}."
    elif other is None:
        said += f"No gain to be had: no step lowers the mean latency of layer {found.layer} by {WORTH:.0%} for sure."
    else:
        said += f"Nothing that {found.server.title} runs as released is worth it for layer {found.layer}."
    if other is not None:
        said += f" {name(other).capitalize()} would gain {per_cent(other.mean)}, but {found.server.title} does not run "
        said += f"that: {found.server.needs}."
    if limit is not None:
        said += (
            f" A capacity would gain {per_cent(limit.mean)}, but sends {limit.rerouted:.1%} of pairs to other experts."
        )
    if found.left_out:
        said += f" Not tried, as the time was up: {', '.join(found.left_out)}; a first run compiles, a second does not."
    return said


def present(found: Advice) -> str:
    """What runs now, and what it costs."""
    figures = five_figures(found.report.latency_us)
    said = (
        f"Now: {found.present.says}, {found.slots} slots a device, routing {found.present.policy}: a layer takes "
        f"{figures['mean']:.1f} us in the mean and {figures['p99']:.1f} at p99, with {found.report.tokens} tokens in a "
        "batch."
    )
    if found.floor is not None:
        room = 1 - found.floor / figures["mean"]
        said += f" No placement and routing in these slots takes less than {found.floor:.1f} us, {room:.0%} below."
    return said


def where_it_goes(found: Advice) -> str:
    """The parts of the present cost in words."""
    of, whole = found.parts, found.parts.latency
    chance = max(of.chance, 0.0) / whole  # rounding to whole half messages may leave it a little below nothing
    shares = [
        f"{of.communication / whole:.0%} is communication, at best",
        f"{of.work / whole:.0%} work that nothing avoids",
        f"{of.expected / whole:.0%} imbalance of the expected load, which placement and redundant experts remove",
        f"{chance:.0%} chance from batch to batch, which routing by recent loads or by the batch's own lessens, and a "
        "placement hardly",
    ]
    shares += [f"{of.routing / whole:.0%} waiting for the choice of replicas"] if of.routing > 0 else []
    return (
        f"Of that {', '.join(shares)}. The fullest device has {of.expected_imbalance:.2f} times the mean load in "
        f"expectation, and {of.imbalance:.2f} times in a batch."
    )


def table(found: Advice) -> Table:
    """A row for what runs now and for each step, from the cheapest on; the recommended one is bold."""
    rows = make_table(f"What each step gives, on {found.report.batches} test batches", "step", COLUMNS)
    now = five_figures(found.report.latency_us)
    rows.add_row("now", str(found.slots), found.present.policy, f"{now['mean']:.1f}", "", f"{now['p99']:.1f}", "", "")
    for lever in found.levers:
        figures = five_figures(lever.report.latency_us)
        cells = [str(lever.slots), lever.policy, f"{figures['mean']:.1f}", interval(lever.mean)]
        cells += [f"{figures['p99']:.1f}", f"{lever.p99.share:.1%}", asks(found, lever)]
        rows.add_row(short(lever), *cells, style="bold" if lever is found.recommended else None)
    return rows


def short(lever: Lever) -> str:
    """The step as a row's name."""
    if lever.kind == "redundant experts":
        return f"{lever.extra} redundant"
    return "optimal" if lever.kind == "optimal routing" else lever.kind


def name(lever: Lever) -> str:
    """The step in a sentence."""
    if lever.kind == "placement":
        return "placing the experts by load, in the same slots,"
    if lever.kind == "redundant experts":
        return f"{lever.extra} redundant experts ({lever.slots} slots a device), placed by load,"
    return f"{lever.kind} with {lever.extra} redundant experts"


def asks(found: Advice, lever: Lever) -> str:
    """What a step asks of the user, in a few words."""
    more = lever.slots - found.slots
    wanted = [f"{more:+d} slot{'s' if abs(more) > 1 else ''}"] if more else []
    if not lever.runs:
        wanted.append("server")
    if lever.report.price_us > 0:
        wanted.append(f"{lever.report.price_us:.0f} us")
    if lever.kind == "capacity":
        wanted.append(f"{lever.rerouted:.1%} of pairs")
    return ", ".join(wanted) or "a file"


def size(judged: Judged) -> str:
    """The present cost, and the recommended step, at another number of tokens."""
    mean, p99 = judged.before.latency_us.mean(), np.percentile(judged.before.latency_us, 99)
    said = f"With {judged.tokens} tokens in a batch: now {mean:.1f} us in the mean and {p99:.1f} at p99"
    if judged.gains is None:
        return f"{said}."
    return (
        f"{said}; the same step gains {per_cent(judged.gains[0])} of the mean and {per_cent(judged.gains[1])} of p99."
    )


def method(found: Advice) -> str:
    """What the columns mean, and how the figures were made."""
    stretch = max(1, min(STRETCH, found.report.batches // 8))
    return (
        "Steps ask for a placement file and what stands there: slots on each device, a change of the server, time for "
        "each batch, pairs that go to other experts than their own. They stand from the cheapest on; the first that "
        f"gains {NEAR:.0%} of the best that the server runs suffices. Intervals: 95 %, of {RESAMPLES} paired resamples "
        f"of stretches of {stretch} test batches, whose requests no plan has seen. Each step had a share of the time: "
        "`moeplan solve` makes the plan, and a better one."
    )


def per_cent(gain: Gain) -> str:
    """A gain with its interval in a sentence."""
    return f"{gain.share:.1%} ({gain.low:.1%} to {gain.high:.1%})"


def interval(gain: Gain) -> str:
    """A gain with its interval in a table."""
    return f"{gain.share:.1%} ({100 * gain.low:.1f}..{100 * gain.high:.1f})"


def as_json(found: Advice) -> dict[str, Any]:
    """The advice in its stable JSON form."""
    step = found.recommended
    return {
        "layer": found.layer,
        "server": found.server.name,
        "verdict": verdict(found),
        "recommended": None if step is None else found.levers.index(step),
        "present": {
            "placement": found.present.says,
            "extra_replicas": found.extra,
            "slots_per_device": found.slots,
            "parts_us": {part: getattr(found.parts, part) for part in PARTS},
            "expected_imbalance": found.parts.expected_imbalance,
            "floor_us": found.floor,
            **found.report.summary(),
        },
        "steps": [
            {
                "step": lever.kind,
                "extra_replicas": lever.extra,
                "slots_per_device": lever.slots,
                "runs_as_released": lever.runs,
                "gain_mean": lever.mean._asdict(),
                "gain_p99": lever.p99._asdict(),
                **lever.report.summary(),
            }
            for lever in found.levers
        ],
        "sizes": [
            {"tokens": each.tokens, "latency_us": five_figures(each.before.latency_us)}
            | (
                {}
                if each.gains is None
                else {"gain_mean": each.gains[0]._asdict(), "gain_p99": each.gains[1]._asdict()}
            )
            for each in found.sizes
        ],
        "left_out": list(found.left_out),
    }


PARTS = ("routing", "communication", "work", "expected", "chance")
"""The parts of the present cost that add up to its mean latency."""
