"""What `solve` found, for one layer or many, ready to be written and shown."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from optimizer.planning.plan_file import Plan


class Found(NamedTuple):
    """The plan, sentences that the user should read, the figures as JSON has them, what prints them, and which part of
    that is the plan. own: of several data sets each one's own plan; page: a picture, as HTML."""

    plan: "Plan"
    notes: list[str]
    figures: dict[str, Any]
    show: Callable[[], None]
    ending: str
    own: "dict[str, Plan]" = {}  # noqa: RUF012
    page: str = ""
