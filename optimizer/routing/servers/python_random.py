"""Python's `random.Random` as kernels: the same numbers for the same seed, at the speed of compiled code.

A generator is an array `[WORDS + 1]` uint32, as `random.Random.getstate` gives it: the words of a Mersenne Twister
(Matsumoto and Nishimura, ACM TOMACS 8, 1998, MT19937) and the number of those that are used up. `sample` and `shuffle`
draw what those of Python 3.10 to 3.13 draw (Lib/random.py).
"""

import math
import random

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel

WORDS, MIDDLE = 624, 397  # the degree of recurrence and the middle word of MT19937
UPPER, LOWER = 0x80000000, 0x7FFFFFFF  # the bits that MT19937 takes of a word and of the next
TWIST = 0x9908B0DF  # the last row of MT19937's matrix
SMALL_POOL = 21  # the memory of a small set in Python's `sample`, which decides between its two ways of drawing


def generator(seed: int) -> Ints:
    """The state of `random.Random(seed)` before its first number, `[WORDS + 1]` uint32."""
    return np.array(random.Random(seed).getstate()[1], dtype=np.uint32)


@kernel
def word(state: Ints) -> int:
    """The next 32 random bits; the state `[WORDS + 1]` moves on."""
    if state[WORDS] >= WORDS:
        for place in range(WORDS):
            mixed = (state[place] & UPPER) | (state[(place + 1) % WORDS] & LOWER)
            odd = TWIST if mixed & 1 else 0
            state[place] = state[(place + MIDDLE) % WORDS] ^ (mixed >> 1) ^ odd
        state[WORDS] = 0
    found = int(np.int64(state[state[WORDS]]))
    state[WORDS] += 1
    found ^= found >> 11
    found ^= (found << 7) & 0x9D2C5680
    found ^= (found << 15) & 0xEFC60000
    return found ^ (found >> 18)


@kernel
def below(state: Ints, end: int) -> int:
    """A random number of 0..end - 1, for 1 <= end < 2^32: bits are drawn until they make such a number."""
    bits = 0
    while end >> bits:
        bits += 1
    found = word(state) >> (32 - bits)
    while found >= end:
        found = word(state) >> (32 - bits)
    return found


@kernel
def sample(state: Ints, items: Ints, count: int, into: Ints) -> None:
    """Write `count` distinct ones of the items `[item]`, in random order, into the first places of `into`."""
    total = len(items)
    room = SMALL_POOL
    if count > 5:  # then Python's set of so many numbers would be larger
        room += 4 ** math.ceil(math.log(count * 3) / math.log(4))
    if total <= room:
        pool = items.copy()
        for place in range(count):
            drawn = below(state, total - place)
            into[place] = pool[drawn]
            pool[drawn] = pool[total - place - 1]
        return
    taken = np.zeros(total, dtype=np.bool_)
    for place in range(count):
        drawn = below(state, total)
        while taken[drawn]:
            drawn = below(state, total)
        taken[drawn] = True
        into[place] = items[drawn]


@kernel
def shuffle(state: Ints, items: Ints) -> None:
    """Put the items `[item]` into random order, in place."""
    for place in range(len(items) - 1, 0, -1):
        drawn = below(state, place + 1)
        items[place], items[drawn] = items[drawn], items[place]
