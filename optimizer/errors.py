"""The ways in which a run ends early: input that cannot be used, too little time, and a machine that cannot go on."""


class InputError(Exception):
    """Input that cannot be used, described in one sentence: which file, field or row, what was expected, what to do.

    field: the name of the parameter or option field at fault, such as `mesh`, where there is one; whoever asked for the
    input knows under which name the user gave it.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class OutOfTimeError(Exception):
    """The time was up before anything was complete."""


class LostWorkerError(Exception):
    """A worker process that was planning a layer has died."""
