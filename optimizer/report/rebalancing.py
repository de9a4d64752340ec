"""The tables of `rebalance`: what moves win, how the gain grows with them, and how long they take."""

from typing import Any

import numpy as np
from rich.table import Table

from optimizer.planning.choose_for_datasets import EXPECTED, Measure
from optimizer.planning.rebalancing.plan import RebalancedPlan
from optimizer.planning.rebalancing.points import CurvePoint, LayerPoint
from optimizer.planning.rebalancing.rounds import Chunk
from optimizer.report.tables import Part, make_table
from optimizer.statistics.loads import PairedGain

INTERVAL_SAID = (
    "Gains are of the mean latency on test batches, all layers one after another, with the policy's parameters learnt "
    "anew for both plans; 95 % intervals by a paired bootstrap over stretches of up to 32 consecutive batches."
)

EXPECTED_SAID = (
    "Gains are of the peak of the expected load over devices, with replicas of an expert used evenly, as there are "
    "counts alone: of the mean over recorded steps and layers, relative to the mean load; 95 % intervals by a paired "
    "bootstrap over these steps{}."
)

SEEN_SAID = ", which are those that were planned on, so that they say nothing of other traffic"


def parts(found: RebalancedPlan) -> list[Part]:
    """The verdict in words, the table of the curve, how its intervals are made, and the table of the moves."""
    shown: list[Part] = [verdict(found), curve_table(found), _interval_said(found)]
    shown += [bound_said(layer, point) for layer, point in found.asked.layers.items() if point.expected is not None]
    return shown if not found.chunks else [*shown, moves_table(found)]


def _interval_said(found: RebalancedPlan) -> str:
    if found.measure != EXPECTED:
        return INTERVAL_SAID
    made = next(iter(found.asked.layers.values())).part.provenance
    return EXPECTED_SAID.format("" if made["unseen_test_steps"] else SEEN_SAID)


def verdict(found: RebalancedPlan) -> str:
    """What was decided and why, in words."""
    asked, within = found.asked, _within(found.asked.most)
    what = "the expected peak" if found.measure == EXPECTED else "mean latency"
    saved = f"{what} falls by {_percent(asked.gain)}, {_from_to(found)}"
    if found.left_as_it_is:
        wanted = f"{found.min_gain or 0:.1%}".replace("%", " %")
        return (
            f"The plan is left as it is: {asked.moves} moves {within} do not pay, as {saved}, and a gain of {wanted} "
            "with an interval above 0 is asked for."
        )
    if asked.moves == 0:
        chosen_on = "the steps that were planned on" if found.measure == EXPECTED else "selection batches"
        return f"The placement stays as it is: no placement that was found {within} is better on {chosen_on}."
    return f"{asked.moves} moves {within}: {saved}. {_cost_said(found)}"


def _within(most: int | None) -> str:
    return "without a limit" if most is None else f"within a budget of {most}"


def _percent(gain: PairedGain) -> str:
    return f"{100 * gain.mean:.2f} % (95 %: {100 * gain.low:.2f} to {100 * gain.high:.2f})"


def _from_to(found: RebalancedPlan) -> str:
    asked = found.asked
    if found.measure == EXPECTED:
        before, after = (of.mean() / len(asked.layers) for of in (asked.before, asked.after))
        return f"from {before:.3f} to {after:.3f} times the mean load"
    return f"from {asked.before.mean():.1f} to {asked.after.mean():.1f} us"


def _cost_said(found: RebalancedPlan) -> str:
    """How many rounds, bytes and milliseconds the moves take."""
    rounds = sum(len(chunk.rounds) for chunk in found.chunks)
    several = "1 round" if rounds == 1 else f"{rounds} rounds"
    said = f"They take {several}, in each of which a device sends and receives at most one expert"
    if found.expert_bytes is None or found.transfer is None:
        return f"{said}; the hardware does not say how many bytes an expert has."
    loaded = _bytes(found.moves * found.expert_bytes)
    room = _bytes(max(chunk.most_arriving for chunk in found.chunks) * found.expert_bytes)
    return (
        f"{said}: {loaded} ({_bytes(found.expert_bytes)} each), about {found.transfer.total_us / 1000:.1f} ms on idle "
        f"links, and room for {room} of arriving weights on the fullest device."
    )


def _bytes(count: float) -> str:
    """A number of bytes in MB, or in GB where it is large."""
    return f"{count / 1e9:.2f} GB" if count >= 1e10 else f"{count / 1e6:.1f} MB"


