"""Kernels that split expected loads over replicas: into shares, into a table by source, and into repeated entries.

load `[expert]` and loads `[source, expert]` are expected pairs of a batch, float64. start `[expert + 1]` and device
`[replica]` say where the replicas are: those of expert e have the numbers start[e]..start[e + 1] - 1, the replica's
device is device[replica]. heavy `[device]` float64 is working memory that holds the devices' expected loads at the end.
All results are changed in place, so that nothing is allocated while a server runs.
"""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel

MILLION = 1_000_000
"""Learned loads and shares are kept as whole millionths, which is the precision of a plan file, so that a plan that was
written and read back routes exactly as before."""


@kernel
def level(load: Floats, start: Ints, device: Ints, share: Floats, heavy: Floats, sweeps: int) -> None:
    """Change share `[replica]`, the part of its expert's pairs that each replica serves, towards level devices.

    Each expert in turn is split anew, so that the lightest of its devices rise to one level, which lowers the sum of
    squared device loads; where that sum is least the peak is least, too. Sweeps go forwards and backwards alternately.
    """
    heavy[:] = 0.0
    for expert in range(len(load)):
        for replica in range(start[expert], start[expert + 1]):
            heavy[device[replica]] += share[replica] * load[expert]
    for sweep in range(sweeps):
        for place in range(len(load)):
            expert = place if sweep % 2 == 0 else len(load) - 1 - place
            if load[expert] > 0 and start[expert + 1] - start[expert] > 1:
                _fill(load[expert], device[start[expert] : start[expert + 1]],
                      share[start[expert] : start[expert + 1]], heavy)  # fmt: skip


@kernel
def _fill(load: float, device: Ints, share: Floats, heavy: Floats) -> None:
    """Split one expert's load over its replicas; device and share `[replica]` are of this expert alone.

    The level is that of all its devices together; devices that are above it are left out, and the level of the others
    is found again, until all of them are below it.
    """
    for replica in range(len(device)):
        heavy[device[replica]] -= share[replica] * load
        share[replica] = 1.0
    while True:
        total, count = load, 0
        for replica in range(len(device)):
            if share[replica] > 0:
                total += heavy[device[replica]]
                count += 1
        goal, settled = total / count, True
        for replica in range(len(device)):
            if share[replica] > 0 and heavy[device[replica]] >= goal:
                share[replica], settled = 0.0, False
        if settled:
            break
    for replica in range(len(device)):
        if share[replica] > 0:
            share[replica] = (goal - heavy[device[replica]]) / load
            heavy[device[replica]] += share[replica] * load


@kernel
def add_sources(loads: Floats, load: Floats) -> None:
    """Fill load `[expert]` with the sums of loads `[source, expert]`."""
    load[:] = 0.0
    for source in range(len(loads)):
        for expert in range(len(load)):
            load[expert] += loads[source, expert]


@kernel
def count_shares(share: Floats, start: Ints, part: Ints, whole: Ints) -> None:
    """Fill part `[replica]` with shares in millionths, and whole `[expert]` with their sums, both int64; an expert all
    of whose shares are zero gets equal ones."""
    for expert in range(len(whole)):
        whole[expert] = 0
        for replica in range(start[expert], start[expert + 1]):
            part[replica] = np.int64(np.rint(share[replica] * MILLION))
            whole[expert] += part[replica]
        if whole[expert] == 0:
            part[start[expert] : start[expert + 1]] = 1
            whole[expert] = start[expert + 1] - start[expert]


@kernel
def assign(loads: Floats, start: Ints, device: Ints, table: Ints, heavy: Floats, sweeps: int) -> None:
    """Change table `[source, expert]`, the number of the replica that a source sends an expert's pairs to, towards
    level devices.

    Each (source, expert) in turn goes to the replica whose device is the lightest without it, the first of equal ones.
    """
    heavy[:] = 0.0
    sources, experts = loads.shape
    for source in range(sources):
        for expert in range(experts):
            heavy[device[table[source, expert]]] += loads[source, expert]
    for sweep in range(sweeps):
        for place in range(experts):
            expert = place if sweep % 2 == 0 else experts - 1 - place
            first, copies = start[expert], start[expert + 1] - start[expert]
            if copies == 2:
                _move_pairs(loads[:, expert], first, device[first], device[first + 1], table[:, expert], heavy)
            elif copies > 2:
                _move(loads[:, expert], first, device[first : first + copies], table[:, expert], heavy)


@kernel
def _move(load: Floats, first: int, device: Ints, choice: Ints, heavy: Floats) -> None:
    """Move one expert's pairs of each source in turn; load and choice `[source]` and device `[replica]` are of this
    expert, whose replicas have the numbers from `first` on."""
    for source in range(len(load)):
        heavy[device[choice[source] - first]] -= load[source]
        best = 0
        for replica in range(1, len(device)):
            if heavy[device[replica]] < heavy[device[best]]:
                best = replica
        heavy[device[best]] += load[source]
        choice[source] = first + best


@kernel
def _move_pairs(load: Floats, first: int, one: int, other: int, choice: Ints, heavy: Floats) -> None:
    """What `_move` does for an expert with two replicas, on devices `one` and `other`.

    Most experts that have replicas have two. There are no jumps here that depend on loads, which no processor foresees,
    and both sums are made while the loads are compared.
    """
    on_one, on_other = heavy[one], heavy[other]
    for source in range(len(load)):
        on_one -= load[source] if choice[source] == first else 0.0
        on_other -= load[source] if choice[source] != first else 0.0
        lighter = on_other < on_one
        with_one, with_other = on_one + load[source], on_other + load[source]
        on_one = on_one if lighter else with_one
        on_other = with_other if lighter else on_other
        choice[source] = first + lighter
    heavy[one], heavy[other] = on_one, on_other


@kernel
def repeat(part: Ints, whole: Ints, start: Ints, entries: Ints) -> None:
    """Fill entries `[expert, entry]` with numbers of replicas, each as often as its share asks, by largest remainders.

    part `[replica]` and whole `[expert]` are those of `static.whole_shares`: a replica's share is its part of the
    whole. So a server that takes an entry by a hash modulo their number gives each replica about its share. Of equal
    remainders that of the first replica counts as the largest.
    """
    many = entries.shape[1]
    for expert in range(len(entries)):
        first, last, filled = start[expert], start[expert + 1], 0
        for replica in range(first, last):
            for _ in range(part[replica] * many // whole[expert]):
                entries[expert, filled] = replica
                filled += 1
        while filled < many:
            best, most = first, np.int64(-1 << 62)
            for replica in range(first, last):
                had = np.count_nonzero(entries[expert, :filled] == replica)
                left = part[replica] * many - whole[expert] * had
                if left > most:
                    best, most = replica, left
            entries[expert, filled] = best
            filled += 1
