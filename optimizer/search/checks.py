"""How settings of searches refuse a value that is out of range."""


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Raise ValueError with a sentence that names the field, its value and the rule, if the rule does not hold."""
    if not holds:
        raise ValueError(f"{name} is {value}; it has to be {rule}")
