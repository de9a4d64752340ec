"""The sheet that a user fills in: the measurements that tell all constants of a preset apart."""

import csv
import io
from collections.abc import Iterator, Sequence

from optimizer.domain.calibration.measurements import COLUMNS, KINDS, NUMBERS, Measurement
from optimizer.domain.presets.schema import HardwarePreset, RooflineCompute

SENT = (16, 64, 256, 512, 1024, 2048)
"""Messages on the busiest link: from where the base time is all to where bandwidth is."""

BENDS = (0.1, 0.3, 0.6, 1.5, 3, 6)
"""Tokens of a slot as shares of those at which reading takes as long as multiplying, so that both sides are seen."""

NOTES = {
    "compute": "one device, so many tokens for each active slot",
    "functional": "one device, filled slots, and blocks with any token for them",
    "messages": "messages on the busiest directed link",
    "table": "every token with so many experts in a column, the farthest so many hops away",
    "ports": "messages through the busiest port inside a node or at the switch (local) and between nodes (remote)",
    "routing": "what a step takes longer than with a table; none is a table itself",
}


def sheet_rows(preset: HardwarePreset) -> list[tuple[Measurement, str]]:
    """The measurements to take on this hardware, each with a note of what it is; their times are 0."""
    rows = [*_compute(preset), *_transfers(preset)]
    rows += [(_row("routing", information=kind), NOTES["routing"]) for kind in KINDS]
    return rows


def sheet_text(preset: HardwarePreset) -> str:
    """The sheet as a CSV file without times, with the columns that this hardware uses."""
    rows = sheet_rows(preset)
    used = {name for row, _ in rows for name in row.numbers} | {"stage", "tokens", "information", "us", "note"}
    columns = [name for name in COLUMNS if name in used]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for row, note in rows:
        numbers = {name: f"{row.numbers[name]:g}" for name in NUMBERS if name in row.numbers}
        tokens = ";".join(map(str, row.tokens))
        given = {"stage": row.stage, "tokens": tokens, "information": row.information, "note": note}
        writer.writerow(numbers | given)
    return out.getvalue()


def _row(stage: str, tokens: Sequence[int] = (), information: str = "", **numbers: float) -> Measurement:
    return Measurement(0, stage, 0.0, tuple(tokens), numbers, information)


def _compute(preset: HardwarePreset) -> Iterator[tuple[Measurement, str]]:
    compute = preset.compute
    if isinstance(compute, RooflineCompute):
        read = compute.weight_bytes / (compute.memory_gigabytes_per_second * 1e3)
        bend = read / (compute.flops_per_token / (compute.peak_tflops * compute.efficiency * 1e6))
        one = [max(1, round(share * bend)) for share in BENDS]
        lists = [*((tokens,) for tokens in one), (one[0], one[-1]), (one[1], one[1], one[-2])]
    else:
        tile = compute.tile_tokens
        lists = [(1,), (tile,), (tile + 1,), (3 * tile,), (6 * tile,), (1, 1), (tile, 2 * tile), (tile, tile, 4 * tile)]
    yield from ((_row("compute", tokens), NOTES["compute"]) for tokens in lists)
    if preset.functional is not None:
        for slots, blocks in ((1, 1), (1, 4), (1, 16), (2, 8), (3, 3), (3, 24)):
            yield _row("functional", slots=slots, blocks=blocks), NOTES["functional"]


def _transfers(preset: HardwarePreset) -> Iterator[tuple[Measurement, str]]:
    links = preset.network.links
    for stage in ("dispatch", "combine"):
        if links == "rings":
            yield from ((_row(stage, messages=sent), NOTES["messages"]) for sent in SENT)
        else:
            yield from ((_row(stage, local=sent), NOTES["ports"]) for sent in SENT)
        if links == "nodes":
            yield from ((_row(stage, remote=sent), NOTES["ports"]) for sent in SENT)
            yield _row(stage, local=SENT[-1], remote=SENT[2]), NOTES["ports"]
        if links == "rings" and stage == "dispatch":
            for experts, hops in ((1, 1), (4, 2), (8, 2), (1, 8), (4, 6), (8, 8)):
                yield _row(stage, experts=experts, hops=hops), NOTES["table"]
