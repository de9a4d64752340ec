"""A caller who cancels at a chosen look, so that tests can end work at any moment without a clock."""


class CancelledAfter:
    """A `Limits.cancelled`: false at the first `looks` looks, true from then on; `looks_after` counts true answers."""

    def __init__(self, looks: int) -> None:
        self.left, self.looks_after = looks, 0

    def __call__(self) -> bool:
        """Whether the caller has cancelled by this look."""
        if self.left > 0:
            self.left -= 1
            return False
        self.looks_after += 1
        return True
