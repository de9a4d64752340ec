"""Functions that read a text of the command line as a value.

Every function here raises InputError with the parameter's name and a sentence that says how to write the text.
"""

from decimal import Decimal

from optimizer.errors import InputError
from optimizer.routing.policies import POLICIES, check_policy
from optimizer.routing.servers.abilities import ANY, Server
from optimizer.traces.formats.sniff import Format

MOST_STEPS = 1000
"""The most values that a range may have: with more, its step is most likely a slip of the keyboard. Not tuned."""

MOST_LAYERS = 10_000
"""Layer ids lie below this number, which no model comes near: a slip of the keyboard would otherwise make a list of
billions."""

MOST_TOKENS = 1_000_000
"""Tokens of a batch lie below this number, which no server comes near: batches of more would not fit in memory."""


def format_named(name: str | None) -> Format | None:
    """The trace format of this name, or None where no name is given."""
    if name is None:
        return None
    try:
        return Format(name)
    except ValueError:
        raise InputError(f"'{name}' is not a known format; there are {', '.join(Format)}", "format") from None


def row_users(text: str | None) -> tuple[int, ...] | None:
    """The number of users in each mesh row, from numbers separated by commas; None where no text is given."""
    if text is None:
        return None
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise InputError(f"'{text}' is not a list of numbers; write one per mesh row, like 32,32,16,32", "row_users")
    return tuple(int(part) for part in text.split(","))


def policy_names(text: str, most: int | None = None) -> list[str]:
    """The routing policies that a text names: one, several with commas between, or `all`. A text with more than `most`
    policies is refused."""
    names = list(POLICIES) if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        check_policy(name)
    if most is not None and len(names) > most:
        raise InputError(f"'{text}' names {len(names)} policies; give one of {', '.join(POLICIES)}", "routing")
    return list(dict.fromkeys(names))


def routings_named(text: str, server: Server = ANY) -> tuple[str, ...]:
    """The policies among which `solve` chooses the best: those that the text names, or for `auto` those of the server,
    and the usual ones for any server."""
    from optimizer.planning.options import AUTO

    if text == "auto":
        return server.policies if server.own_rule else AUTO
    return tuple(server_policies(text, server))


def seeds_named(text: str | None) -> tuple[str, ...] | None:
    """The seeds that a text names, with commas between, each once; None where no text is given."""
    if text is None:
        return None
    return tuple(dict.fromkeys(name.strip() for name in text.split(",")))


def server_policies(text: str, server: Server) -> list[str]:
    """The policies that a text names, all of which the server must run; `all` names all that it runs."""
    named = list(server.policies) if text == "all" else policy_names(text)
    server.check(named)
    return named


def spaced(text: str) -> list[float]:
    """The positive numbers of a capacity range FROM:TO:STEP, with both ends where a step ends at TO; or the number
    itself, where the text is a single number."""
    try:
        first, last, step = map(Decimal, text.split(":")) if ":" in text else (Decimal(text), Decimal(text), Decimal(1))
        count = int((last - first) / step) + 1
        if not (first > 0 and step > 0 and 1 <= count <= MOST_STEPS):
            raise ValueError
    except (ValueError, ArithmeticError):
        raise InputError(f"'{text}' is not a range; write FROM:TO:STEP, like 1.0:3.0:0.25", "capacity_factor") from None
    return [float(first + place * step) for place in range(count)]


def slow_devices(text: str | None) -> dict[int, float]:
    """How many times slower each named device computes, from a text such as `3=1.5,7=2`; empty where no text is
    given."""
    found = {}
    for part in text.split(",") if text else []:
        device, _, factor = part.strip().partition("=")
        try:
            found[int(device)] = float(factor)
        except ValueError:
            raise InputError(f"'{text}': '{part}' is not DEVICE=FACTOR; write it like 3=1.5", "slow") from None
        if not 0 < found[int(device)] < 1e6:
            raise InputError(f"'{text}': the factor of device {device} must be positive and below a million", "slow")
    return found


def prices_named(text: str | None) -> dict[str, float]:
    """Microseconds by routing policy, from a text such as `optimal=40,weights=2`; empty where no text is given."""
    found = {}
    for part in text.split(",") if text else []:
        policy, _, price = part.strip().partition("=")
        check_policy(policy, "price")
        try:
            found[policy] = float(price)
        except ValueError:
            raise InputError(f"'{text}': '{part}' is not POLICY=US; write it like optimal=40", "price") from None
        if not 0 <= found[policy] < 1e6:
            raise InputError(f"'{text}': the price of {policy} must be 0 or more and below a million us", "price")
    return found


def dead_devices(text: str | None) -> tuple[int, ...]:
    """The device numbers in a text, separated by commas there, each once; empty where no text is given."""
    parts = text.split(",") if text else []
    if not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"'{text}' is not a list of devices; write it like 3,17", "dead")
    return tuple(dict.fromkeys(int(part) for part in parts))


def token_counts(text: str | None) -> list[int]:
    """The numbers of tokens in a text, with commas between, each once; empty where no text is given."""
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdecimal() and 0 < int(part) < MOST_TOKENS for part in parts):
        raise InputError(f"'{text}' is not a list of numbers of tokens; write it like 128,2048", "sizes")
    return list(dict.fromkeys(int(part) for part in parts))


def layer_ids(text: str) -> list[int] | None:
    """The layer ids that a text names, such as `12`, `12,15`, `3-60` or a mixture of these; None for `all`."""
    if text == "all":
        return None
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < MOST_LAYERS):
            raise InputError(f"'{text}' does not name layers; write 12, or 12,15, or 3-60, or all", "layer")
        found += [layer for layer in range(int(first), int(last) + 1) if layer not in found]
    return found
