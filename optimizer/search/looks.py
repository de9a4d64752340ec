"""Moments at which a long search shows the best it has passed."""

from optimizer.search.stop import SearchBudget

LOOKS = 20  # moments at even shares of the budget, the last at its end; a compromise as in `chains`


class Looks:
    """Tells when to look, from its making on: by the iterations where they are limited, else by the time."""

    def __init__(self, budget: SearchBudget) -> None:
        self._budget = budget
        self._started = budget.deadline.elapsed()
        self._evaluations = budget.iterations
        self._shown = 0

    def share(self) -> float:
        """Share of the budget spent since this was made; 1 once there is nothing left to spend."""
        if self._budget.grant(1) == 0:
            return 1.0
        if self._evaluations is not None and self._budget.iterations is not None:
            return (self._evaluations - self._budget.iterations) / self._evaluations
        return (self._budget.deadline.elapsed() - self._started) / (self._budget.seconds - self._started)

    def due(self) -> bool:
        """Whether a look is due, which then counts as done."""
        reached = int(self.share() * LOOKS)
        due = reached > self._shown
        self._shown = max(reached, self._shown)
        return due
