"""The cost of one batch with barriers between dispatch, compute and combine. Shares no code with what it checks."""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

from reference import Slots
from reference_routing import Place
from reference_traffic import Carried, Link, Wires, blocks, carry, holders, hops, link_order

from optimizer.domain.presets.schema import HardwarePreset, NodeTransfer, RooflineCompute


@dataclass(frozen=True)
class Hardware:
    """A preset's figures; which MoE op and dispatch model are used; how many times slower some devices are."""

    preset: HardwarePreset
    functional: bool
    table: bool
    slow: dict[int, float]


def slot_us(hardware: Hardware, tokens: int, block_count: int, filled: bool) -> float:
    """How long one slot works, in microseconds with three decimals, by its tokens and the blocks that they are in."""
    preset, compute = hardware.preset, hardware.preset.compute
    if hardware.functional:
        assert preset.functional is not None
        return (preset.functional.load_us + preset.functional.block_us * block_count) if filled else 0
    if tokens == 0:
        return 0
    if isinstance(compute, RooflineCompute):
        read = compute.weight_bytes / (compute.memory_gigabytes_per_second * 1000)
        multiply = tokens * compute.flops_per_token / (compute.peak_tflops * compute.efficiency * 1e6)
        return round(max(read, multiply), 3)
    return compute.first_tile_us + compute.further_tile_us * (ceil(tokens / compute.tile_tokens) - 1)


def link_us(transfer: Any, link: Link, messages: Fraction) -> float:
    """How long messages keep a link busy, in microseconds."""
    slow = link[0] != "fast" or not isinstance(transfer, NodeTransfer)
    speed = transfer.gigabytes_per_second if slow else transfer.local_gigabytes_per_second
    busy: float = float(messages) * transfer.bytes_per_token / (speed * 1000)
    return busy


def busiest(transfer: Any, order: list[Link], load: dict[Link, Fraction]) -> tuple[float, int]:
    """Time of the busiest link and its number, the first on a tie, -1 where nothing travels."""
    times = [link_us(transfer, link, load[link]) for link in order]
    most = max(times, default=0.0)
    return transfer.base_us + most, times.index(most) if most > 0 else -1


def table_us(hardware: Hardware, wires: Wires, held: list[list[int]], targets: list[list[int]]) -> float:
    """The microseconds of dispatch by the table model, which are those of the slowest token."""
    table, slowest = hardware.preset.table, 0.0
    assert table is not None
    for home, devices in zip(held, targets, strict=True):
        in_column = max(Counter(device % wires.cols for device in devices).values(), default=0)
        farthest = max((hops(wires, home, device) for device in devices), default=0)
        slowest = max(slowest, table.base_us + table.per_expert_us * in_column + table.per_hop_us * farthest)
    return slowest


def per_expert(hardware: Hardware) -> tuple[bool, bool]:
    """Whether there is a message per expert instead of per device, in dispatch and in combine."""
    out, back = hardware.preset.dispatch, hardware.preset.combine
    return isinstance(out, NodeTransfer) and out.message_per == "expert", (
        hardware.functional or back.message_per == "expert"
    )


def simulate_batch(
    hardware: Hardware, wires: Wires, slots: Slots, places: list[list[Place | None]], source_row: list[int]
) -> dict[str, Any]:
    """Figures of one routed batch by the names that a report has for them; places: None for a dropped pair."""
    held = holders(wires, source_row)
    served = [[place for place in token if place is not None] for token in places]
    targets = [[device for device, _ in token] for token in served]
    carried = carry(wires, held, targets, *per_expert(hardware))
    found = work(hardware, slots, served, source_row)
    out = busiest(hardware.preset.dispatch, link_order(wires), carried.out)
    back = busiest(hardware.preset.combine, link_order(wires), carried.back)
    found["dispatch_us"] = table_us(hardware, wires, held, targets) if hardware.table else out[0]
    found["combine_us"] = back[0]
    found["critical"] += [out[1], back[1]]
    return found | spread(carried, len(places))


def spread(carried: Carried, tokens: int) -> dict[str, Any]:
    """The sums over tokens that a report calls spread, and the hops per token."""
    sums = [carried.copies, carried.moved, carried.hops, carried.rows, carried.cols]
    return {"spread": sums, "hops": carried.hops / tokens}


def work(hardware: Hardware, slots: Slots, served: list[list[Place]], source_row: list[int]) -> dict[str, Any]:
    """The time of the slowest device, loads and tiles of all, and which device and expert are critical."""
    depth, functional, compute = len(slots[0]), hardware.preset.functional, hardware.preset.compute
    load = Counter(device * depth + slot for token in served for device, slot in token)
    used = [[device * depth + slot for device, slot in token] for token in served]
    blocked = blocks(source_row, used, functional.block_tokens) if functional else Counter()
    tile = 1 if isinstance(compute, RooflineCompute) else compute.tile_tokens
    of = [[device * depth + slot for slot in range(depth)] for device in range(len(slots))]
    spent = {
        place: slot_us(hardware, load[place], blocked[place], slots[device][slot] >= 0) * hardware.slow.get(device, 1)
        for device, row in enumerate(of)
        for slot, place in enumerate(row)
    }
    device_load = [sum(load[place] for place in row) for row in of]
    time = [round(sum(spent[place] for place in row), 6) for row in of]
    slowest = max(range(len(slots)), key=lambda device: (time[device], device_load[device], -device))
    dearest = max(range(depth), key=lambda slot: (round(spent[of[slowest][slot]], 6), load[of[slowest][slot]], -slot))
    return {
        "compute_us": max(time),
        "device_load": device_load,
        "device_tiles": [sum(ceil(load[place] / tile) for place in row) for row in of],
        "device_active": [sum(load[place] > 0 for place in row) for row in of],
        "critical": [slowest, slots[slowest][dearest]],
    }
