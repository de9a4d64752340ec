"""How the portfolio shares its time out among searches."""

from dataclasses import dataclass, fields

from optimizer.errors import InputError


@dataclass(frozen=True)
class PortfolioShares:
    """Shares between 0 and 1 of the time, or of the iterations where these are limited, and two limits in seconds.

    seeds: of the time of seeds and searches, after which no further seed is judged. .4, so that policies that take long
        to judge leave time for a search; most take a tenth.
    even: of the time of all searches, what the search for even routing gets where another search runs as well. .3, a
        compromise: no measurement of it is recorded.
    latency: of the time for routing that follows the load, what the search that looks at links as well gets, where all
        tiles are won already; the rest anneals for balance. .9, raised from .6 when that search was kept to such cases.
    early: of the latency search's own time, after which it must have found something better or is given up. .5, raised
        from .2: the search is hot at first and loses before it gains.
    formulation: of the time left after the seeds, what the formulation gets, `formulation_seconds` at most. .1 and 5 s,
        a compromise: no measurement of it is recorded.
    finish: of the time limit, what is kept for writing, besides what bounding and judging were measured to take. .02,
        for a slow disk; not measured.
    partition_from: seconds of time limit from which the partition seed runs. 20, as it takes about one second, which a
        shorter search spends better.
    rows: of the time left after the seeds by loads, what the seed of row and column assignment may take where a user
        names it. .25, which is 15 s of a minute: 16 rows take up to 12 s and their columns 3 s.

    Raises InputError for a share outside 0..1 and for negative seconds.
    """

    seeds: float = 0.4
    even: float = 0.3
    latency: float = 0.9
    early: float = 0.5
    formulation: float = 0.1
    formulation_seconds: float = 5.0
    finish: float = 0.02
    partition_from: float = 20.0
    rows: float = 0.25

    def __post_init__(self) -> None:
        for each in fields(self):
            value, seconds = getattr(self, each.name), each.name in ("formulation_seconds", "partition_from")
            if not (value >= 0 if seconds else 0 <= value <= 1):
                wanted = "seconds are not negative" if seconds else "a share of the time lies between 0 and 1"
                raise InputError(f"{each.name} is {value}, but {wanted}", field=f"shares.{each.name}")


USUAL = PortfolioShares()
"""The shares that are taken where none are asked for."""