def curve_table(found: RebalancedPlan) -> Table:
    """A table with a row for each budget: what it wins of the mean, and how far imbalance and the worst fall."""
    layers = ", ".join(map(str, found.asked.layers)) if len(found.asked.layers) < 4 else f"{len(found.asked.layers)}"
    counted, judged = found.measure == EXPECTED, len(found.asked.after)
    how = f"{judged} steps, even split" if counted else f"{judged} test batches, {found.policy} routing"
    figures = ["imbalance", "worst step"] if counted else ["latency mean, us", "p99, us", "imbalance"]
    title = f"Gain against moves: layer(s) {layers}, {how}"
    table = make_table(title, "budget", ["moves", "gain, %", "95 % interval", *figures])
    for point in found.curve:
        gain = point.gain
        table.add_row(
            "no limit" if point.most is None else str(point.most),
            str(point.moves),
            f"{100 * gain.mean:.2f}",
            f"{100 * gain.low:.2f} to {100 * gain.high:.2f}",
            *(_of_counts(point) if counted else _of_batches(point)),
        )
    return table


def _of_batches(point: CurvePoint) -> tuple[str, ...]:
    p99 = np.percentile(point.after, 99)
    return f"{point.after.mean():.1f}", f"{p99:.1f}", f"{point.imbalance:.3f}"


def _of_counts(point: CurvePoint) -> tuple[str, ...]:
    return f"{point.imbalance:.4f}", f"{point.after.max() / len(point.layers):.4f}"


def bound_said(layer: int, point: LayerPoint) -> str:
    """A sentence with the bound that holds for all placements of a layer within its budget."""
    assert point.expected is not None
    return (
        f"Layer {layer}: no placement {_within(point.most)} has an expected imbalance under even split below "
        f"{point.expected.least:.3f}, on what was planned on; this one has {point.expected.reached:.3f}."
    )


def moves_table(found: RebalancedPlan) -> Table:
    """A table with a row for each kind of link that moves pass."""
    moves = sum(len(moves) for chunk in found.chunks for moves in chunk.rounds)
    layers = sum(len(chunk.layers) for chunk in found.chunks)
    table = make_table(f"Moves of {layers} layer(s), one chunk after another", "link", ["moves", "busiest link, ms"])
    for name, use in ({} if found.transfer is None else found.transfer.by_link).items():
        table.add_row(name, str(use.moves), f"{use.busiest_us / 1000:.2f}")
    table.add_row("all", str(moves), "" if found.transfer is None else f"{found.transfer.total_us / 1000:.2f}")
    return table


def as_json(found: RebalancedPlan) -> dict[str, Any]:
    """The curve, the moves by chunk and round, and what they take, in their stable JSON form. Shares, not per cent."""
    each = found.expert_bytes
    return {
        "routing": found.policy,
        "measure": found.measure.key,
        "left_as_it_is": found.left_as_it_is,
        "moves": found.moves,
        "bytes": None if each is None else found.moves * each,
        "expert_bytes": each,
        "rounds": sum(len(chunk.rounds) for chunk in found.chunks),
        "transfer_us": None if found.transfer is None else found.transfer.total_us,
        "by_link": {} if found.transfer is None else {k: use._asdict() for k, use in found.transfer.by_link.items()},
        "asked": _point(found.asked, found.measure),
        "curve": [_point(point, found.measure) for point in found.curve],
        "chunks": [_chunk(chunk) for chunk in found.chunks],
    }


def _point(point: CurvePoint, measure: Measure) -> dict[str, Any]:
    """One point of the curve."""
    if measure == EXPECTED:
        figures: dict[str, Any] = {
            "worst_imbalance": float(point.after.max()) / len(point.layers),
            "planned_on_imbalance": point.value / len(point.layers),
        }
    else:
        latency = {"mean": float(point.after.mean()), "p99": float(np.percentile(point.after, 99))}
        figures = {"latency_us": latency, "selection_us": point.value}
    return {
        "budget": point.most,
        "moves": point.moves,
        "gain": point.gain._asdict(),
        "imbalance": point.imbalance,
        **figures,
        "layers": {str(layer): each.moves for layer, each in point.layers.items()},
        "expected_imbalance": {
            str(layer): each.expected._asdict() for layer, each in point.layers.items() if each.expected is not None
        },
    }


def _chunk(chunk: Chunk) -> dict[str, Any]:
    """The layers of a chunk, and its moves by round."""
    rounds = [[move._asdict() for move in moves] for moves in chunk.rounds]
    return {"layers": list(chunk.layers), "most_arriving": chunk.most_arriving, "rounds": rounds}
