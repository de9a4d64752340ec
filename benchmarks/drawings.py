"""Draw the pictures of `docs/concepts.md` and of the two pages about MoE ops; times in them are the cost model's.

Usage: python benchmarks/drawings.py [FOLDER]. FOLDER is docs/pictures by default.
"""

import sys
from pathlib import Path

import numpy as np
from svg_picture import SMALL, Picture, write_pictures

from formulations.kit.arrays import Floats
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.presets import load_hardware

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
HARDWARE = "tt-wormhole-quad-galaxy"
BLOCK = 32  # tokens of a tile and of a block on that hardware

TOKENS_OF_EXPERT = {0: (1, 4, 5, 9, 13, 16, 20, 23, 26, 30), 2: (7, 19), 3: (2, 8, 14, 22, 29)}
"""The tokens that choose the expert of the worked example, by source row: 17 of four rows with 32 each."""

TILES_OF_DEVICES = ((1, 1, 1), (2, 1), (1, 1), (2, 2))
"""The tiles of each active slot, for four devices of the picture of a layer."""


def cost(moe_op: str) -> Cost:
    """The cost model of the hardware with one of the MoE ops."""
    preset = load_hardware(HARDWARE)
    return Cost(HARDWARE, preset, moe_op="functional") if moe_op == "functional" else Cost(HARDWARE, preset)


def mesh() -> Picture:
    """Where tokens are, and how they reach the devices of their experts."""
    small = Mesh(rows=6, cols=4, slots_per_device=3)
    picture = Picture(
        720, 350, "A device mesh",
        "Six rows of four devices with three slots each. The tokens of row 1 are on all four devices of the row. One "
        "of them goes down the ring of column 0 to a device in row 3, two hops, and up the ring of column 2 to a "
        "device in row 0, one hop; an expert in its own row costs no hop.",
    )  # fmt: skip
    for row in range(small.rows):
        hops = small.hops(1, row)
        picture.words(90, 67 + 48 * row, f"row {row}", anchor="end")
        picture.words(560, 67 + 48 * row, f"{hops} hop{'s' * (hops != 1)} from row 1", SMALL, colour="faint")
        for col in range(small.cols):
            _device(picture, 110 + 110 * col, 44 + 48 * row, small.slots_per_device, row, col)
    for col in range(small.cols):
        picture.words(153 + 110 * col, 28, f"column {col}: a ring", SMALL, "middle", "faint")
    picture.line([(118, 108), (118, 200)], arrow=True, strong=True)
    picture.line([(338, 96), (338, 72)], arrow=True, strong=True)
    picture.words(
        20, 340, "Blue: row 1, whose tokens are on all its devices. Orange: the replicas that serve one token."
    )
    return picture


def _device(picture: Picture, x: float, y: float, slots: int, row: int, col: int) -> None:
    """A device with its slots; the token of the picture is served in three of them."""
    picture.box(x, y, 86, 36, "blue" if row == 1 else "plain")
    for slot in range(slots):
        serves = (row, col, slot) in {(3, 0, 1), (0, 2, 2), (1, 3, 0)}
        picture.box(x + 19 + 22 * slot, y + 9, 18, 18, "orange" if serves else "ground")


def layer() -> Picture:
    """The stages of a layer one after another, with devices that wait for the slowest one."""
    times = cost("optimized")
    price = times.routing_us("optimal", "batch")
    out, back = (float(each[0]) for each in (times.dispatch_us(np.array([[200]])), times.combine_us(np.array([[240]]))))
    spent = [[float(times.slot_us(np.array(BLOCK * tiles))) for tiles in device] for device in TILES_OF_DEVICES]
    slowest = max(map(sum, spent))
    picture = Picture(
        860, 260, "One MoE layer, stage by stage",
        f"From left to right: {price:g} us in which all devices wait until replicas are chosen, where the policy needs "
        f"the batch's loads; {out:.0f} us of dispatch; compute of four devices, of which the slowest takes "
        f"{slowest:g} us and the others wait for it; {back:.0f} us of combine.",
    )  # fmt: skip
    starts = np.cumsum([30.0, price, out, slowest, back])
    for name, colour, start, end in (
        ("price", "orange", starts[0], starts[1]), ("dispatch", "blue", starts[1], starts[2]),
        ("compute", "", starts[2], starts[3]), ("combine", "blue", starts[3], starts[4]),
    ):  # fmt: skip
        if colour:
            picture.box(start, 50, end - start, 152, colour)
        picture.words((start + end) / 2, 24, name, anchor="middle")
        picture.words((start + end) / 2, 41, f"{end - start:.0f} us", SMALL, "middle", "faint")
        picture.line([(end, 46), (end, 206)])
    for number, device in enumerate(spent):
        _lane(picture, starts[2], 52 + 38 * number, device, slowest)
    picture.words(30, 232, "Each box in compute is one slot of a device; slots run one after another.", SMALL)
    picture.words(30, 250, "Orange is there only where a policy needs the loads of the very batch.", SMALL)
    return picture


def _lane(picture: Picture, x: float, y: float, device: list[float], slowest: float) -> None:
    """The slots of a device one after another, and how long it waits for the slowest one."""
    for spent in device:
        picture.box(x + 1, y, spent - 2, 30, "green")
        picture.words(x + spent / 2, y + 20, f"{spent:g}", SMALL, "middle")
        x += spent
    if waits := slowest - sum(device):
        picture.words(x + 8, y + 20, f"waits {waits:g} us", SMALL, colour="faint")


