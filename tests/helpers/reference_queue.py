"""A slow and obvious oracle of a layer whose parts overlap: one token, one hop, one event at a time.

It shares no code with what it checks: paths are walked by row and column, and links are found by what they are.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Setting:
    """The mesh, its links and the work of slots; times are in microseconds, and each device has `depth` slots.

    group: names the job of a slot that a token belongs to, by the token's rank in order of arrival at the slot and its
    number in the batch. out_us and back_us are by link, slowdown by device, first_us and idle_us by slot.
    """

    rows: int
    cols: int
    depth: int
    tokens: str
    links: str
    hop_us: float
    out_us: list[float]
    back_us: list[float]
    dispatch_base: float
    combine_base: float
    out_per_expert: bool
    back_per_expert: bool
    slowdown: list[float]
    group: Callable[[int, int], int]
    first_us: list[float]
    further_us: float
    idle_us: list[float]

    def edge(self, kind: str, ring: int, up: bool, place: int) -> int:
        """The number of the edge that leads up or down from a place of a ring, which is a column or a row."""
        if kind == "column":
            return (2 * ring + (not up)) * self.rows + place
        return 2 * self.rows * self.cols + (2 * ring + (not up)) * self.cols + place

    def port(self, device: int, into: bool, slow: bool) -> int:
        """The number of the port into or out of a device, in the slow network or the fast one."""
        return (2 * slow + into) * self.rows * self.cols + device

    def origin(self, source: int, device: int) -> tuple[int, int]:
        """Row and column of the device that has the token and sends it to this device."""
        if self.tokens == "device":
            return divmod(source, self.cols)
        return source, device % self.cols if self.tokens == "row" else 0


@dataclass
class Flight:
    """A message on its path of (link, share of a message); reached: when it was at the end of each link so far."""

    number: tuple[int, int]
    release: float
    path: list[tuple[int, float]]
    reached: list[float] = field(default_factory=list)


def carry(flights: list[Flight], link_us: list[float], hop_us: float) -> None:
    """Move the messages along their paths; the next to move is always the one that arrives somewhere first."""
    free: dict[int, float] = defaultdict(float)
    events = [(flight.release, flight.number, index) for index, flight in enumerate(flights) if flight.path]
    heapq.heapify(events)
    while events:
        now, number, index = heapq.heappop(events)
        flight = flights[index]
        link, share = flight.path[len(flight.reached)]
        free[link] = max(free[link], now) + share * link_us[link]
        flight.reached.append(free[link] + hop_us)
        if len(flight.reached) < len(flight.path):
            heapq.heappush(events, (flight.reached[-1], number, index))


def steps(start: int, end: int, length: int) -> dict[bool, int]:
    """How many steps lead from start to end on a ring, by whether they go up: both ways if these are equally long."""
    up, down = (end - start) % length, (start - end) % length
    return {way: count for way, count in ((True, up), (False, down)) if 0 < count == min(up, down)}


def fly_ring(
    setting: Setting, kind: str, wishes: list[tuple[Any, int, int, int, float]], link_us: list[float]
) -> list[float]:
    """When each wish arrives on rings of one kind; wishes of the same key, ring and direction are one packet.

    A wish is (key, ring, place where it starts, place where it wants to be, release). On a tie the lower key is first.
    """
    length = setting.rows if kind == "column" else setting.cols
    near: dict[Any, int] = defaultdict(int)
    far: dict[Any, int] = defaultdict(int)
    flights = {}
    for key, ring, start, end, release in wishes:
        ways = steps(start, end, length)
        for up, count in ways.items():
            name = (key, ring, up)
            far[name] = max(far[name], count)
            if len(ways) == 1:
                near[name] = max(near[name], count)
            flights[name] = (start, release)
    flying = {}
    for name, (start, release) in flights.items():
        key, ring, up = name
        path = []
        for step in range(far[name]):
            place = (start + step) % length if up else (start - step) % length
            path.append((setting.edge(kind, ring, up, place), 1.0 if step < near[name] else 0.5))
        flying[name] = Flight(key, release, path)
    carry(list(flying.values()), link_us, setting.hop_us)
    arrived = []
    for key, ring, start, end, release in wishes:
        ways = steps(start, end, length)
        arrived.append(max([flying[key, ring, up].reached[count - 1] for up, count in ways.items()], default=release))
    return arrived


def fly_ports(
    setting: Setting, wishes: list[tuple[tuple[int, int], int, int, float]], link_us: list[float]
) -> list[float]:
    """When each wish arrives through ports; a wish is (key, device where it is, device it wants to reach, release)."""
    flights = []
    for key, start, end, release in wishes:
        slow = setting.links == "nodes" and start // setting.cols != end // setting.cols
        path = [(setting.port(start, False, slow), 1.0), (setting.port(end, True, slow), 1.0)]
        flights.append(Flight(key, release, path if start != end else []))
    carry(flights, link_us, setting.hop_us)
    return [flight.reached[-1] if flight.path else flight.release for flight in flights]


def dispatch(setting: Setting, pairs: dict[tuple[int, int], int], source: list[int]) -> dict[tuple[int, int], float]:
    """When the token of each pair, which is named by (token, choice), is at the device that serves the pair."""
    base = setting.dispatch_base
    rows_cols = {pair: divmod(slot // setting.depth, setting.cols) for pair, slot in pairs.items()}
    origins = {pair: setting.origin(source[pair[0]], slot // setting.depth) for pair, slot in pairs.items()}
    if setting.links != "rings":
        sent: dict[Any, tuple[tuple[int, int], int, int, float]] = {}
        keys = {pair: pair if setting.out_per_expert else (pair[0], rows_cols[pair]) for pair in pairs}
        for pair, key in keys.items():
            (row, col), (home, start) = rows_cols[pair], origins[pair]
            sent.setdefault(key, (pair, home * setting.cols + start, row * setting.cols + col, base))
        arrived = dict(zip(sent, fly_ports(setting, list(sent.values()), setting.out_us), strict=True))
        return {pair: arrived[keys[pair]] for pair in pairs}
    down = [((pair[0], 0), origins[pair][1], origins[pair][0], rows_cols[pair][0], base) for pair in pairs]
    there = fly_ring(setting, "column", down, setting.out_us)
    along = [
        ((pair[0], 0), rows_cols[pair][0], origins[pair][1], rows_cols[pair][1], time)
        for pair, time in zip(pairs, there, strict=True)
    ]
    return dict(zip(pairs, fly_ring(setting, "row", along, setting.out_us), strict=True))


def combine(
    setting: Setting, pairs: dict[tuple[int, int], int], source: list[int], finish: dict[tuple[int, int], float]
) -> list[float]:
    """When each result is back at the device that sent the token."""
    release: dict[Any, float] = {}
    first: dict[Any, tuple[int, int]] = {}
    for pair, slot in pairs.items():
        key = pair if setting.back_per_expert else (pair[0], slot // setting.depth)
        first.setdefault(key, pair)
        release[key] = max(release.get(key, 0.0), finish[pair] + setting.combine_base)
    results = [(first[key], pairs[first[key]] // setting.depth, time) for key, time in release.items()]
    homes = [setting.origin(source[key[0]], device) for key, device, _ in results]
    if setting.links != "rings":
        wishes = [
            (key, device, row * setting.cols + col, time)
            for (key, device, time), (row, col) in zip(results, homes, strict=True)
        ]
        return fly_ports(setting, wishes, setting.back_us)
    along = [
        (key, device // setting.cols, device % setting.cols, col, time)
        for (key, device, time), (_, col) in zip(results, homes, strict=True)
    ]
    there = fly_ring(setting, "row", along, setting.back_us)
    up = [
        (key, col, device // setting.cols, row, time)
        for (key, device, _), (row, col), time in zip(results, homes, there, strict=True)
    ]
    return fly_ring(setting, "column", up, setting.back_us)


def jobs_of_slot(
    setting: Setting, slot: int, queue: list[tuple[float, tuple[int, int]]]
) -> list[tuple[float, float, list[tuple[int, int]]]]:
    """The jobs of a slot as (ready, cost, pairs), in order of their first tokens; queue: (arrival, pair) in order."""
    if not queue:
        return [(setting.dispatch_base, setting.idle_us[slot], [])] if setting.idle_us[slot] else []
    groups: dict[int, list[tuple[float, tuple[int, int]]]] = defaultdict(list)
    for rank, (time, pair) in enumerate(queue):
        groups[setting.group(rank, pair[0])].append((time, pair))
    ready = [max(time for time, _ in group) for group in groups.values()]
    first = ready.index(min(ready))
    return [
        (ready[job], setting.first_us[slot] if job == first else setting.further_us, [pair for _, pair in group])
        for job, group in enumerate(groups.values())
    ]


def run_layer(setting: Setting, chosen: list[list[int]], source: list[int]) -> dict[str, Any]:
    """The figures of one batch by the names that `Overlap` has for them; chosen: flat slots, negative for none."""
    base = setting.dispatch_base
    pairs = {
        (token, choice): slot for token, slots in enumerate(chosen) for choice, slot in enumerate(slots) if slot >= 0
    }
    arrival = dispatch(setting, pairs, source)
    finish: dict[tuple[int, int], float] = {}
    waiting, busy, finished = [], [], base
    for device in range(setting.rows * setting.cols):
        jobs = []
        for slot in range(device * setting.depth, (device + 1) * setting.depth):
            queue = sorted((arrival[pair], pair) for pair, its in pairs.items() if its == slot)
            jobs += [
                (ready, slot, rank, cost, served)
                for rank, (ready, cost, served) in enumerate(jobs_of_slot(setting, slot, queue))
            ]
        waited, worked, free = 0.0, 0.0, 0.0
        for ready, _, _, cost, served in sorted(jobs):
            begun = max(free, ready)
            free = begun + cost * setting.slowdown[device]
            waited, worked, finished = waited + begun - ready, worked + free - begun, max(finished, free)
            finish |= dict.fromkeys(served, free)
        waiting.append(waited)
        busy.append(worked)
    home = combine(setting, pairs, source, finish)
    return {
        "arrived": max(arrival.values(), default=base),
        "finished": finished,
        "end": max([*home, finished, base + setting.combine_base]),
        "waiting": waiting,
        "busy": busy,
    }
