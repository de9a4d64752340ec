"""What is sent for the token-expert pairs of a batch: one message per (token, device) or per (token, expert)."""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel


@kernel
def list_messages(chosen: Ints, device_of: Ints, per_expert: bool) -> tuple[Ints, Ints, Ints]:
    """The messages of a batch, numbered in order of their first pairs: by token, then by place in its choices.

    chosen `[token, k]` flat slots, device_of `[slot]`. Returns the message of each pair `[token, k]`, -1 for a dropped
    pair, and the token and the device of each message, both `[message]`; all are int32.
    """
    tokens, k = chosen.shape
    message = np.full((tokens, k), -1, dtype=np.int32)
    token_of = np.empty(tokens * k, dtype=np.int32)
    device_at = np.empty(tokens * k, dtype=np.int32)
    latest = np.full(device_of.max() + 1, -1, dtype=np.int32)
    count = 0
    for token in range(tokens):
        own = count
        for choice in range(k):
            if chosen[token, choice] < 0:
                continue
            device = device_of[chosen[token, choice]]
            if per_expert or latest[device] < own:
                token_of[count], device_at[count] = token, device
                latest[device] = count
                count += 1
            message[token, choice] = latest[device]
    return message, token_of[:count], device_at[:count]


@kernel
def collect(message: Ints, time: Floats, count: int) -> Floats:
    """When each of `count` messages may leave, `[message]`: at the time of the last of its pairs.

    message (its number, negative for a dropped pair) and time `[token, k]`.
    """
    release = np.full(count, -np.inf)
    for token in range(message.shape[0]):
        for choice in range(message.shape[1]):
            number = message[token, choice]
            if number >= 0:
                release[number] = max(release[number], time[token, choice])
    return release


@kernel
def deliver(message: Ints, arrival: Floats, time: Floats) -> None:
    """Write the arrival `[message]` of each pair's message to time `[token, k]`; times of dropped pairs stay."""
    for token in range(message.shape[0]):
        for choice in range(message.shape[1]):
            if message[token, choice] >= 0:
                time[token, choice] = arrival[message[token, choice]]
