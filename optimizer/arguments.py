"""What users write on the command line, as values."""

from optimizer.errors import InputError
from optimizer.traces.sniff import Format

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
