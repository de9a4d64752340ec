"""The tables of `rebalance`: what moves win, how the gain grows with them, and how long they take."""

from typing import Any

import numpy as np
from rich.table import Table

from optimizer.planning.rebalancing.plan import CurvePoint, LayerPoint, RebalancedPlan
from optimizer.planning.rebalancing.rounds import Chunk
from optimizer.report.tables import Part, make_table
from optimizer.statistics.loads import PairedGain

INTERVAL_SAID = (
    "Gains are of the mean latency on test batches, all layers one after another, with the policy's parameters learnt "
    "anew for both plans; 95 % intervals by a paired bootstrap over stretches of up to 32 consecutive batches."
)


def parts(found: RebalancedPlan) -> list[Part]:
    """The verdict in words, the table of the curve, how its intervals are made, and the table of the moves."""
    shown: list[Part] = [verdict(found), curve_table(found), INTERVAL_SAID]
    shown += [bound_said(layer, point) for layer, point in found.asked.layers.items() if point.expected is not None]
    return shown if not found.chunks else [*shown, moves_table(found)]


def verdict(found: RebalancedPlan) -> str:
    """What was decided and why, in words."""
    asked, within = found.asked, _within(found.asked.most)
    saved = f"mean latency falls by {_percent(asked.gain)}, {_from_to(asked)}"
    if found.left_as_it_is:
        wanted = f"{found.min_gain or 0:.1%}".replace("%", " %")
        return (
            f"The plan is left as it is: {asked.moves} moves {within} do not pay, as {saved}, and a gain of {wanted} "
            "with an interval above 0 is asked for."
        )
    if asked.moves == 0:
        return f"The placement stays as it is: no placement that was found {within} is better on selection batches."
    return f"{asked.moves} moves {within}: {saved}. {_cost_said(found)}"


def _within(most: int | None) -> str:
    return "without a limit" if most is None else f"within a budget of {most}"


def _percent(gain: PairedGain) -> str:
    return f"{100 * gain.mean:.2f} % (95 %: {100 * gain.low:.2f} to {100 * gain.high:.2f})"


def _from_to(point: CurvePoint) -> str:
    return f"from {point.before_us.mean():.1f} to {point.latency_us.mean():.1f} us"


def _cost_said(found: RebalancedPlan) -> str:
    """How many rounds, bytes and milliseconds the moves take."""
    rounds = sum(len(chunk.rounds) for chunk in found.chunks)
    said = f"They take {rounds} rounds, in each of which a device sends and receives at most one expert"
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
    """A table with a row for each budget: what it wins of the mean latency, and how far imbalance and the 99th
    percentile fall."""
    layers = ", ".join(map(str, found.asked.layers)) if len(found.asked.layers) < 4 else f"{len(found.asked.layers)}"
    batches = len(found.asked.latency_us)
    title = f"Gain against moves: layer(s) {layers}, {batches} test batches, {found.policy} routing"
    columns = ["moves", "gain, %", "95 % interval", "latency mean, us", "p99, us", "imbalance"]
    table = make_table(title, "budget", columns)
    for point in found.curve:
        gain = point.gain
        table.add_row(
            "no limit" if point.most is None else str(point.most),
            str(point.moves),
            f"{100 * gain.mean:.2f}",
            f"{100 * gain.low:.2f} to {100 * gain.high:.2f}",
            f"{point.latency_us.mean():.1f}",
            f"{np.percentile(point.latency_us, 99):.1f}",
            f"{point.imbalance:.3f}",
        )
    return table


def bound_said(layer: int, point: LayerPoint) -> str:
    """A sentence with the bound that holds for all placements of a layer within its budget."""
    assert point.expected is not None
    return (
        f"Layer {layer}: no placement {_within(point.most)} has an expected imbalance under even split below "
        f"{point.expected.least:.3f}, on train batches; this one has {point.expected.reached:.3f}."
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
        "left_as_it_is": found.left_as_it_is,
        "moves": found.moves,
        "bytes": None if each is None else found.moves * each,
        "expert_bytes": each,
        "rounds": sum(len(chunk.rounds) for chunk in found.chunks),
        "transfer_us": None if found.transfer is None else found.transfer.total_us,
        "by_link": {} if found.transfer is None else {k: use._asdict() for k, use in found.transfer.by_link.items()},
        "asked": _point(found.asked),
        "curve": [_point(point) for point in found.curve],
        "chunks": [_chunk(chunk) for chunk in found.chunks],
    }


def _point(point: CurvePoint) -> dict[str, Any]:
    """One point of the curve."""
    return {
        "budget": point.most,
        "moves": point.moves,
        "gain": point.gain._asdict(),
        "latency_us": {"mean": float(point.latency_us.mean()), "p99": float(np.percentile(point.latency_us, 99))},
        "imbalance": point.imbalance,
        "selection_us": point.selection_us,
        "layers": {str(layer): each.moves for layer, each in point.layers.items()},
        "expected_imbalance": {
            str(layer): each.expected._asdict() for layer, each in point.layers.items() if each.expected is not None
        },
    }


def _chunk(chunk: Chunk) -> dict[str, Any]:
    """The layers of a chunk, and its moves by round."""
    rounds = [[move._asdict() for move in moves] for moves in chunk.rounds]
    return {"layers": list(chunk.layers), "most_arriving": chunk.most_arriving, "rounds": rounds}
