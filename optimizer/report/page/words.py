"""How pages write figures, and what they call them; the names are those of the tables of `simulate`."""

MICROSECONDS = "us"


def us(value: float) -> str:
    """The text of a time in microseconds."""
    return f"{value:,.1f}"


def ratio(value: float) -> str:
    """The text of an imbalance, or of another number near 1."""
    return f"{value:.3f}"


def percent(share: float) -> str:
    """The text of a share in per cent."""
    return f"{share:.1%}"


def apart(value: float, other: float) -> str:
    """By how much of the other one value is below or above it, in words."""
    change = value / other - 1
    return f"{abs(change):.1%} {'below' if change <= 0 else 'above'}"
