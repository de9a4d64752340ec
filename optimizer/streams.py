"""Random streams, each with a purpose: the same seed never gives two parts of the program the same random numbers."""

import hashlib
from enum import IntEnum, unique

import numpy as np

WORD = 1 << 32  # numpy's SeedSequence takes entropy in words of 32 bits
LARGEST = (1 << 64) - 1  # a part of a key takes two words


@unique
class Purpose(IntEnum):
    """What a stream is drawn for. A number that is in use is never given to another purpose, as plans would change."""

    # traces: which requests and batches, of which data sets
    SPLIT_REQUESTS = 1
    TRAIN_BATCHES = 2
    SELECTION_BATCHES = 3
    TEST_BATCHES = 4
    ALL_BATCHES = 5
    MIXED_DATA_SETS = 6
    # the generator of traces
    BUILTIN_LENGTHS = 20
    CORPUS_LENGTHS = 21
    DATA_SET_TOPIC = 22
    REQUEST_ROUTING = 23
    CALIBRATION_ROUTING = 24
    GATES = 25
    EXPERT_SHARES = 26
    TRAFFIC_DRIFT = 27
    # statistics
    BOOTSTRAP = 40
    SUMMARY_SEGMENTS = 41
    # what constructs placements, and what improves them
    RANDOM_PLACEMENT = 60
    QUICK_PLACEMENT = 61
    PARTITION = 62
    DESCENT = 63
    TABU = 64
    ANNEALING = 65
    NEIGHBOURHOODS = 66
    LATENCY_SEARCH = 67
    ARRANGEMENT = 68
    REPLICA_CURVES = 69
    DISPATCH_TABLE = 70
    RULE_SEARCH = 71
    REBALANCE = 72
    LEVELLED_ARRAYS = 73
    ROW_ASSIGNMENT = 74
    TIES = 75
    FEW_USERS = 76
    VARIOUS_USERS = 77
    # the seeds of exact models, of their solvers, restarts and descents
    LAYER_FORMULATION = 80
    CHOICE_OVER_DATA_SETS = 81
    REBALANCE_FORMULATION = 82
    # rivals and experiments
    RIVAL_RANDOM_PLACEMENT = 100
    ROW_BALANCE = 101
    LADDER_RANDOM_PLACEMENT = 102
    LADDER_DESCENT = 103
    LADDER_TABU = 104
    LADDER_ANNEALING = 105
    LADDER_OPTIMUM = 106


def random_stream(purpose: Purpose, *key: int) -> np.random.Generator:
    """The stream of a purpose for a key, such as the user's seed and a layer.

    Two streams have the same numbers only where both the purpose and the key are the same; the key (1,) is another one
    than (1, 0). Generators that a stream spawns are streams of their own. Raises ValueError for a part of the key that
    is negative or does not fit into 64 bits.
    """
    return np.random.default_rng(_sequence(purpose, key))


def derived_seed(purpose: Purpose, *key: int, bits: int = 31) -> int:
    """A seed from 0 to 2^bits - 1 for what seeds itself, of at most 64 bits; by default as CP-SAT takes it.

    Raises ValueError as `random_stream` does.
    """
    return int(_sequence(purpose, key).generate_state(1, np.uint64)[0]) >> (64 - bits)


def key_of_text(text: str) -> int:
    """A part of a key that stands for a name, such as a data set's: 64 bits of its BLAKE2 digest."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _sequence(purpose: Purpose, key: tuple[int, ...]) -> np.random.SeedSequence:
    """The entropy of a purpose and a key, from which both can be told.

    SeedSequence takes [s], [s, 0] and [s, 0, 0] for the same, and [2^32] for [0, 1]. Hence every part takes two words,
    and the number of parts, counted from 1 so that this word is never 0, comes before them.
    """
    words = [int(purpose), len(key) + 1]
    for part in key:
        if not 0 <= part <= LARGEST:
            raise ValueError(f"{part} cannot be part of a random stream's key; a seed is from 0 to 2^64 - 1")
        words += divmod(int(part), WORD)
    return np.random.SeedSequence(words)
