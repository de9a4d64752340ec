"""What ends a run: input that cannot be used, or a machine that cannot go on."""


class InputError(Exception):
    """Bad input, said in one sentence: which file, field or row, what was expected, what to do."""


class LostWorkerError(Exception):
    """A process that was planning died."""
