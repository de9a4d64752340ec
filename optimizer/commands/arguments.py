"""What users write on the command line, as values."""

from decimal import Decimal

from optimizer.errors import InputError
from optimizer.planning.options import AUTO
from optimizer.routing.policies import POLICIES
from optimizer.traces.formats.sniff import Format

MOST_STEPS = 1000  # of a range
MOST_LAYERS = 10_000  # so that a slip of the keyboard does not make a list of billions


def format_named(name: str | None) -> Format | None:
    """The trace format of this name, None for none. Raises InputError that says which there are."""
    if name is None:
        return None
    try:
        return Format(name)
    except ValueError:
        raise InputError(f"--format '{name}' is not known; there are {', '.join(Format)}") from None


def row_users(text: str | None) -> tuple[int, ...] | None:
    """Numbers separated by commas, None for none. Raises InputError for anything else."""
    if text is None:
        return None
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise InputError(f"--row-users '{text}' is not a list of numbers; write one per mesh row, like 32,32,16,32")
    return tuple(int(part) for part in text.split(","))


def policy_names(text: str, most: int | None = None) -> list[str]:
    """The routing policies that a text names: one, several with commas between, or all; at most so many.

    Raises InputError for an unknown one, or for more.
    """
    names = list(POLICIES) if text == "all" else [name.strip() for name in text.split(",")]
    strange = [name for name in names if name not in POLICIES]
    if strange:
        raise InputError(f"--routing '{strange[0]}' is not known; there are {', '.join(POLICIES)}")
    if most is not None and len(names) > most:
        raise InputError(f"--routing '{text}' names {len(names)} policies; give one of {', '.join(POLICIES)}")
    return list(dict.fromkeys(names))


def routings_named(text: str) -> tuple[str, ...]:
    """The policies from which `solve` takes the best: those named, or `portfolio.AUTO`. Raises InputError."""
    return AUTO if text == "auto" else tuple(policy_names(text))


def spaced(option: str, text: str) -> list[float]:
    """Positive numbers FROM:TO:STEP, both ends included, or a single one. Raises InputError for anything else."""
    try:
        first, last, step = map(Decimal, text.split(":")) if ":" in text else (Decimal(text), Decimal(text), Decimal(1))
        count = int((last - first) / step) + 1
        if not (first > 0 and step > 0 and 1 <= count <= MOST_STEPS):
            raise ValueError
    except (ValueError, ArithmeticError):
        raise InputError(f"{option} '{text}' is no range; write FROM:TO:STEP, like 1.0:3.0:0.25") from None
    return [float(first + place * step) for place in range(count)]


def factors(text: str | None) -> dict[int, float]:
    """Slow-down factors by device from `3=1.5,7=2`. Raises InputError for anything else."""
    found = {}
    for part in text.split(",") if text else []:
        device, _, factor = part.strip().partition("=")
        try:
            found[int(device)] = float(factor)
        except ValueError:
            raise InputError(f"--slow '{text}': '{part}' is not DEVICE=FACTOR; write it like 3=1.5") from None
        if not 0 < found[int(device)] < 1e6:
            raise InputError(f"--slow '{text}': the factor of device {device} must be positive and below a million")
    return found


def devices(text: str | None) -> tuple[int, ...]:
    """Device numbers separated by commas, none for None. Raises InputError for anything else."""
    parts = text.split(",") if text else []
    if not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"--dead '{text}' is not a list of devices; write it like 3,17")
    return tuple(dict.fromkeys(int(part) for part in parts))


def layer_ids(text: str) -> list[int] | None:
    """Layer ids from `12`, `12,15`, `3-60` and mixtures of these; None for `all`. Raises InputError for others."""
    if text == "all":
        return None
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < MOST_LAYERS):
            raise InputError(f"layers '{text}' are none; write 12, or 12,15, or 3-60, or all")
        found += [layer for layer in range(int(first), int(last) + 1) if layer not in found]
    return found