def bounds() -> Picture:
    """What a plan reaches between what is proven and what others reach."""
    picture = Picture(
        760, 190, "Bounds and gaps",
        "Latencies on a line, from fast to slow: what no placement goes below; what no routing of this plan's "
        "placement goes below; what the plan reaches; what EPLB's scheme reaches. The gap to any placement is from the "
        "first to the third, the gap to its own best routing from the second to the third.",
    )  # fmt: skip
    marks = ((90, "no placement", "goes below"), (270, "no routing of this", "placement goes below"),
             (450, "the plan", "reaches"), (650, "EPLB's scheme", "reaches"))  # fmt: skip
    picture.line([(30, 90), (735, 90)], arrow=True)
    picture.words(735, 112, "slower", SMALL, "end", "faint")
    for x, first, second in marks:
        picture.line([(x, 80), (x, 100)], strong=True)
        picture.words(x, 52, first, anchor="middle")
        picture.words(x, 70, second, anchor="middle")
    for y, start, name in ((130, 270, "gap to its own best routing"), (160, 90, "gap to any placement")):
        picture.line([(start, y), (450, y)], strong=True)
        picture.words(460, y + 5, name)
    picture.words(30, 24, "An optimum lies somewhere in a gap: a bound need not be reachable.", SMALL, colour="faint")
    return picture


def functional_op() -> Picture:
    """Which blocks of the batch a slot works through."""
    times = cost("functional")
    block, load = times.functional.block_us, times.functional.load_us
    total = load + block * len(TOKENS_OF_EXPERT)
    picture = Picture(
        760, 240, "The functional op, for one expert",
        "Four source rows of 32 tokens. The expert has ten tokens of row 0, none of row 1, two of row 2 and five of "
        f"row 3. Blocks with any token cost {block:g} us whole, the block of row 1 is skipped: with {load:g} us of "
        f"loading, {total:g} us.",
    )  # fmt: skip
    for row in range(4):
        mine = TOKENS_OF_EXPERT.get(row, ())
        y = 30 + 40 * row
        picture.words(70, y + 17, f"row {row}", anchor="end")
        for token in range(BLOCK):
            picture.box(84 + 15 * token, y, 13, 24, "orange" if token in mine else "plain")
        picture.words(575, y + 17, f"block: {block:g} us" if mine else "skipped", colour="text" if mine else "faint")
    picture.words(
        84, 206, f"{load:g} us to load the expert + {len(TOKENS_OF_EXPERT)} blocks of {block:g} us = {total:g} us"
    )
    picture.words(84, 226, "Orange: tokens that chose this expert. They stay at their places in the batch.", SMALL)
    return picture


def optimised_op() -> Picture:
    """The same tokens packed into a tile, and the staircase of times that follows."""
    times = cost("optimized")
    packed = sum(map(len, TOKENS_OF_EXPERT.values()))
    spent = times.slot_ns(packed)[-1] / 1000
    picture = Picture(
        780, 380, "The optimised op, for one expert",
        f"The {packed} tokens of the expert are packed into one tile of 32, which costs {spent:g} us. "
        "Below, the time of a slot by its tokens: nothing without tokens, then a step up after every 32.",
    )  # fmt: skip
    picture.words(70, 47, "one tile", anchor="end")
    for place in range(BLOCK):
        picture.box(84 + 15 * place, 30, 13, 24, "orange" if place < packed else "plain")
    picture.words(575, 47, f"{spent:g} us")
    picture.words(84, 74, f"The {packed} tokens of all rows stand side by side; an empty place costs as much.", SMALL)
    _staircase(picture, times.slot_ns(4 * BLOCK) / 1000)
    return picture


def _staircase(picture: Picture, slot_us: Floats) -> None:
    """The time of a slot by its tokens, `[tokens + 1]` microseconds, with a scale at every step."""
    left, ground, wide, high = 110, 340, 4.6, 0.44
    picture.line([(left, 110), (left, ground), (left + wide * len(slot_us) + 14, ground)])
    points = [(float(left), float(ground))]
    for tokens in range(1, len(slot_us)):
        y = ground - high * float(slot_us[tokens])
        points += [(left + wide * (tokens - 1), y), (left + wide * tokens, y)]
    picture.line(points, strong=True)
    for tokens in range(0, len(slot_us), BLOCK):
        picture.words(left + wide * tokens, ground + 18, str(tokens), SMALL, "middle")
        picture.words(left - 8, ground - high * float(slot_us[tokens]) + 5, f"{slot_us[tokens]:g}", SMALL, "end")
    picture.words(left + wide * len(slot_us) + 20, ground + 5, "tokens", SMALL)
    picture.words(left, 100, "us", SMALL, "end")


PICTURES = {
    "mesh": mesh,
    "layer": layer,
    "bounds": bounds,
    "functional-op": functional_op,
    "optimised-op": optimised_op,
}
"""What draws each picture, by its name."""


if __name__ == "__main__":
    write_pictures(
        {name: draw() for name, draw in PICTURES.items()}, Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    )
