"""The one exception that means: what the user gave cannot be used."""


class InputError(Exception):
    """Bad input, said in one sentence: which file, field or row, what was expected, what to do."""
