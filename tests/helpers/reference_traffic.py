"""Where tokens are and which links they pass, message by message and hop by hop. Shares no code with what it checks."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from fractions import Fraction

# ("column", 3, "up", 5) is the edge of column 3 from row 5 upwards; ("fast", 7, "out", 0) is the port out of device 7.
Link = tuple[str, int, str, int]
Load = dict[Link, Fraction]  # messages on each link


@dataclass(frozen=True)
class Wires:
    """A mesh and its network; a token is on all devices of its "row", on the first ("column"), or on one ("device")."""

    rows: int
    cols: int
    tokens: str = "row"
    links: str = "rings"


def link_order(wires: Wires) -> list[Link]:
    """All links in the order in which the program numbers them."""
    rows, cols, devices = range(wires.rows), range(wires.cols), range(wires.rows * wires.cols)
    if wires.links == "rings":
        columns: list[Link] = [("column", col, way, row) for col in cols for way in ("up", "down") for row in rows]
        across: list[Link] = [("row", row, way, col) for row in rows for way in ("up", "down") for col in cols]
        return columns if wires.tokens == "row" else columns + across
    networks = ["fast", "slow"] if wires.links == "nodes" else ["fast"]
    return [(network, device, way, 0) for network in networks for way in ("out", "in") for device in devices]


def holders(wires: Wires, source_row: list[int]) -> list[list[int]]:
    """The devices on which each token of a batch is before dispatch."""
    before: Counter[int] = Counter()
    found = []
    for row in source_row:
        whole = [row * wires.cols + col for col in range(wires.cols)]
        turn = before[row] % wires.cols
        before[row] += 1
        found.append({"row": whole, "column": whole[:1], "device": whole[turn : turn + 1]}[wires.tokens])
    return found


def all_holders(wires: Wires) -> list[list[int]]:
    """The devices of each source, in the order in which the program numbers sources."""
    devices = list(range(wires.rows * wires.cols))
    if wires.tokens == "device":
        return [[device] for device in devices]
    whole = [devices[row * wires.cols : (row + 1) * wires.cols] for row in range(wires.rows)]
    return whole if wires.tokens == "row" else [row[:1] for row in whole]


def sender(wires: Wires, held: list[int], target: int) -> int:
    """The device that sends the token: the one in the target's column, if it is there."""
    same_column = [device for device in held if device % wires.cols == target % wires.cols]
    return same_column[0] if same_column else held[0]


def ring_walk(length: int, start: int, end: int) -> list[tuple[str, int, Fraction]]:
    """The edges on the shorter way round a ring, as (direction, place that it leaves, share of the message on it)."""
    up, down, place = [], [], start
    while place != end:
        up.append(("up", place))
        place = (place + 1) % length
    place = start
    while place != end:
        down.append(("down", place))
        place = (place - 1) % length
    if len(up) == len(down):
        return [(way, at, Fraction(1, 2)) for way, at in up + down]
    return [(way, at, Fraction(1)) for way, at in min(up, down, key=len)]


def in_column(wires: Wires, col: int, start_row: int, end_row: int) -> Load:
    """The edges that a message along a column passes."""
    return {("column", col, way, row): share for way, row, share in ring_walk(wires.rows, start_row, end_row)}


def in_row(wires: Wires, row: int, start_col: int, end_col: int) -> Load:
    """The edges that a message along a row passes."""
    return {("row", row, way, col): share for way, col, share in ring_walk(wires.cols, start_col, end_col)}


def through_ports(wires: Wires, start: int, end: int) -> Load:
    """The ports that a message between devices passes, in the network of the node or in the one between nodes."""
    if start == end:
        return {}
    inside = wires.links == "switch" or start // wires.cols == end // wires.cols
    network = "fast" if inside else "slow"
    return {(network, start, "out", 0): Fraction(1), (network, end, "in", 0): Fraction(1)}


def outward(wires: Wires, start: int, end: int) -> Load:
    """The links that a message to an expert's device passes: along the sender's column, then the target's row."""
    if wires.links != "rings":
        return through_ports(wires, start, end)
    (row, col), (end_row, end_col) = divmod(start, wires.cols), divmod(end, wires.cols)
    return in_column(wires, col, row, end_row) | in_row(wires, end_row, col, end_col)


def homeward(wires: Wires, start: int, end: int) -> Load:
    """The links that a result passes on its way back: along the row of its device, then the column of its home."""
    if wires.links != "rings":
        return through_ports(wires, start, end)
    (row, col), (end_row, end_col) = divmod(start, wires.cols), divmod(end, wires.cols)
    return in_row(wires, row, col, end_col) | in_column(wires, end_col, row, end_row)


def hops(wires: Wires, held: list[int], target: int) -> int:
    """How far a token is from a device: ring edges; else 1 behind one switch or inside a node, 2 between nodes."""
    start = sender(wires, held, target)
    if wires.links != "rings":
        ports = through_ports(wires, start, target)
        return 0 if not ports else 2 if ("slow", start, "out", 0) in ports else 1
    return sum(
        min((a - b) % length, (b - a) % length)
        for a, b, length in zip(
            divmod(start, wires.cols), divmod(target, wires.cols), (wires.rows, wires.cols), strict=True
        )
    )


@dataclass
class Carried:
    """Messages of a batch on each link, and sums over tokens: copies, copies that travel, hops, rows and columns."""

    out: Load = field(default_factory=lambda: defaultdict(Fraction))
    back: Load = field(default_factory=lambda: defaultdict(Fraction))
    copies: int = 0
    moved: int = 0
    hops: int = 0
    rows: int = 0
    cols: int = 0


def carry(
    wires: Wires, held: list[list[int]], targets: list[list[int]], out_per_expert: bool, back_per_expert: bool
) -> Carried:
    """Walk every message of a batch; held: devices where each token is; targets: the device of each of its pairs."""
    found = Carried()
    for home, pairs in zip(held, targets, strict=True):
        devices = sorted(set(pairs))
        for device in pairs if back_per_expert else devices:
            add(found.back, homeward(wires, device, sender(wires, home, device)))
        if wires.links == "rings":
            add(found.out, multicast(wires, home, devices))
        else:
            for device in pairs if out_per_expert else devices:
                add(found.out, outward(wires, sender(wires, home, device), device))
        found.copies += len(devices)
        found.moved += len([device for device in devices if device not in home])
        found.hops += sum(hops(wires, home, device) for device in devices)
        found.rows += len({device // wires.cols for device in devices})
        found.cols += len({device % wires.cols for device in devices})
    return found


def multicast(wires: Wires, home: list[int], devices: list[int]) -> Load:
    """The edges that the packets of one token pass: one packet per ring and direction passes each edge only once."""
    packet: Load = {}
    for device in devices:
        for link, share in outward(wires, sender(wires, home, device), device).items():
            packet[link] = max(packet.get(link, Fraction(0)), share)
    return packet


def add(total: Load, more: Load) -> None:
    """Add messages to those that links carry already."""
    for link, share in more.items():
        total[link] += share


def blocks(source_row: list[int], slots_used: list[list[int]], block_tokens: int) -> Counter[int]:
    """For each flat slot, how many blocks of `block_tokens` consecutive tokens of one row send it anything."""
    used: set[tuple[int, int, int]] = set()
    for row in sorted(set(source_row)):
        own = [token for token, source in enumerate(source_row) if source == row]
        for place, token in enumerate(own):
            used |= {(slot, row, place // block_tokens) for slot in slots_used[token]}
    return Counter(slot for slot, _, _ in used)
